"""The life of a committee after its draw: a state machine without I/O.

`Committee.step` says what to do now: whom to dispatch to, whether the round is over, and when to ask
again. The driver in `rounds` performs it and reports what happened; tests step it by hand.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from aos_protocol.sortition import Candidate, Member


class SeatState(StrEnum):
    """Where one seat stands. Only `assigned` is still open."""

    ASSIGNED = "assigned"
    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"


@dataclass
class Seat:
    """One place on a committee and who holds it; times are the driver's monotonic seconds.

    `receiving` is set while a verified result is being stored: until then the seat is neither given up
    nor answered. `stored` is the driver's own note that the database knows.
    """

    member: Member
    state: SeatState = SeatState.ASSIGNED
    reason: str = ""
    sent: bool = False
    receiving: bool = False
    stored: bool = False
    sent_at: float | None = None
    away_since: float | None = None

    @property
    def operator(self) -> str:
        """The address of whoever holds this seat."""
        return self.member.operator


@dataclass(frozen=True)
class Patience:
    """How long a committee waits, in seconds: for a member to come back, and for its answer."""

    away: float
    answer: float


@dataclass(frozen=True)
class Step:
    """What the driver does next.

    `closed` is None while the round goes on, '' when it is complete, else why it failed. Until
    `wake_at` nothing changes unless something is reported.
    """

    dispatch: list[Seat]
    closed: str | None
    wake_at: float


@dataclass
class Committee:
    """The seats of one round, and the reserves that replace whoever is lost, both in the draw's order.

    A round wants `size` answers, and is also complete with `minimum` of them when nobody is left to ask:
    one member that cheats or stays away must not fail a job that others have answered.
    """

    size: int
    minimum: int
    seats: list[Seat]
    reserves: list[Candidate]
    patience: Patience
    deadline: float

    @classmethod
    def drawn(
        cls,
        members: Sequence[Member],
        reserves: Sequence[Candidate],
        minimum: int,
        patience: Patience,
        deadline: float,
    ) -> "Committee":
        """Seat the members of a fresh draw; `minimum` is the tag's, which fewer members lower to their number."""
        seats = [Seat(member) for member in members]
        return cls(len(seats), min(minimum, len(seats)), seats, list(reserves), patience, deadline)

    def answered(self, operator: str) -> None:
        """Record that this operator's result was verified and stored."""
        self._settle(operator, SeatState.ANSWERED, "")

    def refused(self, operator: str, reason: str) -> None:
        """Record that this operator gives no acceptable result, and why."""
        self._settle(operator, SeatState.REFUSED, reason)

    def unsent(self, operator: str) -> None:
        """Record that a dispatch may not have arrived: the next step repeats it, once the operator is there."""
        for seat in self._open():
            if seat.operator == operator:
                seat.sent = False

    def step(self, now: float, connected: Collection[str]) -> Step:
        """Advance to `now`, given who is connected, and return what to do."""
        for seat in self._open():
            self._watch(seat, now, seat.operator in connected)
        while self.reserves and self._count(SeatState.ASSIGNED, SeatState.ANSWERED) < self.size:
            self.seats.append(Seat(Member(self.reserves.pop(0), filled=True)))
        waiting = self._open()
        if not waiting or (now >= self.deadline and not any(seat.receiving for seat in waiting)):
            for seat in waiting:
                self._settle(seat.operator, SeatState.LOST, "no answer by the deadline")
            return Step([], self._conclusion(), now)
        ready = [seat for seat in waiting if seat.operator in connected and not seat.sent]
        for seat in ready:
            seat.sent = True
            seat.sent_at = now if seat.sent_at is None else seat.sent_at
        return Step(ready, None, min(self._patience_ends(seat) for seat in waiting))

    def _open(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.state is SeatState.ASSIGNED]

    def _count(self, *states: SeatState) -> int:
        return sum(seat.state in states for seat in self.seats)

    def _settle(self, operator: str, state: SeatState, reason: str) -> None:
        for seat in self._open():
            if seat.operator == operator:
                seat.state, seat.reason = state, reason

    def _watch(self, seat: Seat, now: float, here: bool) -> None:
        if here:
            seat.away_since = None
        elif seat.away_since is None:
            seat.away_since = now
        if not seat.receiving and self._patience_ends(seat) <= now < self.deadline:
            self._settle(seat.operator, SeatState.LOST, "no answer in time" if here else "away for too long")

    def _patience_ends(self, seat: Seat) -> float:
        """Return when this seat is given up; one that the round cannot do without is waited for to the end."""
        ends = [self.deadline]
        if self.reserves or self._count(SeatState.ANSWERED) >= self.minimum:
            if seat.away_since is not None:
                ends.append(seat.away_since + self.patience.away)
            if seat.sent_at is not None:
                ends.append(seat.sent_at + self.patience.answer)
        return min(ends)

    def _conclusion(self) -> str:
        answers = self._count(SeatState.ANSWERED)
        if answers >= self.minimum:
            return ""
        gone = [f"{seat.operator} {seat.state}: {seat.reason}" for seat in self.seats if seat.reason]
        return "; ".join([f"nobody is left to ask: {answers} of {self.minimum} needed answers came", *gone])
