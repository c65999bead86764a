"""The checks that anybody can make on a job's evidence document without trusting where it came from.

Tickets and results are in the document as signed frames; everything else is either bound by a digest or
a proof, or plain testimony of the dispatcher, which is only held against the rest. `check_evidence` makes, in this order:

| id | what holds when it passes |
| --- | --- |
| AOS-JOB-1 | the job id is the digest of dispatcher, sequence and request |
| AOS-RECEIPT-1 | the dispatcher signed the receipt of exactly this request |
| AOS-SEED-1 | the seed is the dispatcher's VRF output on the job id |
| AOS-TICKET-1 | every ticket is its operator's own VRF output on seed and prompt, in a frame that it signed; no good one was set aside |
| AOS-COMMITTEE-1 | the committee follows from registry, tickets and tag; who was lost is replaced in the draw's order |
| AOS-RESULT-1 | every result is in a frame of its operator, with an EIP-712 signature over all that it binds |
| AOS-CLOCK-1 | tickets follow the draw, the dispatch follows the tickets, results follow the dispatch, and the end follows all |
| AOS-MODEL-1 | every result was made with the model file that the round names |
| AOS-COMPLETE-1 | a completed job has one result of each member that was not given up, and as many as its tag needs |
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from aos_protocol import sortition
from aos_protocol.canonical import digest
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidClock, InvalidEvidence, InvalidMessage, ProtocolError
from aos_protocol.evidence_document import ElectorDocument, Evidence, RoundDocument
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import Draw, JobResult, SubmitRequest, Ticket, parse_message
from aos_protocol.sortition import Candidate, Member
from aos_protocol.typed_data import Domain, ReceiptClaim
from aos_protocol.verification import (
    Terms,
    check_job_id,
    check_receipt,
    check_result,
    check_seed,
    check_ticket,
)

_FRAME_BYTES = 16 << 20
_GIVEN_UP = {"refused", "lost"}


@dataclass(frozen=True)
class Check:
    """One check's outcome; only `PASS` is a pass."""

    id: str
    status: Literal["PASS", "FAIL", "SKIP"]
    what: str


def check_evidence(document: object, *, dispatcher: str, job_id: str) -> list[Check]:
    """Check a document against the dispatcher and the job that the caller expects.

    Raises `InvalidEvidence` when it is not an evidence document of that job and dispatcher at all.
    """
    evidence = _read(document)
    if evidence.dispatcher.address != dispatcher:
        said = evidence.dispatcher.address
        raise InvalidEvidence(f"this is evidence of dispatcher {said}, not of {dispatcher}")
    if evidence.job.job_id != job_id:
        raise InvalidEvidence(f"this is evidence of job {evidence.job.job_id}, not of {job_id}")
    try:
        request = parse_message(SubmitRequest, evidence.job.request)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None
    checks = list(_job_checks(evidence))
    for round_ in evidence.rounds:
        checks.extend(_Round(evidence, request, round_).checks())
    return checks


def answers(document: object) -> list[JobResult]:
    """Return the results of an evidence document, read from their signed frames.

    Raises `InvalidEvidence` for what is no evidence document, other `ProtocolError`s for a bad frame.
    """
    return [_result(_open(text)) for round_ in _read(document).rounds for text in round_.results]


def _job_checks(evidence: Evidence) -> Iterator[Check]:
    """Check what the dispatcher alone vouches for: id, receipt, seed."""
    job, dispatcher, seed = evidence.job, evidence.dispatcher, evidence.seed

    def check_the_receipt() -> None:
        if digest(job.request) != job.request_digest:
            raise InvalidEvidence("the request's digest is not the one in the receipt")
        claim = ReceiptClaim(job.job_id, job.sequence, job.request_digest)
        check_receipt(dispatcher.address, _domain(evidence), claim, job.receipt)

    yield _check(
        "AOS-JOB-1",
        f"the job id binds sequence {job.sequence} and the request",
        lambda: check_job_id(job.job_id, dispatcher.address, job.sequence, job.request),
    )
    yield _check("AOS-RECEIPT-1", f"the receipt is signed by {dispatcher.address}", check_the_receipt)
    yield _check(
        "AOS-SEED-1",
        f"the seed {seed.value[:16]}… is proven by {dispatcher.address}",
        lambda: check_seed(dispatcher.address, dispatcher.public_key, job.job_id, seed.value, seed.proof),
    )


class _Round:
    """The checks of one round; tickets and results are verified once and kept."""

    def __init__(self, evidence: Evidence, request: SubmitRequest, document: RoundDocument) -> None:
        self._evidence = evidence
        self._request = request
        self._document = document
        self._completed = evidence.job.status == "completed"
        self._entries = (
            {entry.operator: entry for entry in document.registry.operators} if document.registry else {}
        )

    def checks(self) -> Iterator[Check]:
        """Make every check of the round; what has not happened yet is skipped, by name."""
        document = self._document
        where = f" [{document.tag} {document.position}]" if document.tag else ""
        asked, results = document.electorate or [], len(document.results)
        valid = sum(not elector.reason for elector in asked)
        seated = ", ".join(seat.operator for seat in document.committee)
        undrawn = (
            ""
            if document.registry and asked
            else f"no draw was held: {self._evidence.job.reason or document.status}"
        )
        unanswered = undrawn or ("" if results else "there is no result")
        unfinished = "" if self._completed else f"the job is {self._evidence.job.status}"
        table: list[tuple[str, str, str, Callable[[], object]]] = [
            (
                "AOS-TICKET-1",
                undrawn,
                f"{valid} good tickets of {len(asked)} operators asked",
                self._check_tickets,
            ),
            (
                "AOS-COMMITTEE-1",
                undrawn,
                f"the committee follows from the draw: {seated}",
                self._check_committee,
            ),
            (
                "AOS-RESULT-1",
                unanswered,
                f"{results} results are signed by their operators",
                self._check_results,
            ),
            (
                "AOS-CLOCK-1",
                unanswered,
                f"the clocks of {results} results are in causal order",
                self._check_clocks,
            ),
            (
                "AOS-MODEL-1",
                unanswered,
                f"the model is {document.model.name}, {document.model.sha256}",
                self._check_model,
            ),
            (
                "AOS-COMPLETE-1",
                unfinished,
                f"{results} results, one of each member that was not given up",
                self._check_complete,
            ),
        ]
        for name, missing, what, run in table:
            yield Check(name, "SKIP", missing + where) if missing else _check(name, what + where, run)

    @cached_property
    def _tickets(self) -> Mapping[str, tuple[Ticket, Candidate]]:
        """Every ticket that counts, verified, by operator."""
        electorate = self._document.electorate or []
        tickets = {elector.operator: self._verified(elector) for elector in electorate if not elector.reason}
        if len({elector.operator for elector in electorate}) != len(electorate):
            raise InvalidEvidence("an operator is twice in the electorate")
        return tickets

    @cached_property
    def _ranking(self) -> list[Candidate]:
        return sortition.rank(candidate for _, candidate in self._tickets.values())

    @cached_property
    def _members(self) -> list[Member]:
        """The committee as the draw made it, before anybody was replaced."""
        return sortition.committee(self._ranking, sortition.committee_minimum(self._document.tag))

    @cached_property
    def _results(self) -> list[JobResult]:
        return [_result(_open(text)) for text in self._document.results]

    def _check_tickets(self) -> None:
        for elector in self._document.electorate or []:
            if elector.reason and elector.frame is not None and self._is_good(elector):
                raise InvalidEvidence(
                    f"the good ticket of {elector.operator} was set aside: {elector.reason}"
                )
        if not self._tickets:
            raise InvalidEvidence("there is no good ticket")

    def _is_good(self, elector: ElectorDocument) -> bool:
        try:
            self._verified(elector)
        except ProtocolError:
            return False
        return True

    def _verified(self, elector: ElectorDocument) -> tuple[Ticket, Candidate]:
        ticket = _ticket(elector)
        return ticket, check_ticket(ticket, self._call(elector.operator), elector.operator)

    def _call(self, operator: str) -> Draw:
        """Rebuild the call for tickets that this operator must have answered."""
        document, entry = self._document, self._entries.get(operator)
        if entry is None:
            raise InvalidEvidence(f"{operator} was asked for a ticket, but is not in the registry")
        return Draw(
            job_id=self._evidence.job.job_id,
            tag=document.tag,
            position=document.position,
            job_type=self._request.job.tag,
            model=document.model,
            seed=self._evidence.seed.value,
            seed_proof=self._evidence.seed.proof,
            vrf_prompt_hash=self._request.job.prompt_hash(),
            range_start=entry.start,
            range_end=entry.end,
            clock=document.draw_clock or {},
        )

    def _check_committee(self) -> None:
        document = self._document
        if (document.tag, document.position) != (self._request.tag, "after" if self._request.tag else ""):
            raise InvalidEvidence("the round's tag and position are not the request's")
        self._check_registry()
        seats = document.committee
        given_up = sum(seat.state in _GIVEN_UP for seat in seats)
        expected = self._ranking[: len(self._members) + given_up]
        if [seat.operator for seat in seats] != [candidate.operator for candidate in expected[: len(seats)]]:
            raise InvalidEvidence("the seats are not the head of the draw, in its order")
        # While a job goes on, the last replacement may not be seated yet.
        if len(seats) < (len(expected) if self._completed else len(self._members)):
            raise InvalidEvidence("the committee is smaller than the draw made it")
        for seat, candidate in zip(seats, expected, strict=False):
            if seat.filled == candidate.selected:
                raise InvalidEvidence(f"{seat.operator} is not rightly marked as filled or selected")

    def _check_registry(self) -> None:
        """Raise unless the range is shared equally in the order of the operators' numbers, as without a chain it must be."""
        registry = self._document.registry
        if registry is None or registry.max_range != sortition.MAX_RANGE:
            raise InvalidEvidence(f"the registry's range is not {sortition.MAX_RANGE}")
        numbers = [entry.number for entry in registry.operators]
        if len(self._entries) != len(registry.operators) or numbers != sorted(set(numbers)):
            raise InvalidEvidence("an operator or a number is twice in the registry, or out of order")
        shares = [(entry.operator, entry.start, entry.end) for entry in registry.operators]
        if shares != sortition.equal_shares(list(self._entries)):
            raise InvalidEvidence("the registry does not give every operator the same share of the range")

    def _check_results(self) -> None:
        roles = {seat.operator: seat.role for seat in self._document.committee}
        terms = self._terms()
        for text, result in zip(self._document.results, self._results, strict=True):
            operator = _open(text).address
            if operator not in roles or operator not in self._tickets:
                raise InvalidEvidence(f"{operator} has a result, but no seat and ticket")
            check_result(result, terms, self._tickets[operator][0], roles[operator], _domain(self._evidence))

    def _terms(self) -> Terms:
        return Terms(
            job_id=self._evidence.job.job_id,
            user=self._request.user,
            job=self._request.job,
            tag=self._document.tag,
            position=self._document.position,
            model_sha256=self._document.model.sha256,
            dispatch_clock=self._document.dispatch_clock or {},
        )

    def _check_clocks(self) -> None:
        drawn, dispatched = _clock(self._document.draw_clock), _clock(self._document.dispatch_clock)
        ended = _clock(self._evidence.job.clock)
        if not dispatched.dominates(drawn):
            raise InvalidClock("the dispatch does not follow the draw")
        for operator, (ticket, _) in self._tickets.items():
            if _clock(ticket.clock).get(self._entries[operator].number) == 0:
                raise InvalidClock(f"the ticket of {operator} does not tick its own number")
        for member in self._members:
            if not dispatched.dominates(_clock(self._tickets[member.operator][0].clock)):
                raise InvalidClock(f"the dispatch does not follow the ticket of {member.operator}")
        for result in self._results:
            number = self._entries[result.operator].number
            clock, drawn = _clock(result.clock), _clock(self._tickets[result.operator][0].clock)
            if clock.get(number) <= drawn.get(number):
                raise InvalidClock(f"the result of {result.operator} does not follow its own ticket")
            if self._completed and not ended.dominates(clock):
                raise InvalidClock(f"the end of the job does not follow the result of {result.operator}")

    def _check_model(self) -> None:
        model = self._document.model
        if model.name != self._request.job.model:
            raise InvalidEvidence(f"the request asks for {self._request.job.model}")
        for result in self._results:
            said = (result.transcript or {}).get("model")
            if result.model != model or said != model.sha256:
                raise InvalidEvidence(f"{result.operator} ran {result.model.name}, {said}")

    def _check_complete(self) -> None:
        answered = sorted(seat.operator for seat in self._document.committee if seat.state == "answered")
        if answered != sorted(result.operator for result in self._results):
            raise InvalidEvidence("results and answered seats are not one to one")
        if any(seat.state == "assigned" for seat in self._document.committee):
            raise InvalidEvidence("a seat is still open")
        needed = min(sortition.committee_minimum(self._document.tag), len(self._members))
        if len(answered) < needed:
            raise InvalidEvidence(f"{needed} results are needed, there are {len(answered)}")


def _check(name: str, what: str, run: Callable[[], object]) -> Check:
    try:
        run()
    except ProtocolError as error:
        return Check(name, "FAIL", f"{what}: {error}")
    except KeyError as error:
        return Check(name, "FAIL", f"{what}: {error.args[0]} has no ticket or no place in the registry")
    return Check(name, "PASS", what)


def _read(document: object) -> Evidence:
    try:
        return parse_message(Evidence, document)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None


def _domain(evidence: Evidence) -> Domain:
    return Domain(evidence.domain.chain_id, evidence.domain.registry)


def _open(text: str) -> Frame:
    return open_frame(text, max_bytes=_FRAME_BYTES)


def _result(frame: Frame) -> JobResult:
    if frame.method != "job_result" or len(frame.params) != 1:
        raise InvalidEvidence("a result's frame is no job_result")
    result = parse_message(JobResult, frame.params[0])
    if result.operator != frame.address:
        raise InvalidEvidence(f"a result of {result.operator} is in a frame of {frame.address}")
    return result


def _ticket(elector: ElectorDocument) -> Ticket:
    if elector.frame is None:
        raise InvalidEvidence(f"the ticket of {elector.operator} is missing")
    frame = _open(elector.frame)
    ticket = parse_message(Ticket, (frame.result or {}).get("ticket"))
    if not frame.address == ticket.operator == elector.operator:
        signer = frame.address
        raise InvalidEvidence(f"the ticket of {elector.operator} is signed by {signer} for {ticket.operator}")
    return ticket


def _clock(entries: Mapping[str, str] | None) -> VectorClock:
    return VectorClock.from_map(dict(entries or {}))
