"""One round of an evidence document as its checks see it: everything signed is opened, verified once, and kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from aos_protocol import sortition
from aos_protocol.calibration import Calibration
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence_document import (
    ElectorDocument,
    Evidence,
    RegistryEntry,
    RoundDocument,
    SeatDocument,
    SeedDocument,
)
from aos_protocol.fields import EvidenceLevel, parse_message
from aos_protocol.frames import Frame, open_frame
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import Draw, JobResult, JobScore, Ticket
from aos_protocol.record import Record
from aos_protocol.score_document import Score
from aos_protocol.shown import Shown, digest_of, read_record, read_shown, unscorable
from aos_protocol.sortition import Candidate, Member
from aos_protocol.typed_data import Domain
from aos_protocol.verification import Terms, check_ticket

_FRAME_BYTES = 16 << 20
_GIVEN_UP = {"refused", "lost"}


@dataclass(frozen=True)
class Check:
    """One check's outcome; only `PASS` is a pass."""

    id: str
    status: Literal["PASS", "FAIL", "SKIP"]
    what: str


@dataclass(frozen=True)
class Planned:
    """A check that is to be made: when `missing` says what it would need and is not there, it is skipped."""

    id: str
    missing: str
    what: str
    run: Callable[[], object]

    def make(self, where: str = "") -> Check:
        """Make the check; every way in which a document breaks the protocol fails it, and nothing else does."""
        what = self.what + where
        if self.missing:
            return Check(self.id, "SKIP", self.missing + where)
        try:
            self.run()
        except ProtocolError as error:
            return Check(self.id, "FAIL", f"{what}: {error}")
        except KeyError as error:
            return Check(
                self.id, "FAIL", f"{what}: {error.args[0]} has no ticket or no place in the registry"
            )
        return Check(self.id, "PASS", what)


@dataclass(frozen=True)
class Subject:
    """What a round's verifiers score: a claim, or an answer with its operator, and the transcript or record that it comes with."""

    digest: str
    operator: str | None = None
    result: JobResult | None = None
    shown: Shown | None = None


class RoundView:
    """A round with its job. What it verifies raises `ProtocolError`, and `KeyError` for an operator without ticket or number."""

    def __init__(
        self,
        evidence: Evidence,
        request: SubmitRequest,
        document: RoundDocument,
        rounds: "Sequence[RoundView]",
    ) -> None:
        """`rounds` are the views of all rounds of the document, this one's among them once it is made."""
        self.evidence = evidence
        self.request = request
        self.document = document
        self.rounds = rounds
        self.verified_scores: list[Score] | None = None
        """What `evidence_work.scores_of` returned: three checks need it, and most of an audit's time is spent there."""
        self.entries: Mapping[str, RegistryEntry] = (
            {entry.operator: entry for entry in document.registry.operators} if document.registry else {}
        )

    @property
    def where(self) -> str:
        """Which round this is, to stand behind a check's text; nothing for an untagged job's own."""
        document = self.document
        if document.challenge:
            return f" [challenge {document.challenge}]"
        return f" [{document.tag} {document.position}]" if document.tag else ""

    @property
    def is_own(self) -> bool:
        """True for the round that the job ends with, rather than one that looks at it again."""
        return not self.document.challenge and self.document.position != "before"

    @property
    def executes(self) -> bool:
        """True when the round makes an answer of its own; claims and challenged results are only scored."""
        return not self.document.challenge and self.request.job.claim is None

    @property
    def sealed(self) -> bool:
        """True when only enclaves could read the prompt, and only the project can read the answer: nobody verifies it, then."""
        return self.request.job.sealed is not None

    @property
    def hidden(self) -> bool:
        """True when nobody but the executor could read the prompt, and only the project the answer: it was alone, then."""
        return self.request.job.hidden

    @property
    def status(self) -> str:
        """How far the round is: a job ends with its own round, others have a status of their own."""
        return self.evidence.job.status if self.is_own else self.document.status

    @property
    def ended(self) -> bool:
        """True once the round is completed."""
        return self.status == "completed"

    @property
    def undrawn(self) -> str:
        """Why there is no draw to check, or an empty text."""
        if self.document.registry and self.document.electorate:
            return ""
        return f"no draw was held: {self.evidence.job.reason or self.document.status}"

    @property
    def seed(self) -> SeedDocument:
        """The seed that the committee is drawn with: a challenge's own, or the job's."""
        if self.document.challenge and self.document.seed is not None:
            return self.document.seed
        return self.evidence.seed

    @property
    def registry_block(self) -> int:
        """The block of the chain that the registry was read at; 0 for a dispatcher's own registry."""
        registry = self.document.registry
        return registry.chain.block if registry is not None and registry.chain is not None else 0

    @property
    def audited(self) -> bool:
        """True when the job's seed chose it, though untagged, to be verified."""
        share = self.evidence.policy.audit_ppm
        untagged = not self.document.tag and not self.hidden
        return untagged and sortition.audited(bytes.fromhex(self.evidence.seed.value), share)

    @property
    def minimum(self) -> int:
        """How many members the committee has at least, if there are that many operators."""
        return sortition.committee_minimum(self.document.tag, audit=self.audited)

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain that the document names."""
        return domain_of(self.evidence)

    @cached_property
    def tickets(self) -> Mapping[str, tuple[Ticket, Candidate]]:
        """Every ticket that counts, verified, by operator."""
        electorate = self.document.electorate or []
        if len({elector.operator for elector in electorate}) != len(electorate):
            raise InvalidEvidence("an operator is twice in the electorate")
        return {elector.operator: self.verified(elector) for elector in electorate if not elector.reason}

    @cached_property
    def points(self) -> Mapping[str, int] | None:
        """What each of an electorate counts for, in its seed's order; None where all were asked that could be."""
        asked = {elector.operator for elector in self.document.electorate or []}
        shares = [(entry.operator, entry.start, entry.end) for entry in self.entries.values()]
        seed = bytes.fromhex(self.seed.value)
        return sortition.electorate_points(asked, sortition.Holders(shares), seed, self.document.tag)

    @cached_property
    def ranking(self) -> list[Candidate]:
        """The operators in the draw's order."""
        return sortition.rank((candidate for _, candidate in self.tickets.values()), self.points)

    @cached_property
    def members(self) -> list[Member]:
        """The committee as the draw made it, before anybody was replaced."""
        return sortition.committee(self.ranking, self.minimum, alone=self.hidden)

    @cached_property
    def results(self) -> list[JobResult]:
        """The answers, each from the frame that its operator signed."""
        return [open_result(text) for text in self.document.results]

    @cached_property
    def recorded(self) -> Mapping[str, str]:
        """What those answers show that have a record, by operator, to be told; what cannot be read is told by other checks."""
        try:
            shown = {result.operator: read_shown(result) for result in self.results}
        except ProtocolError:
            return {}
        return {
            operator: f"{record.level} ({record.backend})"
            for operator, record in shown.items()
            if isinstance(record, Record)
        }

    @property
    def unscorable(self) -> str:
        """Why nobody can score the answer that the round has made, so that its verifiers are sent home; empty where somebody may be able to."""
        try:
            records = [result.record for result in self._executed]
            return unscorable(read_record(records[0]), self.document.model) if any(records) else ""
        except ProtocolError:
            return ""

    @property
    def least(self) -> EvidenceLevel:
        """What the dispatcher wanted an answer to show at least, when the job was submitted: before it could say, a transcript."""
        return self.evidence.policy.least_evidence or "fingerprints"

    @cached_property
    def scores(self) -> list[JobScore]:
        """The scores, each from the frame that its verifier signed."""
        return [open_score(text) for text in self.document.scores]

    @cached_property
    def calibration(self) -> Calibration | None:
        """What the round says it is judged by; None for one that has none. Raises `ProtocolError`."""
        named = self.document.calibration
        for document in self.evidence.calibrations if named else []:
            calibration, digest = _calibration(json.dumps(document))
            if digest == named:
                return calibration
        if named:
            raise InvalidEvidence(f"the calibration {named}, by which the round is judged, is missing")
        return None

    @cached_property
    def signed_clock(self) -> VectorClock:
        """What the operators of this round have signed, all clocks merged."""
        clocks = [ticket.clock for ticket, _ in self.tickets.values()]
        clocks += [said.clock for said in self.results] + [said.clock for said in self.scores]
        merged = VectorClock()
        for clock in clocks:
            merged = merged.merge(clock_of(clock))
        return merged

    @property
    def executor(self) -> SeatDocument | None:
        """The seat that executes: the first in the draw's order that is not given up."""
        return (
            next((seat for seat in self.document.committee if not is_given_up(seat)), None)
            if self.executes
            else None
        )

    @property
    def verifiers(self) -> list[SeatDocument]:
        """The seats that score."""
        return [seat for seat in self.document.committee if seat.role == "verifier"]

    @property
    def has_subject(self) -> bool:
        """True once there is something to score: always for a claim or challenge, else when the executor has answered."""
        return not self.executes or bool(self._executed)

    @cached_property
    def subject(self) -> Subject:
        """What there is to score. Raises `InvalidEvidence` when the document does not hold it."""
        if self.document.challenge:
            if self.document.subject is None:
                raise InvalidEvidence("the challenged result is missing")
            return _answer(open_result(self.document.subject))
        if self.request.job.claim is not None:
            return Subject(self.request.job.claim.digest())
        if len(self._executed) != 1:
            raise InvalidEvidence("there is no one answer of the executor")
        return _answer(self._executed[0])

    @property
    def _executed(self) -> list[JobResult]:
        executor = self.executor
        return [result for result in self.results if executor and result.operator == executor.operator]

    def verified(self, elector: ElectorDocument) -> tuple[Ticket, Candidate]:
        """Return an elector's ticket and its place in the draw. Raises `ProtocolError` unless it is good."""
        ticket = _ticket(elector)
        return ticket, check_ticket(ticket, self._call(elector.operator), elector.operator)

    def terms(self) -> Terms:
        """Return what results and scores of this round are held against."""
        return Terms(
            job_id=self.evidence.job.job_id,
            user=self.request.user,
            job=self.request.job,
            seed=self.evidence.seed.value,
            tag=self.document.tag,
            position=self.document.position,
            model_sha256=self.document.model.sha256,
            dispatch_clock=self.document.dispatch_clock or {},
            dispatcher=self.evidence.dispatcher.address,
            challenge=self.document.challenge,
            challenge_seed=self.seed.value,
            registry_block=self.registry_block,
        )

    def _call(self, operator: str) -> Draw:
        """Rebuild the call for tickets that this operator must have answered."""
        document, entry = self.document, self.entries.get(operator)
        if entry is None:
            raise InvalidEvidence(f"{operator} was asked for a ticket, but is not in the registry")
        return Draw(
            job_id=self.evidence.job.job_id,
            tag=document.tag,
            position=document.position,
            challenge=document.challenge,
            job_type=self.request.job.tag,
            model=document.model,
            seed=self.seed.value,
            seed_proof=self.seed.proof,
            vrf_prompt_hash=self.request.job.prompt_hash(),
            range_start=entry.start,
            range_end=entry.end,
            registry_block=self.registry_block,
            clock=document.draw_clock or {},
        )


@lru_cache(maxsize=16)
def _calibration(text: str) -> tuple[Calibration, str]:
    """A calibration and its digest. Most jobs of a model share one, and its families take longer to make than all signatures to verify."""
    calibration = Calibration.from_json(json.loads(text))
    return calibration, calibration.digest()


def is_given_up(seat: SeatDocument) -> bool:
    """True for a seat whose holder refused or was lost, so that another took its place."""
    return seat.state in _GIVEN_UP


def domain_of(evidence: Evidence) -> Domain:
    """Return the EIP-712 domain that a document names."""
    return Domain(evidence.domain.chain_id, evidence.domain.registry)


def clock_of(entries: Mapping[str, str] | None) -> VectorClock:
    """Read a clock; one that is missing is empty."""
    return VectorClock.from_map(dict(entries or {}))


def open_result(text: str) -> JobResult:
    """Read a result from its operator's signed frame. Raises `ProtocolError`."""
    frame = open_any(text)
    result = parse_message(JobResult, _parameter(frame, "job_result"))
    if result.operator != frame.address:
        raise InvalidEvidence(f"a result of {result.operator} is in a frame of {frame.address}")
    return result


def open_score(text: str) -> JobScore:
    """Read a score from its verifier's signed frame. Raises `ProtocolError`."""
    frame = open_any(text)
    score = parse_message(JobScore, _parameter(frame, "job_score"))
    if score.operator != frame.address:
        raise InvalidEvidence(f"a score of {score.operator} is in a frame of {frame.address}")
    return score


def open_any(text: str) -> Frame:
    """Open a signed frame as an operator sent it, whatever it says. Raises `ProtocolError`."""
    return open_frame(text, max_bytes=_FRAME_BYTES)


def _parameter(frame: Frame, method: str) -> object:
    if frame.method != method or len(frame.params) != 1:
        raise InvalidEvidence(f"a frame of {frame.address} is no {method}")
    return frame.params[0]


def _answer(result: JobResult) -> Subject:
    shown = read_shown(result)
    if shown is None:
        raise InvalidEvidence(f"the answer of {result.operator} has neither a transcript nor a record")
    return Subject(digest_of(shown), result.operator, result, shown)


def _ticket(elector: ElectorDocument) -> Ticket:
    if elector.frame is None:
        raise InvalidEvidence(f"the ticket of {elector.operator} is missing")
    frame = open_any(elector.frame)
    ticket = parse_message(Ticket, (frame.result or {}).get("ticket"))
    if not frame.address == ticket.operator == elector.operator:
        signer = frame.address
        raise InvalidEvidence(f"the ticket of {elector.operator} is signed by {signer} for {ticket.operator}")
    return ticket
