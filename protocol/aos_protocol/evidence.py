"""A job's evidence document, and the checks that anybody can make on it without trusting its source.

The document is what `GET /api/job/evidence/{job_id}` returns. Tickets and results are in it as the
signed frames that operators sent; everything else is either bound by a digest or a proof, or plain
testimony of the dispatcher, which no check relies on. `check_evidence` makes, in this order:

| id | what holds when it passes |
| --- | --- |
| AOS-JOB-1 | the job id is the digest of dispatcher, sequence and request |
| AOS-RECEIPT-1 | the dispatcher signed the receipt of exactly this request |
| AOS-SEED-1 | the seed is the dispatcher's VRF output on the job id |
| AOS-TICKET-1 | every ticket is its operator's own VRF output on seed and prompt, in a frame that it signed |
| AOS-COMMITTEE-1 | the committee follows from registry, tickets and tag; who was lost is replaced in the draw's order |
| AOS-RESULT-1 | every result is in a frame of its operator, with an EIP-712 signature over all that it binds |
| AOS-CLOCK-1 | tickets follow the draw, the dispatch follows the tickets, results follow the dispatch, and the end follows all |
| AOS-MODEL-1 | every result was made with the model file that the round names |
| AOS-COMPLETE-1 | a completed job has one result of every seated member of its committee |
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from aos_protocol import sortition
from aos_protocol.canonical import digest
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidClock, InvalidEvidence, InvalidMessage, ProtocolError
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import (
    Address,
    ClockMap,
    Draw,
    Hex32,
    JobResult,
    Message,
    ModelOffer,
    Position,
    Proof,
    PublicKey,
    Role,
    Signature,
    SubmitRequest,
    Tag,
    Ticket,
    parse_message,
)
from aos_protocol.sortition import Candidate
from aos_protocol.typed_data import Domain, ReceiptClaim
from aos_protocol.verification import (
    Terms,
    check_job_id,
    check_receipt,
    check_result,
    check_seed,
    check_ticket,
)

VERSION = "aos-evidence/1"
_FRAME_BYTES = 16 << 20


class DispatcherIdentity(Message):
    """Who vouches for the job, and the key that its seed is proven with."""

    address: Address
    public_key: PublicKey


class DomainDocument(Message):
    """The EIP-712 domain of receipt and results."""

    chain_id: int = Field(ge=0)
    registry: Address


class JobDocument(Message):
    """The request, its place in the sequence, and how the job stands."""

    job_id: Hex32
    sequence: int = Field(ge=1)
    request: dict[str, Any]
    request_digest: Hex32
    receipt: Signature
    status: Literal["created", "dispatched", "completed", "failed", "cancelled"]
    reason: str
    clock: ClockMap


class SeedDocument(Message):
    """The job's seed and its proof."""

    value: Hex32
    proof: Proof


class RegistryEntry(Message):
    """One operator's number and its `[start, end)` of the range."""

    operator: Address
    number: int = Field(ge=2)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class RegistryDocument(Message):
    """The registry as the draw saw it."""

    max_range: int = Field(ge=1)
    operators: list[RegistryEntry]


class ElectorDocument(Message):
    """An operator that was asked for a ticket: its signed reply, and why it does not count if it does not."""

    operator: Address
    frame: str | None
    reason: str


class SeatDocument(Message):
    """One seat of the committee, in the draw's order."""

    operator: Address
    role: Role
    filled: bool
    state: Literal["assigned", "answered", "refused", "lost"]
    reason: str


class RoundDocument(Message):
    """One dispatch of the job; what has not happened yet is null or empty."""

    verify_id: str
    tag: Tag
    position: Position
    model: ModelOffer
    status: str
    registry: RegistryDocument | None
    draw_clock: ClockMap | None
    electorate: list[ElectorDocument] | None
    dispatch_clock: ClockMap | None
    committee: list[SeatDocument]
    results: list[str]


class RejectionDocument(Message):
    """What an operator sent and was refused."""

    operator: Address
    reason: str
    frame: str


class Evidence(Message):
    """The whole document."""

    version: Literal["aos-evidence/1"]
    dispatcher: DispatcherIdentity
    domain: DomainDocument
    job: JobDocument
    seed: SeedDocument
    rounds: Annotated[list[RoundDocument], Field(min_length=1)]
    rejections: list[RejectionDocument]


@dataclass(frozen=True)
class Check:
    """One check's outcome; only `PASS` is a pass."""

    id: str
    status: Literal["PASS", "FAIL", "SKIP"]
    what: str


@dataclass(frozen=True)
class _Drawn:
    """A round's draw as far as it holds: tickets and candidates by operator."""

    tickets: Mapping[str, Ticket]
    candidates: Mapping[str, Candidate]


def check_evidence(document: object, *, dispatcher: str, job_id: str) -> list[Check]:
    """Check a document against the dispatcher and the job that the caller expects.

    Raises `InvalidEvidence` when it is not an evidence document of that job and dispatcher at all.
    """
    try:
        evidence = parse_message(Evidence, document)
        request = parse_message(SubmitRequest, evidence.job.request)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None
    if evidence.dispatcher.address != dispatcher:
        raise InvalidEvidence(
            f"this is evidence of dispatcher {evidence.dispatcher.address}, not of {dispatcher}"
        )
    if evidence.job.job_id != job_id:
        raise InvalidEvidence(f"this is evidence of job {evidence.job.job_id}, not of {job_id}")
    checker = _Checker(evidence, request)
    return [
        *checker.job_checks(),
        *(check for round_ in evidence.rounds for check in checker.round_checks(round_)),
    ]


def answers(document: object) -> list[JobResult]:
    """Return the results of an evidence document, read from their signed frames.

    Raises `InvalidEvidence` for what is no evidence document, `ProtocolError` for a bad frame.
    """
    try:
        evidence = parse_message(Evidence, document)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None
    return [_result(_open(text)) for round_ in evidence.rounds for text in round_.results]


class _Checker:
    def __init__(self, evidence: Evidence, request: SubmitRequest) -> None:
        self._evidence = evidence
        self._request = request
        self._domain = Domain(evidence.domain.chain_id, evidence.domain.registry)

    def job_checks(self) -> Iterator[Check]:
        """Check what the dispatcher alone vouches for: id, receipt, seed."""
        job, dispatcher, seed = self._evidence.job, self._evidence.dispatcher, self._evidence.seed
        yield _check(
            "AOS-JOB-1",
            f"job id binds sequence {job.sequence} and the request",
            lambda: check_job_id(job.job_id, dispatcher.address, job.sequence, job.request),
        )
        yield _check("AOS-RECEIPT-1", f"receipt signed by {dispatcher.address}", self._check_receipt)
        yield _check(
            "AOS-SEED-1",
            f"seed {seed.value[:16]}… proven by {dispatcher.address}",
            lambda: check_seed(dispatcher.address, dispatcher.public_key, job.job_id, seed.value, seed.proof),
        )

    def round_checks(self, round_: RoundDocument) -> Iterator[Check]:
        """Check one round's draw, committee and results; what has not happened yet is skipped, by name."""
        where = f" [{round_.tag} {round_.position}]" if round_.tag else ""
        names = (
            "AOS-TICKET-1",
            "AOS-COMMITTEE-1",
            "AOS-RESULT-1",
            "AOS-CLOCK-1",
            "AOS-MODEL-1",
            "AOS-COMPLETE-1",
        )
        if round_.electorate is None or round_.registry is None:
            for name in names:
                yield Check(
                    name,
                    "SKIP",
                    f"the round was not drawn: {self._evidence.job.reason or round_.status}{where}",
                )
            return
        counted = sum(not elector.reason for elector in round_.electorate)
        yield _check(
            names[0],
            f"{counted} tickets of {len(round_.electorate)} operators asked{where}",
            lambda: self._draw(round_),
        )
        chosen = ", ".join(seat.operator for seat in round_.committee)
        yield _check(
            names[1], f"committee recomputed: {chosen}{where}", lambda: self._check_committee(round_)
        )
        if not round_.results:
            for name in names[2:5]:
                yield Check(name, "SKIP", f"there is no result{where}")
        else:
            count = len(round_.results)
            yield _check(
                names[2],
                f"{count} results signed by their operators{where}",
                lambda: self._check_results(round_),
            )
            yield _check(
                names[3],
                f"clocks of {count} results in causal order{where}",
                lambda: self._check_clocks(round_),
            )
            yield _check(
                names[4],
                f"model {round_.model.name} {round_.model.sha256[:16]}…{where}",
                lambda: self._check_model(round_),
            )
        if self._evidence.job.status == "completed":
            yield _check(
                names[5], f"one result of each seated member{where}", lambda: self._check_complete(round_)
            )
        else:
            yield Check(
                names[5],
                "SKIP",
                f"the job is {self._evidence.job.status}: {self._evidence.job.reason}{where}",
            )

    def _check_receipt(self) -> None:
        job = self._evidence.job
        if digest(job.request) != job.request_digest:
            raise InvalidEvidence("the request's digest is not the one in the receipt")
        claim = ReceiptClaim(job.job_id, job.sequence, job.request_digest)
        check_receipt(self._evidence.dispatcher.address, self._domain, claim, job.receipt)

    def _draw(self, round_: RoundDocument) -> _Drawn:
        tickets: dict[str, Ticket] = {}
        candidates: dict[str, Candidate] = {}
        asked = [elector.operator for elector in round_.electorate or []]
        if len(asked) != len(set(asked)):
            raise InvalidEvidence("an operator is twice in the electorate")
        for elector in round_.electorate or []:
            if elector.reason:
                continue
            ticket = _ticket(elector)
            candidates[elector.operator] = check_ticket(
                ticket, self._call(round_, elector.operator), elector.operator
            )
            tickets[elector.operator] = ticket
        return _Drawn(tickets, candidates)

    def _call(self, round_: RoundDocument, operator: str) -> Draw:
        """Rebuild the call for tickets that this operator must have answered."""
        registered = {entry.operator: entry for entry in round_.registry.operators} if round_.registry else {}
        entry = registered.get(operator)
        return Draw(
            job_id=self._evidence.job.job_id,
            tag=round_.tag,
            position=round_.position,
            job_type=self._request.job.tag,
            model=round_.model,
            seed=self._evidence.seed.value,
            seed_proof=self._evidence.seed.proof,
            vrf_prompt_hash=self._request.job.prompt_hash(),
            range_start=entry.start if entry else 0,
            range_end=entry.end if entry else 0,
            clock=round_.draw_clock or {},
        )

    def _check_committee(self, round_: RoundDocument) -> None:
        if (round_.tag, round_.position) != (self._request.tag, "after" if self._request.tag else ""):
            raise InvalidEvidence("the round's tag and position are not the request's")
        _check_registry(round_.registry)
        ranking = sortition.rank(self._draw(round_).candidates.values())
        members = sortition.committee(ranking, sortition.committee_minimum(round_.tag))
        given_up = sum(seat.state in {"refused", "lost"} for seat in round_.committee)
        expected = [candidate.operator for candidate in ranking[: len(members) + given_up]]
        # The last replacement may still be on its way when the document is made.
        seated = [seat.operator for seat in round_.committee]
        if not len(members) <= len(seated) or seated != expected[: len(seated)]:
            raise InvalidEvidence(
                f"the committee is not the head of the draw, {', '.join(expected) or 'nobody'}"
            )
        if (
            round_.status in {"completed", "failed"}
            and self._evidence.job.status == "completed"
            and seated != expected
        ):
            raise InvalidEvidence(
                "a member that was given up was not replaced by the next in the draw's order"
            )
        for place, seat in enumerate(round_.committee):
            if seat.filled == ranking[place].selected:
                raise InvalidEvidence(f"{seat.operator} is not rightly marked as filled or selected")

    def _check_results(self, round_: RoundDocument) -> None:
        tickets = self._draw(round_).tickets
        seats = {seat.operator: seat for seat in round_.committee}
        terms = Terms(
            job_id=self._evidence.job.job_id,
            user=self._request.user,
            job=self._request.job,
            tag=round_.tag,
            position=round_.position,
            model_sha256=round_.model.sha256,
            dispatch_clock=round_.dispatch_clock or {},
        )
        for text in round_.results:
            frame = _open(text)
            result = _result(frame)
            if result.operator != frame.address:
                raise InvalidEvidence(f"a result of {result.operator} is in a frame of {frame.address}")
            if result.operator not in seats or result.operator not in tickets:
                raise InvalidEvidence(f"{result.operator} has a result, but no seat and ticket")
            check_result(result, terms, tickets[result.operator], seats[result.operator].role, self._domain)

    def _check_clocks(self, round_: RoundDocument) -> None:
        drawn, dispatched = _clock(round_.draw_clock), _clock(round_.dispatch_clock)
        tickets = self._draw(round_).tickets
        numbers = (
            {entry.operator: entry.number for entry in round_.registry.operators} if round_.registry else {}
        )
        if not dispatched.dominates(drawn):
            raise InvalidClock("the dispatch does not follow the draw")
        for text in round_.results:
            result = _result(_open(text))
            clock, ticket, number = (
                _clock(result.clock),
                tickets[result.operator].clock,
                numbers[result.operator],
            )
            if clock.get(number) <= _clock(ticket).get(number):
                raise InvalidClock(f"the result of {result.operator} does not follow its own ticket")
            if (
                not _clock(self._evidence.job.clock).dominates(clock)
                and self._evidence.job.status == "completed"
            ):
                raise InvalidClock(f"the end of the job does not follow the result of {result.operator}")

    def _check_model(self, round_: RoundDocument) -> None:
        if round_.model.name != self._request.job.model:
            raise InvalidEvidence(
                f"the round ran {round_.model.name}, the request asks for {self._request.job.model}"
            )
        for text in round_.results:
            result = _result(_open(text))
            said = (result.transcript or {}).get("model")
            if result.model != round_.model or said != round_.model.sha256:
                raise InvalidEvidence(f"{result.operator} ran {result.model.name} {said}")

    def _check_complete(self, round_: RoundDocument) -> None:
        answered = sorted(seat.operator for seat in round_.committee if seat.state == "answered")
        results = sorted(_result(_open(text)).operator for text in round_.results)
        if answered != results:
            raise InvalidEvidence("results and answered seats are not one to one")
        members = sortition.committee_minimum(round_.tag)
        ranking = sortition.rank(self._draw(round_).candidates.values())
        needed = len(sortition.committee(ranking, members))
        if len(results) != needed:
            raise InvalidEvidence(f"a completed job needs {needed} results, there are {len(results)}")


def _check(name: str, what: str, run: Callable[[], object]) -> Check:
    try:
        run()
    except ProtocolError as error:
        return Check(name, "FAIL", f"{what}: {error}")
    return Check(name, "PASS", what)


def _open(text: str) -> Frame:
    return open_frame(text, max_bytes=_FRAME_BYTES)


def _result(frame: Frame) -> JobResult:
    if frame.method != "job_result" or len(frame.params) != 1:
        raise InvalidEvidence("a result's frame is no job_result")
    return parse_message(JobResult, frame.params[0])


def _ticket(elector: ElectorDocument) -> Ticket:
    if elector.frame is None:
        raise InvalidEvidence(f"the ticket of {elector.operator} is missing")
    frame = _open(elector.frame)
    ticket = parse_message(Ticket, (frame.result or {}).get("ticket"))
    if not frame.address == ticket.operator == elector.operator:
        raise InvalidEvidence(
            f"the ticket of {elector.operator} is signed by {frame.address} for {ticket.operator}"
        )
    return ticket


def _check_registry(registry: RegistryDocument | None) -> None:
    """Raise unless the ranges are disjoint and inside the whole."""
    if registry is None or registry.max_range != sortition.MAX_RANGE:
        raise InvalidEvidence(f"the registry's range is not {sortition.MAX_RANGE}")
    end = 0
    for entry in sorted(registry.operators, key=lambda entry: entry.start):
        if not end <= entry.start <= entry.end <= registry.max_range:
            raise InvalidEvidence(f"the range of {entry.operator} overlaps another, or leaves the whole")
        end = entry.end
    if len({entry.operator for entry in registry.operators}) != len(registry.operators):
        raise InvalidEvidence("an operator is twice in the registry")


def _clock(entries: Mapping[str, str] | None) -> VectorClock:
    return VectorClock.from_map(dict(entries or {}))
