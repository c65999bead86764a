"""A round in memory: its tickets, its committee, and what was said so far."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from aos_dispatcher.committee import Committee, Patience, Seat, SeatState
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.operators import block_of
from aos_dispatcher.reading import Told
from aos_dispatcher.rounds_store import Claimed
from aos_dispatcher.tables import JsonObject
from aos_protocol import sortition
from aos_protocol.calibration import Calibration
from aos_protocol.clock import VectorClock
from aos_protocol.fields import Role, parse_message
from aos_protocol.frames import open_frame
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, JobResult, JobScore, ScoreCall, Session, Ticket
from aos_protocol.shown import Shown, digest_of, read_record, read_shown, unscorable
from aos_protocol.sortition import Candidate, Member
from aos_protocol.typed_data import Domain, SeatClaim, sign_typed
from aos_protocol.verification import Terms


@dataclass(frozen=True)
class Author:
    """This dispatcher, and the EIP-712 domain that it signs in."""

    signer: Signer
    domain: Domain


@dataclass(frozen=True)
class Answer:
    """An accepted result: the frame that its operator signed, and what is in it."""

    frame: str
    said: JobResult


@dataclass(frozen=True)
class Subject:
    """What verifiers score, by digest: an operator's answer with what it comes with, or the job's claim, which has no operator or frame."""

    digest: str
    operator: str | None
    frame: str | None
    clock: Mapping[str, str]
    shown: Shown | None


@dataclass
class ActiveRound:
    """A round that was drawn: everything needed to call its members, and to verify what they say.

    `answers` are by operator; `heard` are the clocks of all that was accepted, `told` is what its executor has streamed. It is `unsure` when the database went away while something was
    stored: then only the database knows whether it was. The `session` of a direct job is what its client was given: nobody but that operator can
    answer it any more.
    """

    facts: RoundFacts
    author: Author
    registry_block: int
    ranges: Mapping[str, tuple[int, int]]
    tickets: Mapping[str, Ticket]
    dispatch_clock: dict[str, str]
    committee: Committee
    calibration: Calibration | None
    answers: dict[str, Answer] = field(default_factory=dict)
    heard: list[dict[str, str]] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    session: Session | None = None
    poke: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    unsure: bool = False
    _subject: Subject | None = None

    def seat_of(self, operator: str) -> Seat | None:
        """Return the operator's seat, if it ever had one."""
        return next((seat for seat in self.committee.seats if seat.operator == operator), None)

    def subject(self) -> Subject | None:
        """Return what there is to score; None until the executor has answered."""
        if self._subject is None:
            self._subject = self._find_subject()
        return self._subject

    def _find_subject(self) -> Subject | None:
        claim, challenged = self.facts.request.job.claim, self.facts.subject_frame
        if challenged is not None:
            return _subject_of(Answer(challenged, stored_result(challenged)))
        if claim is not None:
            return Subject(claim.digest(), None, None, {}, None)
        executor = self.committee.executor
        if executor is None or executor.state is not SeatState.ANSWERED:
            return None
        return _subject_of(self.answers[executor.operator])

    def unscorable(self) -> str:
        """Return why nobody can score the executor's answer; an empty text while there is none, and for one that somebody may be able to."""
        executor = self.committee.executor
        if executor is None or executor.state is not SeatState.ANSWERED:
            return ""
        said = self.answers[executor.operator].said
        return "" if said.record is None else unscorable(read_record(said.record), self.facts.model)

    def unscored(self) -> str:
        """Return what a verdict without any score says: why nobody can score the answer, or why who was asked to did not."""
        gone = [seat.reason for seat in self.committee.seats if seat.role == "verifier" and seat.reason]
        return self.unscorable() or (f"nobody has scored: {gone[0]}" if gone else "")

    def terms(self, seen: Mapping[str, str] | None = None) -> Terms:
        """Return what a result, or a score of a subject with the clock `seen`, is held against."""
        facts = self.facts
        return Terms(
            job_id=facts.job_id,
            user=facts.request.user,
            job=facts.request.job,
            seed=facts.job_seed,
            tag=facts.tag,
            position=facts.position,
            model_sha256=facts.model.sha256,
            dispatch_clock=_merged(self.dispatch_clock, seen or {}),
            dispatcher=self.author.signer.address,
            challenge=facts.challenge,
            challenge_seed=facts.seed,
            registry_block=self.registry_block,
        )

    def dispatch_to(self, seat: Seat, session: Session | None = None) -> JsonObject:
        """Return `dispatch_job`'s parameter for a member; the job is the JSON that the project sent, with the session of a direct one."""
        facts = self.facts
        start, end = self.ranges[seat.operator]
        message = Dispatch(
            user=facts.request.user,
            seed=facts.seed,
            tag=facts.tag,
            position=facts.position,
            signature=facts.receipt,
            clock=self.dispatch_clock,
            job_id=facts.job_id,
            job=facts.request.job,
            sequence=facts.sequence,
            request_digest=facts.request_digest,
            seed_proof=facts.seed_proof,
            range_start=start,
            range_end=end,
            registry_block=self.registry_block,
            role=seat.role,
            seat=self._signed(seat),
            model=facts.model,
            session=session,
        )
        return {**message.to_json(), "job": facts.body["job"]}

    def _signed(self, seat: Seat) -> str:
        facts = self.facts
        claim = SeatClaim(
            facts.job_id, seat.operator, seat.role, facts.tag, facts.position, self.registry_block
        )
        return sign_typed(self.author.signer, self.author.domain, claim)

    def score_call_to(self, seat: Seat, subject: Subject, clock: dict[str, str]) -> JsonObject:
        """Return `score_job`'s parameter for a verifier, at this clock."""
        facts = self.facts
        start, end = self.ranges[seat.operator]
        message = ScoreCall(
            user=facts.request.user,
            seed=facts.seed,
            seed_proof=facts.seed_proof,
            job_seed=facts.job_seed,
            job_seed_proof=facts.job_seed_proof,
            tag=facts.tag,
            position=facts.position,
            challenge=facts.challenge,
            signature=facts.receipt,
            clock=clock,
            job_id=facts.job_id,
            job=facts.request.job,
            sequence=facts.sequence,
            request_digest=facts.request_digest,
            range_start=start,
            range_end=end,
            model=facts.model,
            subject=subject.frame,
        )
        return {**message.to_json(), "job": facts.body["job"], "subject": subject.frame}


def _subject_of(answer: Answer) -> Subject:
    said = answer.said
    shown = read_shown(said)
    return Subject(digest_of(shown), said.operator, answer.frame, said.clock, shown)


def _merged(clock: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    return VectorClock.from_map(dict(clock)).merge(VectorClock.from_map(dict(other))).to_map()


def restore(facts: RoundFacts, claimed: Claimed, patience: Patience, author: Author) -> ActiveRound:
    """Rebuild a round that another process drew, from what it stored: nothing is drawn twice."""
    row = claimed.row
    ranges = {entry["operator"]: (entry["start"], entry["end"]) for entry in claimed.registry["operators"]}
    tickets = {}
    for answer in row.electorate:
        if answer["frame"] and not answer["reason"]:
            reply = open_frame(answer["frame"], max_bytes=4 * len(answer["frame"])).result or {}
            tickets[answer["operator"]] = parse_message(Ticket, reply["ticket"])
    answers = {}
    for frame in claimed.answers:
        said = stored_result(frame)
        answers[said.operator] = Answer(frame, said)
    heard = [answer.said.clock for answer in answers.values()]
    heard += [stored_score(frame).clock for frame in claimed.scores]
    committee = _seated(facts, claimed, _candidates(facts, tickets, ranges), set(answers), patience)
    session = None if row.session is None else parse_message(Session, row.session["session"])
    if session is not None:
        committee.bind()
    return ActiveRound(
        facts=facts,
        author=author,
        registry_block=block_of(claimed.registry),
        ranges=ranges,
        tickets=tickets,
        dispatch_clock=row.dispatch_clock,
        committee=committee,
        session=session,
        calibration=claimed.calibration,
        answers=answers,
        heard=heard,
    )


def _candidates(
    facts: RoundFacts, tickets: Mapping[str, Ticket], ranges: Mapping[str, tuple[int, int]]
) -> dict[str, Candidate]:
    return {
        operator: Candidate(
            operator,
            sortition.ticket_value(bytes.fromhex(ticket.vrf.vrf_random_value)),
            sortition.ticket_threshold(*ranges[operator], facts.tag, facts.position),
        )
        for operator, ticket in tickets.items()
    }


def _seated(
    facts: RoundFacts,
    claimed: Claimed,
    candidates: Mapping[str, Candidate],
    executed: set[str],
    patience: Patience,
) -> Committee:
    size = claimed.row.size
    seats = []
    for row in claimed.seats:
        state = SeatState(row.state)
        # Who executes among those still open follows from the draw's order, as it did before.
        role: Role = "verifier" if state is SeatState.ASSIGNED else row.role
        seat = Seat(Member(candidates[row.operator], row.filled), role, state, row.reason)
        seat.executed, seat.stored = row.operator in executed, (state, row.role)
        seats.append(seat)
    taken = {seat.operator for seat in seats}
    ranking = sortition.rank(candidates.values(), _points(facts, claimed))
    reserves = [candidate for candidate in ranking if candidate.operator not in taken]
    return Committee(size, facts.plan(size), seats, reserves, patience, facts.deadline)


def _points(facts: RoundFacts, claimed: Claimed) -> dict[str, int] | None:
    operators = claimed.registry["operators"]
    holders = sortition.Holders((entry["operator"], entry["start"], entry["end"]) for entry in operators)
    asked = [elector["operator"] for elector in claimed.row.electorate]
    return sortition.electorate_points(asked, holders, bytes.fromhex(facts.seed), facts.tag)


def stored_result(frame: str) -> JobResult:
    """Read a result back from the frame that was stored; its signature is checked once more."""
    return parse_message(JobResult, open_frame(frame, max_bytes=4 * len(frame)).params[0])


def stored_score(frame: str) -> JobScore:
    """Read a score back from the frame that was stored; its signature is checked once more."""
    return parse_message(JobScore, open_frame(frame, max_bytes=4 * len(frame)).params[0])
