"""A round in memory: the facts of its job, its tickets, and the committee that works on it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from aos_dispatcher.committee import Committee, Patience, Seat, SeatState
from aos_dispatcher.rounds_store import Claimed
from aos_dispatcher.tables import JsonObject
from aos_protocol import sortition
from aos_protocol.frames import open_frame
from aos_protocol.messages import (
    Dispatch,
    JobResult,
    ModelOffer,
    Position,
    Role,
    SubmitRequest,
    Tag,
    Ticket,
    parse_message,
)
from aos_protocol.sortition import Candidate, Member
from aos_protocol.verification import Terms


@dataclass(frozen=True)
class RoundFacts:
    """What is fixed about a round before its draw."""

    round_id: int
    job_id: str
    tag: Tag
    position: Position
    request: SubmitRequest
    body: JsonObject
    sequence: int
    request_digest: str
    receipt: str
    seed: str
    seed_proof: str
    model: ModelOffer
    prompt_hash: str
    clock: Mapping[str, str]
    deadline: float

    @classmethod
    def from_row(cls, row: Row[Any]) -> "RoundFacts":
        """Read a row of `RoundsStore.claim`; `deadline` becomes monotonic seconds of this process."""
        request = parse_message(SubmitRequest, row.request)
        left = (row.deadline - datetime.now(UTC)).total_seconds()
        return cls(
            round_id=row.id,
            job_id=row.job_id,
            tag=row.tag,
            position=row.position,
            request=request,
            body=row.request,
            sequence=row.sequence,
            request_digest=row.request_digest,
            receipt=row.receipt,
            seed=row.seed,
            seed_proof=row.seed_proof,
            model=ModelOffer(name=row.model, sha256=row.model_sha256),
            prompt_hash=request.job.prompt_hash(),
            clock=row.clock,
            deadline=time.monotonic() + left,
        )


@dataclass
class ActiveRound:
    """A round that was drawn: everything needed to dispatch it and to verify its results."""

    facts: RoundFacts
    ranges: Mapping[str, tuple[int, int]]
    tickets: Mapping[str, Ticket]
    dispatch_clock: dict[str, str]
    committee: Committee
    stored: int
    heard: list[dict[str, str]] = field(default_factory=list)
    poke: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def seat_of(self, operator: str) -> Seat | None:
        """Return the operator's seat, if it ever had one."""
        return next((seat for seat in self.committee.seats if seat.operator == operator), None)

    def role_of(self, operator: str) -> Role:
        """Return the role of a member: until results are scored, every member executes."""
        if self.seat_of(operator) is None:
            raise KeyError(operator)
        return "executor"

    def terms(self) -> Terms:
        """Return what a result of this round is held against."""
        facts = self.facts
        return Terms(
            job_id=facts.job_id,
            user=facts.request.user,
            job=facts.request.job,
            tag=facts.tag,
            position=facts.position,
            model_sha256=facts.model.sha256,
            dispatch_clock=self.dispatch_clock,
        )

    def dispatch_to(self, operator: str) -> JsonObject:
        """Return `dispatch_job`'s parameter for a member; the job is the JSON that the project sent."""
        facts = self.facts
        start, end = self.ranges[operator]
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
            role=self.role_of(operator),
            model=facts.model,
        )
        return {**message.to_json(), "job": facts.body["job"]}


def assignment_rows(members: Sequence[Member], first_rank: int = 0) -> list[JsonObject]:
    """Return committee members as `RoundsStore` stores them."""
    return [
        {"operator": member.operator, "rank": rank, "role": "executor", "filled": member.filled}
        for rank, member in enumerate(members, start=first_rank)
    ]


def restore(facts: RoundFacts, claimed: Claimed, patience: Patience) -> ActiveRound:
    """Rebuild a round that another process drew, from what it stored: nothing is drawn twice."""
    row = claimed.row
    ranges = {entry["operator"]: (entry["start"], entry["end"]) for entry in claimed.registry["operators"]}
    tickets = {}
    for answer in row.electorate:
        if answer["frame"] and not answer["reason"]:
            reply = open_frame(answer["frame"], max_bytes=4 * len(answer["frame"])).result or {}
            tickets[answer["operator"]] = parse_message(Ticket, reply["ticket"])
    candidates = {
        operator: Candidate(
            operator,
            sortition.ticket_value(bytes.fromhex(ticket.vrf.vrf_random_value)),
            sortition.ticket_threshold(*ranges[operator], facts.tag, facts.position),
        )
        for operator, ticket in tickets.items()
    }
    # A seat that is still open has its end yet to be stored.
    seated = [
        Seat(
            Member(candidates[seat.operator], seat.filled),
            SeatState(seat.state),
            seat.reason,
            stored=SeatState(seat.state) is not SeatState.ASSIGNED,
        )
        for seat in claimed.seats
    ]
    taken = {seat.operator for seat in seated}
    reserves = [c for c in sortition.rank(candidates.values()) if c.operator not in taken]
    minimum = min(sortition.committee_minimum(facts.tag), row.size)
    committee = Committee(row.size, minimum, seated, reserves, patience, facts.deadline)
    heard = [stored_result(frame).clock for frame in claimed.answers]
    return ActiveRound(facts, ranges, tickets, row.dispatch_clock, committee, len(seated), heard)


def stored_result(frame: str) -> JobResult:
    """Read a result back from the frame that was stored; its signature is checked once more."""
    return parse_message(JobResult, open_frame(frame, max_bytes=4 * len(frame)).params[0])
