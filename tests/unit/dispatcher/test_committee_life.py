"""The committee's state machine under hypothesis: operators come, go, answer, score, refuse and stay silent in any order."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aos_dispatcher.committee import Committee, Patience, Plan, Seat, SeatState, Task
from aos_protocol.sortition import Candidate, committee, rank

PATIENCE = Patience(away=10, answer=50)
DEADLINE = 200.0
NAMES = ["a", "b", "c", "d", "e"]


class CommitteeLife(RuleBasedStateMachine):
    """What members say is what they were asked for, as the dispatcher's desks make sure."""

    seats: Committee
    now = 0.0
    closed: str | None = None

    @initialize(
        size=st.integers(1, 5),
        count=st.integers(1, 5),
        executes=st.booleans(),
        blind=st.booleans(),
        strict=st.booleans(),
    )
    def draw(self, size: int, count: int, executes: bool, blind: bool, strict: bool) -> None:
        ranking = rank(Candidate(name, 500_000 + at, 100_000) for at, name in enumerate(NAMES[:count]))
        members = committee(ranking, min(size, count))
        needed = len(members) if strict and not executes else 1
        plan = Plan(executes, blind and executes, len(members), needed)
        reserves = ranking[len(members) :]
        self.seats = Committee.drawn(members, reserves, plan, PATIENCE, DEADLINE)
        self.here = set(NAMES[:count])
        self.settled: dict[str, str] = {}

    def open(self, name: str) -> Seat | None:
        return next(
            (s for s in self.seats.seats if s.operator == name and s.state is SeatState.ASSIGNED), None
        )

    @rule(name=st.sampled_from(NAMES), here=st.booleans())
    def moves(self, name: str, here: bool) -> None:
        (self.here.add if here else self.here.discard)(name)
        self.seats.unsent(name)

    @rule(name=st.sampled_from(NAMES), receiving=st.booleans())
    def is_being_stored(self, name: str, receiving: bool) -> None:
        seat = self.open(name)
        if seat is not None:
            seat.receiving = receiving

    @precondition(lambda self: self.closed is None)
    @rule(name=st.sampled_from(NAMES))
    def answers(self, name: str) -> None:
        seat = self.open(name)
        task = self.seats.task_of(seat) if seat else None
        if task is Task.EXECUTE:
            self.seats.executed(name)
        elif task is Task.SCORE:
            self.seats.scored(name)

    @rule(name=st.sampled_from(NAMES))
    def refuses(self, name: str) -> None:
        self.seats.refused(name, "no")

    @rule(name=st.sampled_from(NAMES), taken=st.booleans())
    def declines(self, name: str, taken: bool) -> None:
        if taken:
            self.seats.taken(name)
        else:
            self.seats.declined(name, "not now", self.now)

    @precondition(lambda self: self.closed is None)
    @rule()
    def restarts(self) -> None:
        """Another process goes on with what the database has: seats with their states, and whose answers are in."""
        old = self.seats
        seats = [
            Seat(
                seat.member,
                "verifier" if seat.state is SeatState.ASSIGNED else seat.role,
                seat.state,
                seat.reason,
                executed=seat.executed,
            )
            for seat in old.seats
        ]
        self.seats = Committee(old.size, old.plan, seats, old.reserves, PATIENCE, DEADLINE)
        roles = {seat.operator: seat.role for seat in old.seats if not seat.given_up}
        assert {seat.operator: seat.role for seat in seats if not seat.given_up} == roles

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 50.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        step = self.seats.step(self.now, self.here)
        self.closed = step.closed
        for seat, task in step.calls:
            assert seat.operator in self.here
            assert seat.state is SeatState.ASSIGNED
            assert seat.sent is task
            assert task is self.seats.task_of(seat)
        receiving = any(seat.receiving for seat in self.seats.seats if seat.state is SeatState.ASSIGNED)
        if step.closed is None and not receiving:
            assert self.now < step.wake_at <= DEADLINE
        if self.now >= DEADLINE and not receiving:
            assert step.closed is not None

    @invariant()
    def seats_are_the_head_of_the_draw_and_never_too_many(self) -> None:
        if not hasattr(self, "seats"):
            return
        names = [seat.operator for seat in self.seats.seats]
        assert names == NAMES[: len(names)]
        assert sum(not seat.given_up for seat in self.seats.seats) <= self.seats.size

    @invariant()
    def roles_are_those_that_evidence_allows(self) -> None:
        """The first seat, and the first that is left, execute; whoever comes after it verifies."""
        if not hasattr(self, "seats"):
            return
        seats: list[Any] = self.seats.seats
        if not self.seats.plan.executes:
            assert {seat.role for seat in seats} == {"verifier"}
            return
        self.seats.step(self.now, self.here)
        executor = self.seats.executor
        assert seats[0].role == "executor"
        if executor is not None:
            assert executor.role == "executor"
            after = seats[seats.index(executor) + 1 :]
            assert all(seat.role == "verifier" for seat in after)

    @invariant()
    def nobody_scores_before_there_is_something_to_score(self) -> None:
        if not hasattr(self, "seats") or not self.seats.plan.executes:
            return
        executor = self.seats.executor
        answered = [s for s in self.seats.seats if s.state is SeatState.ANSWERED]
        if answered:
            assert executor is answered[0]

    @invariant()
    def what_is_settled_stays_settled(self) -> None:
        if not hasattr(self, "seats"):
            return
        now = {s.operator: str(s.state) for s in self.seats.seats if s.state is not SeatState.ASSIGNED}
        assert all(now[name] == state for name, state in self.settled.items())
        self.settled = now

    @invariant()
    def a_closed_round_has_no_open_seat_and_a_complete_one_its_answers(self) -> None:
        if self.closed is None:
            return
        states = [seat.state for seat in self.seats.seats]
        assert SeatState.ASSIGNED not in states
        assert (self.closed == "") == (states.count(SeatState.ANSWERED) >= self.seats.plan.needed)
        # Whoever was given up was replaced, as far as the draw went.
        left = states.count(SeatState.ANSWERED)
        assert left == self.seats.size or not self.seats.reserves


CommitteeLife.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestCommitteeLife = CommitteeLife.TestCase
