"""The committee's state machine, stepped by hand: who executes, who scores, who is replaced, and when it ends."""

import pytest

from aos_dispatcher.committee import Committee, Patience, Plan, Seat, SeatState, Task
from aos_protocol.sortition import Candidate, committee, rank

PATIENCE = Patience(away=10, answer=50)
DEADLINE = 200.0
EXECUTE, SCORE = Task.EXECUTE, Task.SCORE


def plan(minimum: int = 1, *, executes: bool = True, blind: bool = False, needed: int = 1) -> Plan:
    return Plan(executes, blind, minimum, needed)


def drawn(names: str, size: int, asked: Plan) -> Committee:
    """A committee of the first `size` letters, none selected by its own ticket; the rest are reserves."""
    ranking = rank(Candidate(name, 500_000 + place, 100_000) for place, name in enumerate(names))
    return Committee.drawn(committee(ranking, size), ranking[size:], asked, PATIENCE, DEADLINE)


def calls(seats: Committee, now: float, here: str) -> list[tuple[str, Task]]:
    """What the step at `now` sends to whom; the letters of `here` are connected."""
    return [(seat.operator, task) for seat, task in seats.step(now, set(here)).calls]


def states(seats: Committee) -> dict[str, str]:
    return {seat.operator: str(seat.state) for seat in seats.seats}


def roles(seats: Committee) -> dict[str, str]:
    return {seat.operator: seat.role for seat in seats.seats}


def seat_of(seats: Committee, name: str) -> Seat:
    return next(seat for seat in seats.seats if seat.operator == name)


def test_a_job_of_nobody_suspected_is_executed_and_done() -> None:
    seats = drawn("a", 1, plan())
    assert calls(seats, 0, "a") == [("a", EXECUTE)]
    assert calls(seats, 1, "a") == []
    seats.executed("a")
    assert seats.step(2, {"a"}).closed == ""


def test_verifiers_score_once_the_executor_has_answered() -> None:
    seats = drawn("abc", 3, plan(3))
    assert roles(seats) == {"a": "executor", "b": "verifier", "c": "verifier"}
    assert calls(seats, 0, "abc") == [("a", EXECUTE)]
    seats.executed("a")
    assert calls(seats, 1, "abc") == [("b", SCORE), ("c", SCORE)]
    seats.scored("b")
    assert seats.step(2, set("abc")).closed is None
    seats.scored("c")
    assert seats.step(3, set("abc")).closed == ""


def test_a_reserve_that_its_ticket_selects_is_no_filler() -> None:
    """Where one member is seated alone, the next of the draw may have been selected as well."""
    ranking = rank(Candidate(name, value, 100) for name, value in (("a", 1), ("b", 2), ("c", 500)))
    seats = Committee.drawn(committee(ranking, 1, alone=True), ranking[1:], plan(), PATIENCE, DEADLINE)
    seats.refused("a", "restarted")
    assert calls(seats, 1, "abc") == [("b", EXECUTE)]
    seats.step(DEADLINE, set())
    assert [(seat.operator, seat.member.filled) for seat in seats.seats] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]


def test_verifiers_of_a_blind_round_execute_before_they_score() -> None:
    seats = drawn("abc", 3, plan(3, blind=True))
    assert calls(seats, 0, "abc") == [("a", EXECUTE), ("b", EXECUTE), ("c", EXECUTE)]
    seats.executed("a")
    assert calls(seats, 1, "abc") == []
    seats.executed("b")
    assert calls(seats, 2, "abc") == [("b", SCORE)]
    seats.executed("c")
    assert calls(seats, 3, "abc") == [("c", SCORE)]


def test_a_blind_verifier_that_is_faster_waits_for_the_executor() -> None:
    seats = drawn("ab", 2, plan(2, blind=True))
    seats.step(0, set("ab"))
    seats.executed("b")
    assert states(seats)["b"] == "assigned"
    assert calls(seats, 1, "ab") == []
    seats.executed("a")
    assert calls(seats, 2, "ab") == [("b", SCORE)]


@pytest.mark.parametrize("needed", [1, 3])
def test_a_claim_or_a_challenged_result_is_scored_at_once_and_nobody_executes(needed: int) -> None:
    seats = drawn("abc", 3, plan(3, executes=False, needed=needed))
    assert set(roles(seats).values()) == {"verifier"}
    assert calls(seats, 0, "abc") == [("a", SCORE), ("b", SCORE), ("c", SCORE)]
    for name in "abc":
        seats.scored(name)
    assert seats.step(1, set("abc")).closed == ""


def test_the_next_verifier_executes_when_the_executor_is_given_up() -> None:
    seats = drawn("abc", 2, plan(2))
    seats.step(0, set("abc"))
    seats.refused("a", "too long a prompt")
    assert calls(seats, 1, "abc") == [("b", EXECUTE)]
    assert roles(seats) == {"a": "executor", "b": "executor", "c": "verifier"}
    seats.executed("b")
    assert calls(seats, 2, "abc") == [("c", SCORE)]


def test_a_blind_verifier_that_has_executed_takes_the_executors_place_at_once() -> None:
    seats = drawn("abc", 3, plan(3, blind=True))
    seats.step(0, set("abc"))
    seats.executed("b")
    seats.refused("a", "out of memory")
    assert calls(seats, 1, "abc") == []
    assert (states(seats)["b"], roles(seats)["b"]) == ("answered", "executor")
    seats.executed("c")
    assert calls(seats, 2, "abc") == [("c", SCORE)]


def test_a_blind_verifier_that_becomes_executor_while_it_executes_is_not_asked_twice() -> None:
    seats = drawn("ab", 2, plan(2, blind=True))
    seats.step(0, set("ab"))
    seats.refused("a", "out of memory")
    assert calls(seats, 1, "ab") == []
    seats.executed("b")
    assert states(seats)["b"] == "answered"


def test_who_is_away_is_called_on_return_and_replaced_after_patience() -> None:
    seats = drawn("ab", 1, plan())
    assert calls(seats, 0, "b") == []
    assert calls(seats, 9, "ab") == [("a", EXECUTE)]
    seats.unsent("a")
    step = seats.step(20, {"b"})
    assert (step.calls, step.wake_at) == ([], 30)
    assert calls(seats, 30, "b") == [("b", EXECUTE)]
    assert states(seats) == {"a": "lost", "b": "assigned"}


def test_who_cannot_take_its_task_now_is_asked_again_and_replaced_after_patience() -> None:
    seats = drawn("ab", 1, plan())
    assert calls(seats, 0, "ab") == [("a", Task.EXECUTE)]
    seats.declined("a", "its database is away", 0)
    assert calls(seats, 0.1, "ab") == []
    assert seats.step(0.1, {"a", "b"}).wake_at == 0.5
    assert calls(seats, 0.5, "ab") == [("a", Task.EXECUTE)]
    seats.declined("a", "its database is away", 0.5)
    away = seats.patience.away
    assert calls(seats, 0.1 + away, "ab") == [("b", Task.EXECUTE)]
    assert (seat_of(seats, "a").state, seat_of(seats, "a").reason) == ("lost", "its database is away")


def test_who_has_taken_it_in_the_end_is_not_away() -> None:
    seats = drawn("ab", 1, plan())
    calls(seats, 0, "ab")
    seats.declined("a", "full", 0)
    assert calls(seats, 1, "ab") == [("a", Task.EXECUTE)]
    seats.taken("a")
    assert calls(seats, 1 + seats.patience.away, "ab") == []
    assert seat_of(seats, "a").state == "assigned"


def test_the_last_one_that_cannot_take_its_task_now_is_waited_for() -> None:
    seats = drawn("a", 1, plan())
    calls(seats, 0, "a")
    seats.declined("a", "its database is away", 0)
    later = seats.patience.away + seats.patience.answer
    assert calls(seats, later, "a") == [("a", Task.EXECUTE)]


def test_what_comes_late_of_a_lost_member_changes_nothing() -> None:
    seats = drawn("ab", 1, plan())
    seats.step(0, {"b"})
    seats.step(10, {"b"})
    seats.executed("a")
    seats.scored("a")
    assert states(seats)["a"] == "lost"


def test_a_silent_executor_is_replaced_after_its_time() -> None:
    seats = drawn("ab", 1, plan())
    seats.step(0, set("ab"))
    assert calls(seats, 50, "ab") == [("b", EXECUTE)]
    assert seats.seats[0].reason == "no answer in time"


def test_scoring_has_a_time_of_its_own() -> None:
    seats = drawn("abc", 2, plan(2, blind=True))
    seats.step(0, set("abc"))
    seats.executed("b")
    seats.step(40, set("abc"))
    seats.executed("a")
    assert calls(seats, 45, "abc") == [("b", SCORE)]
    assert seats.step(94, set("abc")).closed is None
    assert states(seats)["b"] == "assigned"
    assert calls(seats, 95, "abc") == [("c", EXECUTE)]
    assert states(seats)["b"] == "lost"


def test_a_verifier_that_waits_for_the_executor_is_not_given_up_for_silence() -> None:
    seats = drawn("abc", 2, plan(2))
    seats.step(0, set("abc"))
    seats.seats[0].receiving = True
    assert seats.step(120, set("abc")).closed is None
    assert states(seats) == {"a": "assigned", "b": "assigned"}


def test_without_anybody_else_an_executor_is_waited_for_until_the_deadline() -> None:
    seats = drawn("a", 1, plan())
    assert seats.step(0, set()).wake_at == DEADLINE
    assert seats.step(DEADLINE - 1, set()).closed is None
    closed = str(seats.step(DEADLINE, set()).closed)
    assert "0 of 1 needed" in closed
    assert "no answer by the deadline" in closed


def test_a_job_is_not_lost_when_nobody_can_score() -> None:
    seats = drawn("ab", 2, plan(2))
    seats.step(0, set("ab"))
    seats.executed("a")
    seats.step(1, set("ab"))
    seats.refused("b", "cannot load the model")
    assert seats.step(2, set("ab")).closed == ""
    assert states(seats) == {"a": "answered", "b": "refused"}


def test_a_verifier_that_cannot_be_replaced_is_given_its_whole_time_to_come_back() -> None:
    seats = drawn("ab", 2, plan(2))
    seats.step(0, set("ab"))
    seats.executed("a")
    assert seats.step(1, {"a"}).wake_at == 51
    assert seats.step(50, {"a"}).closed is None
    assert seats.step(51, {"a"}).closed == ""
    assert states(seats)["b"] == "lost"


def test_with_enough_answers_a_member_that_is_away_is_given_up_soon() -> None:
    seats = drawn("ab", 2, plan(1))
    seats.step(0, {"a"})
    seats.executed("a")
    assert seats.step(9, {"a"}).closed is None
    assert seats.step(10, {"a"}).closed == ""


def test_a_challenge_without_its_quorum_fails() -> None:
    seats = drawn("abc", 3, plan(3, executes=False, needed=3))
    seats.step(0, set("abc"))
    seats.scored("a")
    seats.scored("b")
    seats.refused("c", "cannot load the model")
    closed = str(seats.step(1, set("abc")).closed)
    assert closed.startswith("nobody is left to ask: 2 of 3 needed answers came")
    assert "cannot load the model" in closed


def test_a_challenge_waits_for_who_it_cannot_do_without() -> None:
    seats = drawn("ab", 2, plan(2, executes=False, needed=2))
    seats.step(0, set("ab"))
    assert seats.step(1, set()).wake_at == DEADLINE


def test_refusals_end_the_round_when_nobody_is_left() -> None:
    seats = drawn("ab", 1, plan())
    seats.step(0, set("ab"))
    seats.refused("a", "too long a prompt")
    assert calls(seats, 1, "ab") == [("b", EXECUTE)]
    seats.refused("b", "out of memory")
    closed = str(seats.step(2, set("ab")).closed)
    assert closed.startswith("nobody is left to ask: 0 of 1 needed")
    assert "too long a prompt" in closed
    assert "out of memory" in closed


def test_what_is_being_stored_holds_its_seat_even_past_the_deadline() -> None:
    seats = drawn("ab", 1, plan())
    seats.step(0, set("ab"))
    seats.seats[0].receiving = True
    assert seats.step(60, set("ab")).closed is None
    assert seats.step(DEADLINE, set("ab")).closed is None
    seats.seats[0].receiving = False
    seats.executed("a")
    assert seats.step(DEADLINE, set("ab")).closed == ""


def test_at_the_deadline_the_reserves_are_seated_as_not_asked() -> None:
    seats = drawn("abcd", 2, plan(2))
    seats.step(0, set("abcd"))
    seats.executed("a")
    seats.step(180, set("abcd"))
    assert seats.step(DEADLINE, set("abcd")).closed == ""
    assert states(seats) == {"a": "answered", "b": "lost", "c": "lost", "d": "lost"}
    assert "before it could be asked" in seat_of(seats, "d").reason


def test_a_repeated_call_goes_to_whoever_may_have_missed_it_only() -> None:
    seats = drawn("abc", 3, plan(3))
    seats.step(0, set("abc"))
    seats.executed("a")
    seats.step(1, set("abc"))
    seats.unsent("b")
    assert calls(seats, 2, "abc") == [("b", SCORE)]
    assert calls(seats, 3, "abc") == []


def test_a_restored_committee_goes_on_where_it_was() -> None:
    """Seats as the database has them: the executor lost, a blind verifier that executed, one that did not."""
    members = committee(rank(Candidate(name, ord(name), 1000) for name in "abc"), 3)
    lost, done, fresh = (Seat(member, "verifier") for member in members)
    lost.state, lost.role, done.executed = SeatState.LOST, "executor", True
    seats = Committee(3, plan(3, blind=True), [lost, done, fresh], [], PATIENCE, DEADLINE)
    assert (done.role, done.state) == ("executor", SeatState.ANSWERED)
    assert calls(seats, 0, "abc") == [("c", EXECUTE)]


WHY = "ollama shows text of its answers"


@pytest.mark.parametrize(("names", "size"), [("abc", 3), ("abcdef", 3), ("ab", 2)])
def test_verifiers_of_an_answer_that_nobody_can_score_are_sent_home_at_once(names: str, size: int) -> None:
    seats = drawn(names, size, plan(size))
    assert calls(seats, 0, names) == [("a", EXECUTE)]
    seats.executed("a")
    step = seats.step(1, set(), WHY)  # they need not even be there
    assert (step.calls, step.closed) == ([], "")
    assert states(seats) == {"a": "answered"} | dict.fromkeys(names[1:size], "refused")
    assert {seat.reason for seat in seats.seats if seat.role == "verifier"} == {WHY}


def test_blind_verifiers_of_such_an_answer_execute_and_are_sent_home_then() -> None:
    seats = drawn("abcd", 3, plan(3, blind=True))
    assert calls(seats, 0, "abcd") == [("a", EXECUTE), ("b", EXECUTE), ("c", EXECUTE)]
    seats.executed("a")
    assert seats.step(1, set("abcd"), WHY).closed is None
    seats.executed("b")
    assert states(seats) | {"b": "assigned"} == states(seats)
    assert seats.step(2, set("abcd"), WHY).closed is None
    assert states(seats)["b"] == "refused"
    seats.executed("c")
    assert seats.step(3, set("abcd"), WHY).closed == ""
    assert "d" not in states(seats)


def test_who_was_lost_before_such_an_answer_is_replaced_and_nobody_after() -> None:
    seats = drawn("abcd", 2, plan(2))
    calls(seats, 0, "abcd")
    seats.refused("a", "too hot")
    assert calls(seats, 1, "abcd") == [("b", EXECUTE)]
    seats.executed("b")
    assert seats.step(2, set("abcd"), WHY).closed == ""
    assert states(seats) == {"a": "refused", "b": "answered", "c": "refused"}
