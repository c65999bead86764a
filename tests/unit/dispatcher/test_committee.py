"""The committee's state machine, stepped by hand and by hypothesis."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aos_dispatcher.committee import Committee, Patience, SeatState
from aos_protocol.sortition import Candidate, committee, rank

PATIENCE = Patience(away=10, answer=50)
DEADLINE = 100.0
NAMES = ["a", "b", "c", "d", "e"]


def drawn(names: list[str], size: int, minimum: int = 5) -> Committee:
    """A committee of the first `size` names, none selected by its own ticket; the rest are reserves."""
    ranking = rank(Candidate(name, 500_000 + place, 100_000) for place, name in enumerate(names))
    return Committee.drawn(committee(ranking, size), ranking[size:], minimum, PATIENCE, DEADLINE)


def states(seats: Committee) -> dict[str, str]:
    return {seat.operator: str(seat.state) for seat in seats.seats}


def test_everybody_answers() -> None:
    seats = drawn(["a", "b"], 2)
    step = seats.step(0, {"a", "b"})
    assert [seat.operator for seat in step.dispatch] == ["a", "b"]
    assert step.closed is None
    assert seats.step(1, {"a", "b"}).dispatch == []
    seats.answered("a")
    seats.answered("b")
    assert seats.step(2, {"a", "b"}).closed == ""


def test_who_is_away_is_dispatched_to_on_return_and_replaced_after_patience() -> None:
    seats = drawn(["a", "b"], 1)
    assert seats.step(0, {"b"}).dispatch == []
    assert [seat.operator for seat in seats.step(9, {"a", "b"}).dispatch] == ["a"]
    seats.unsent("a")
    step = seats.step(20, {"b"})
    assert (step.dispatch, step.wake_at) == ([], 30)
    step = seats.step(30, {"b"})
    assert [seat.operator for seat in step.dispatch] == ["b"]
    assert states(seats) == {"a": "lost", "b": "assigned"}


def test_a_late_answer_of_a_lost_member_changes_nothing() -> None:
    seats = drawn(["a", "b"], 1)
    seats.step(0, {"b"})
    seats.step(10, {"b"})
    seats.answered("a")
    assert states(seats)["a"] == "lost"


def test_a_silent_member_is_replaced_after_its_time() -> None:
    seats = drawn(["a", "b"], 1)
    seats.step(0, {"a", "b"})
    assert [seat.operator for seat in seats.step(50, {"a", "b"}).dispatch] == ["b"]
    assert seats.seats[0].reason == "no answer in time"


def test_without_reserves_a_member_is_waited_for_until_the_deadline() -> None:
    seats = drawn(["a"], 1)
    assert seats.step(0, set()).wake_at == DEADLINE
    assert seats.step(99, set()).closed is None
    closed = str(seats.step(100, set()).closed)
    assert "0 of 1 needed" in closed
    assert "no answer by the deadline" in closed


def test_with_enough_answers_a_member_that_is_away_is_given_up_without_a_reserve() -> None:
    seats = drawn(["a", "b"], 2, minimum=1)
    seats.step(0, {"a"})
    seats.answered("a")
    assert seats.step(9, {"a"}).closed is None
    assert seats.step(10, {"a"}).closed == ""
    assert states(seats) == {"a": "answered", "b": "lost"}


def test_a_refusal_does_not_fail_a_job_that_has_enough_answers() -> None:
    seats = drawn(["a", "b"], 2, minimum=1)
    seats.step(0, {"a", "b"})
    seats.refused("b", "caught cheating")
    seats.answered("a")
    assert seats.step(1, {"a", "b"}).closed == ""


def test_refusals_end_the_round_when_nobody_is_left() -> None:
    seats = drawn(["a", "b"], 1)
    seats.step(0, {"a", "b"})
    seats.refused("a", "too long a prompt")
    assert [seat.operator for seat in seats.step(1, {"a", "b"}).dispatch] == ["b"]
    seats.refused("b", "out of memory")
    closed = str(seats.step(2, {"a", "b"}).closed)
    assert closed.startswith("nobody is left to ask: 0 of 1 needed")
    assert "too long a prompt" in closed
    assert "out of memory" in closed


def test_a_result_being_stored_holds_its_seat_even_past_the_deadline() -> None:
    seats = drawn(["a", "b"], 1)
    seats.step(0, {"a", "b"})
    seats.seats[0].receiving = True
    assert seats.step(60, {"a", "b"}).closed is None
    assert seats.step(DEADLINE, {"a", "b"}).closed is None
    seats.seats[0].receiving = False
    seats.answered("a")
    assert seats.step(DEADLINE, {"a", "b"}).closed == ""


class CommitteeLife(RuleBasedStateMachine):
    """Operators come, go, answer, refuse and stay silent in any order, while time passes."""

    @initialize(size=st.integers(1, 5), count=st.integers(1, 5), minimum=st.sampled_from([1, 3, 5]))
    def draw(self, size: int, count: int, minimum: int) -> None:
        self.seats = drawn(NAMES[:count], min(size, count), minimum)
        self.now = 0.0
        self.here = set(NAMES[:count])
        self.settled: dict[str, str] = {}
        self.closed: str | None = None

    @rule(name=st.sampled_from(NAMES), here=st.booleans())
    def moves(self, name: str, here: bool) -> None:
        (self.here.add if here else self.here.discard)(name)
        self.seats.unsent(name)

    @rule(name=st.sampled_from(NAMES), good=st.booleans())
    def says(self, name: str, good: bool) -> None:
        if good:
            self.seats.answered(name)
        else:
            self.seats.refused(name, "no")

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 50.0]))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        step = self.seats.step(self.now, self.here)
        self.closed = step.closed
        for seat in step.dispatch:
            assert seat.operator in self.here
            assert seat.state is SeatState.ASSIGNED
        if step.closed is None:
            assert step.wake_at > self.now or step.wake_at == DEADLINE

    @invariant()
    def seats_are_the_head_of_the_draw_and_never_too_many(self) -> None:
        if not hasattr(self, "seats"):
            return
        names = [seat.operator for seat in self.seats.seats]
        assert names == NAMES[: len(names)]
        active = [s for s in self.seats.seats if s.state in {SeatState.ASSIGNED, SeatState.ANSWERED}]
        assert len(active) <= self.seats.size

    @invariant()
    def what_is_settled_stays_settled(self) -> None:
        if not hasattr(self, "seats"):
            return
        now = {
            seat.operator: str(seat.state)
            for seat in self.seats.seats
            if seat.state is not SeatState.ASSIGNED
        }
        assert all(now[name] == state for name, state in self.settled.items())
        self.settled = now

    @invariant()
    def a_closed_round_has_no_open_seat_and_a_complete_one_its_answers(self) -> None:
        if getattr(self, "closed", None) is None:
            return
        states = [seat.state for seat in self.seats.seats]
        assert SeatState.ASSIGNED not in states
        assert (self.closed == "") == (states.count(SeatState.ANSWERED) >= self.seats.minimum)


CommitteeLife.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestCommitteeLife = CommitteeLife.TestCase
