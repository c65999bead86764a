"""The life of a committee after its draw: a state machine without I/O.

`Committee.step` says what to do now: whom to send which task, whether the round is over, and when to ask
again. The driver performs it and reports what happened; tests step it by hand.

1. The first seat in the draw's order that is not given up executes; when it is given up, the next one does.
2. Once the executor has answered, verifiers score that answer. Where there is a claim or a challenged result to score,
   they do so at once and nobody executes. A `blind` plan has them make an answer of their own before.
3. Whoever is given up is replaced by the next of the draw, as long as there are any.
4. Of an answer that nobody can score, verifiers are sent home, and nobody takes their places.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aos_protocol.fields import Role
from aos_protocol.sortition import Candidate, Member


class SeatState(StrEnum):
    """Where one seat stands. Only `assigned` is still open."""

    ASSIGNED = "assigned"
    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"


_ASK_AGAIN_S = 0.5
"""How long whoever declined its task is left alone."""

_GIVEN_UP = {SeatState.REFUSED, SeatState.LOST}


class Task(StrEnum):
    """What a member is asked to do, by the method that asks for it."""

    EXECUTE = "dispatch_job"
    SCORE = "score_job"


@dataclass
class Seat:
    """One place on a committee and who holds it; times are the driver's monotonic seconds.

    `executed` is set once an answer of its own is stored, `sent` to the task that it is known to have. `receiving` is set
    while a verified message is being stored: until then the seat is neither given up nor answered. `stored` is the
    driver's own note of what the database knows. `declined` says why its holder cannot take its task just now: it counts as away
    meanwhile, and is asked again at `again_at`.
    """

    member: Member
    role: Role
    state: SeatState = SeatState.ASSIGNED
    reason: str = ""
    executed: bool = False
    sent: Task | None = None
    began: dict[Task, float] = field(default_factory=dict)
    receiving: bool = False
    stored: tuple[SeatState, Role] | None = None
    away_since: float | None = None
    declined: str = ""
    again_at: float = 0.0

    @property
    def operator(self) -> str:
        """The address of whoever holds this seat."""
        return self.member.operator

    @property
    def given_up(self) -> bool:
        """True when its holder refused or was lost."""
        return self.state in _GIVEN_UP


@dataclass(frozen=True)
class Plan:
    """What a round asks of its committee.

    It `executes` unless there is something to score already. With `blind`, verifiers execute, too, before they score.
    Members are waited for longer while fewer than `minimum` have answered; with fewer than `needed`, the round fails.
    """

    executes: bool
    blind: bool
    minimum: int
    needed: int


@dataclass(frozen=True)
class Patience:
    """How long a committee waits, in seconds: for a member to come back, and for its answer to one task."""

    away: float
    answer: float


@dataclass(frozen=True)
class Step:
    """What the driver does next: `calls` are the seats to send their task.

    `closed` is None while the round goes on, '' when it is complete, else why it failed. Until
    `wake_at` nothing changes unless something is reported.
    """

    calls: list[tuple[Seat, Task]]
    closed: str | None
    wake_at: float


@dataclass
class Committee:
    """The seats of one round, and the reserves that replace whoever is lost, both in the draw's order.

    A round wants `size` members to answer. A verifier that nobody is left to replace fails no job: its verdict rests on fewer scores.
    """

    size: int
    plan: Plan
    seats: list[Seat]
    reserves: list[Candidate]
    patience: Patience
    deadline: float

    @classmethod
    def drawn(
        cls,
        members: Sequence[Member],
        reserves: Sequence[Candidate],
        plan: Plan,
        patience: Patience,
        deadline: float,
    ) -> "Committee":
        """Seat the members of a fresh draw."""
        seats = [Seat(member, "verifier") for member in members]
        return cls(len(seats), plan, seats, list(reserves), patience, deadline)

    def __post_init__(self) -> None:
        self._bound = False
        self._appoint()

    @property
    def executor(self) -> Seat | None:
        """The seat that executes; None where nobody does, or everybody is given up."""
        if not self.plan.executes:
            return None
        return next((seat for seat in self.seats if not seat.given_up), None)

    def task_of(self, seat: Seat) -> Task | None:
        """Return what an open seat has to do now; None while it waits for the executor's answer."""
        executor = self.executor
        if seat is executor or (self.plan.blind and not seat.executed):
            return Task.EXECUTE
        has_subject = executor is None or executor.state is SeatState.ANSWERED
        return Task.SCORE if has_subject else None

    def bind(self) -> None:
        """Record that nobody can take the executor's place any more: the client of a direct job has a session with it."""
        self.reserves.clear()
        self._bound = True

    def executed(self, operator: str) -> None:
        """Record that this operator's own answer was verified and stored."""
        for seat in self._open():
            if seat.operator == operator:
                seat.executed = True
        self._appoint()

    def scored(self, operator: str) -> None:
        """Record that this operator's score was verified and stored."""
        self._settle(operator, SeatState.ANSWERED, "")

    def refused(self, operator: str, reason: str) -> None:
        """Record that this operator gives no acceptable result or score, and why."""
        self._settle(operator, SeatState.REFUSED, reason)

    def declined(self, operator: str, reason: str, now: float) -> None:
        """Record that this operator cannot take its task just now, and why: its database is away, say, or it is full."""
        for seat in self._open():
            if seat.operator == operator:
                seat.sent, seat.declined, seat.again_at = None, reason, now + _ASK_AGAIN_S

    def taken(self, operator: str) -> None:
        """Record that this operator has taken its task."""
        for seat in self._open():
            if seat.operator == operator:
                seat.declined = ""

    def unsent(self, operator: str) -> None:
        """Record that a task may not have arrived: the next step repeats it, once the operator is there."""
        for seat in self._open():
            if seat.operator == operator:
                seat.sent = None

    def step(self, now: float, connected: Collection[str], unscorable: str = "") -> Step:
        """Advance to `now`, given who is connected, and why nobody can score the answer, if so; return what to do."""
        for seat in self._open():
            self._watch(seat, now, seat.operator in connected)
            if unscorable and self.task_of(seat) is Task.SCORE:
                self._settle(seat.operator, SeatState.REFUSED, unscorable)
        while not unscorable and self.reserves and len(self.seats) - self._given_up() < self.size:
            self.seats.append(Seat(_replacing(self.reserves.pop(0)), "verifier"))
        if now >= self.deadline and not any(seat.receiving for seat in self._open()):
            self._run_out()
        self._appoint()
        waiting = self._open()
        if not waiting:
            return Step([], self._conclusion(), now)
        calls = [
            (seat, task)
            for seat in waiting
            if seat.operator in connected
            and seat.again_at <= now
            and (task := self.task_of(seat)) not in {None, seat.sent}
        ]
        for seat, task in calls:
            seat.sent = task
            seat.began.setdefault(task, now)
        ends = [self._patience_ends(seat) for seat in waiting]
        return Step(calls, None, min(ends + [seat.again_at for seat in waiting if seat.again_at > now]))

    def _open(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.state is SeatState.ASSIGNED]

    def _given_up(self) -> int:
        return sum(seat.given_up for seat in self.seats)

    def _answered(self) -> int:
        return sum(seat.state is SeatState.ANSWERED for seat in self.seats)

    def _appoint(self) -> None:
        """Let the first seat that is left be the executor; one that executed before it became that is done."""
        executor = self.executor
        if executor is None:
            return
        executor.role = "executor"
        if executor.executed:
            self._settle(executor.operator, SeatState.ANSWERED, "")

    def _settle(self, operator: str, state: SeatState, reason: str) -> None:
        for seat in self._open():
            if seat.operator == operator:
                seat.state, seat.reason = state, reason

    def _watch(self, seat: Seat, now: float, here: bool) -> None:
        if here and not seat.declined:
            seat.away_since = None
        elif seat.away_since is None:
            seat.away_since = now
        if not seat.receiving and self._patience_ends(seat) <= now < self.deadline:
            away = seat.declined or ("no answer in time" if here else "away for too long")
            self._settle(seat.operator, SeatState.LOST, away)

    def _run_out(self) -> None:
        """Give up whoever has not answered by the deadline, and say of the reserves that it was too late to ask them."""
        for seat in self._open():
            self._settle(seat.operator, SeatState.LOST, "no answer by the deadline")
        if self._given_up():
            late = "the deadline came before it could be asked"
            members = map(_replacing, self.reserves)
            self.seats += [Seat(member, "verifier", SeatState.LOST, late) for member in members]
            self.reserves = []

    def _patience_ends(self, seat: Seat) -> float:
        """Return when this seat is given up; one that the round cannot do without is waited for to the end."""
        if self._can_spare(seat):
            away = self.patience.away
        elif self._bound or self._answered() + len(self._open()) - 1 >= self.plan.needed:
            away = (
                self.patience.answer
            )  # of a bound executor, the client may have the answer, and the log wants the receipt
        else:
            return self.deadline
        ends = [self.deadline]
        if seat.away_since is not None:
            ends.append(seat.away_since + away)
        task = self.task_of(seat)
        if task in seat.began:
            ends.append(seat.began[task] + self.patience.answer)
        return min(ends)

    def _can_spare(self, seat: Seat) -> bool:
        """True when somebody else takes the seat's place, or enough members have answered."""
        if self.reserves or self._answered() >= self.plan.minimum:
            return True
        return seat is self.executor and len(self._open()) > 1

    def _conclusion(self) -> str:
        answers = self._answered()
        if answers >= self.plan.needed:
            return ""
        gone = [f"{seat.operator} {seat.state}: {seat.reason}" for seat in self.seats if seat.reason]
        needed = self.plan.needed
        return "; ".join([f"nobody is left to ask: {answers} of {needed} needed answers came", *gone])


def _replacing(candidate: Candidate) -> Member:
    """Return a reserve as a member; a draw that seats one member only has reserves that were selected, too."""
    return Member(candidate, filled=not candidate.selected)
