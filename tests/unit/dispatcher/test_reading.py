"""What a follower is given: whatever deltas come, it is the beginning of the signed answer, or the end is `Broken`."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aos_dispatcher.reading import Answered, Broken, News, Piece, Queued, Reading, Told
from aos_protocol.messages import Delta, JobResult, TokenLogprob

JOB = "ab" * 32
A, B = "0x" + "a" * 40, "0x" + "b" * 40


def delta(start: int, text: str, *, position: int | None = None, tokens: str | None = None) -> Delta:
    """A delta; `tokens` gives each character of it a probability of its own."""
    logprobs = None if tokens is None else [logprob(token) for token in tokens]
    return Delta(job_id=JOB, tag="", start=start, text=text, position=position, logprobs=logprobs)


def logprob(token: str) -> TokenLogprob:
    return TokenLogprob(token=token, logprob=-float(ord(token)))


def result(text: str, tokens: str | None = None) -> JobResult:
    """As much of a result as a reading looks at."""
    logprobs = None if tokens is None else [logprob(token) for token in tokens]
    return JobResult.model_construct(job_id=JOB, result=text, logprobs=logprobs)


@dataclass
class Followed:
    """A reading, and all that it has given out."""

    most: int = 1000
    given: list[News] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reading = Reading(self.most)

    def take(self) -> None:
        """Ask for news until there is none."""
        while not self.ended and (news := self.reading.next()) is not None:
            self.given.append(news)

    @property
    def text(self) -> str:
        return "".join(news.text for news in self.given if isinstance(news, Piece))

    @property
    def tokens(self) -> list[TokenLogprob]:
        return [one for news in self.given if isinstance(news, Piece) for one in news.logprobs]

    @property
    def ended(self) -> bool:
        return bool(self.given) and isinstance(self.given[-1], Answered | Broken)

    def holds(self) -> None:
        """Assert what must hold at every end."""
        end = self.given[-1]
        if isinstance(end, Answered):
            assert self.text == end.result.result
            assert self.tokens == (end.result.logprobs or [])
        assert sum(isinstance(news, Answered | Broken) for news in self.given) <= 1


def followed(*told: tuple[str, Delta], take: bool = True) -> Followed:
    follower = Followed()
    for operator, said in told:
        follower.reading.told(operator, said)
        if take:
            follower.take()
    return follower


def test_pieces_come_as_they_are_told_and_the_rest_with_the_answer() -> None:
    follower = followed((A, delta(0, "one")), (A, delta(3, " two")))
    follower.reading.answered(result("one two three"))
    follower.take()
    assert [news.text for news in follower.given[:-1] if isinstance(news, Piece)] == ["one", " two", " three"]
    follower.holds()


def test_a_slow_reader_gets_all_that_waits_as_one_piece() -> None:
    follower = followed(*((A, delta(at, "x")) for at in range(50)), take=False)
    follower.take()
    assert follower.given == [Piece("x" * 50)]


def test_an_answer_without_a_stream_is_one_piece_and_an_empty_one_is_none() -> None:
    for text, pieces in (("all of it", [Piece("all of it")]), ("", [])):
        follower = Followed()
        follower.reading.answered(result(text))
        follower.take()
        assert follower.given[:-1] == pieces
        assert isinstance(follower.given[-1], Answered)


@pytest.mark.parametrize("wrong", [delta(2, "x"), delta(7, "x"), delta(1, "ne"), delta(3, "x" * 1000)])
def test_what_overlaps_leaves_a_gap_or_is_too_large_is_ignored(wrong: Delta) -> None:
    follower = followed((A, delta(0, "one")), (A, wrong), (A, delta(3, " two")))
    follower.reading.answered(result("one two"))
    follower.take()
    assert follower.text == "one two"
    assert isinstance(follower.given[-1], Answered)


def test_a_run_is_told_anew_after_a_connection_was_lost() -> None:
    """What was told while nobody was there comes with the whole text; nothing is given out twice."""
    follower = followed(
        (A, delta(0, "one")), (A, delta(9, "lost?")), (A, delta(0, "one two th")), (A, delta(10, "ree"))
    )
    assert [news.text for news in follower.given if isinstance(news, Piece)] == ["one", " two th", "ree"]


def test_a_second_run_that_says_the_same_goes_on_behind_what_was_given_out() -> None:
    follower = followed(
        (A, delta(0, "one two")), (A, delta(0, "on")), (A, delta(2, "e t")), (A, delta(5, "wo three"))
    )
    assert follower.text == "one two three"


@pytest.mark.parametrize("again", ["One", "one twO", "one two three", "x"])
def test_a_second_run_that_says_something_else_breaks_the_stream(again: str) -> None:
    follower = followed((A, delta(0, "one two")), (A, delta(0, again)))
    if "one two three".startswith(again):
        assert follower.text == again
        return
    end = follower.given[-1]
    assert isinstance(end, Broken)
    assert (end.status, follower.reading.gave_up) == (502, True)
    assert "did the job again" in end.reason


def test_a_second_run_may_say_anything_while_nothing_was_given_out() -> None:
    follower = followed((A, delta(0, "first")), (A, delta(0, "second")), take=False)
    follower.take()
    assert follower.text == "second"


def test_the_next_executor_is_heard_while_nothing_was_given_out() -> None:
    follower = followed((A, delta(0, "lost")), take=False)
    follower.reading.given_up(A, "away for too long")
    follower.reading.told(A, delta(4, " more"))
    follower.reading.told(B, delta(0, "mine"))
    follower.take()
    assert follower.text == "mine"


@pytest.mark.parametrize("told", [True, False])
def test_an_executor_that_is_lost_after_text_was_given_out_breaks_the_stream(told: bool) -> None:
    """Whether its leader says so, or another operator's text is the first that is heard of it."""
    follower = followed((A, delta(0, "one")))
    if told:
        follower.reading.given_up(A, "away for too long")
    else:
        follower.reading.told(B, delta(0, "one two"))
    follower.take()
    assert isinstance(follower.given[-1], Broken)
    assert follower.text == "one"
    follower.reading.answered(result("one two"))
    follower.take()
    assert isinstance(follower.given[-1], Broken)


def test_who_was_not_heard_may_be_given_up() -> None:
    follower = followed((A, delta(0, "one")))
    follower.reading.given_up(B, "another member")
    follower.reading.answered(result("one"))
    follower.take()
    assert isinstance(follower.given[-1], Answered)


def test_an_answer_that_is_not_what_was_streamed_breaks_the_stream() -> None:
    follower = followed((A, delta(0, "one")))
    follower.reading.answered(result("two"))
    follower.take()
    assert follower.text == "one"
    assert isinstance(follower.given[-1], Broken)


def test_logprobs_come_with_their_text_and_are_part_of_the_answer() -> None:
    follower = followed((A, delta(0, "ab", tokens="ab")), (A, delta(0, "abcd", tokens="abcd")))
    assert [len(news.logprobs) for news in follower.given if isinstance(news, Piece)] == [2, 2]
    follower.reading.answered(result("abcde", "abcde"))
    follower.take()
    follower.holds()
    other = followed((A, delta(0, "ab", tokens="ab")))
    other.reading.answered(result("ab", "ax"))
    other.take()
    assert isinstance(other.given[-1], Broken)


def test_places_in_the_queue_are_told_until_there_is_text() -> None:
    follower = followed((A, delta(0, "", position=3)), (A, delta(0, "", position=2)))
    assert follower.given == [Queued(3), Queued(2)]
    follower.reading.told(A, delta(0, "", position=1))
    follower.reading.told(A, delta(0, "text"))
    follower.reading.told(A, delta(0, "", position=9))
    follower.take()
    assert follower.given[2:] == [Piece("text")]


def test_the_end_of_the_job_ends_the_stream_and_takes_back_what_nobody_has_read() -> None:
    follower = followed((A, delta(0, "unread")), take=False)
    follower.reading.ended("cancelled by the project", 409)
    follower.take()
    assert follower.given == [Broken("cancelled by the project", 409)]
    assert not follower.reading.gave_up


def test_no_run_takes_more_room_than_an_answer_may() -> None:
    follower = Followed(most=100)
    for at in range(300):
        follower.reading.told(A, delta(at, "x"))
    follower.reading.told(A, delta(0, "", tokens="y" * 50))
    follower.take()
    assert follower.text == ""
    follower.reading.told(A, delta(0, "x" * 100))
    follower.take()
    assert follower.text == "x" * 100


class AnyDeltas(RuleBasedStateMachine):
    """Executors, leaders and readers do what they like, in any order."""

    texts = st.text(alphabet="ab", max_size=4)
    operators = st.sampled_from([A, B])

    def __init__(self) -> None:
        super().__init__()
        self.follower = Followed(most=40)
        self.was = ""

    @rule(operator=operators, start=st.integers(0, 12), text=texts)
    def tell(self, operator: str, start: int, text: str) -> None:
        self.follower.reading.told(operator, delta(start, text))

    @rule(operator=operators, text=texts)
    def go_on(self, operator: str, text: str) -> None:
        self.follower.reading.told(operator, delta(self.follower.reading._length, text))

    @rule(operator=operators, again=st.integers(0, 12))
    def say_again(self, operator: str, again: int) -> None:
        self.follower.reading.told(operator, delta(0, self.follower.text[:again]))

    @rule(operator=operators, position=st.integers(1, 3))
    def queue(self, operator: str, position: int) -> None:
        self.follower.reading.told(operator, delta(0, "", position=position))

    @rule(operator=operators)
    def give_up(self, operator: str) -> None:
        self.follower.reading.given_up(operator, "lost")

    @rule()
    def read(self) -> None:
        self.follower.take()

    @precondition(lambda self: not self.follower.ended)
    @rule(text=texts, more=st.booleans())
    def answer(self, text: str, more: bool) -> None:
        said = self.follower.text + text if more else text
        self.follower.reading.answered(result(said))
        self.follower.take()
        assert self.follower.ended

    @precondition(lambda self: not self.follower.ended)
    @rule()
    def end(self) -> None:
        self.follower.reading.ended("failed", 502)
        self.follower.take()
        assert isinstance(self.follower.given[-1], Broken)

    @invariant()
    def nothing_is_taken_back(self) -> None:
        assert self.follower.text.startswith(self.was)
        self.was = self.follower.text
        if self.follower.ended:
            self.follower.holds()

    @invariant()
    def room_is_bounded(self) -> None:
        reading = self.follower.reading
        assert sum(map(len, reading._fresh)) <= 40 or self.follower.reading.over


TestAnyDeltas = AnyDeltas.TestCase
TestAnyDeltas.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.text(alphabet="ab", max_size=3)), max_size=8),
    st.text("ab", max_size=8),
)
def test_what_a_leader_lets_through_as_an_answer_no_reader_of_the_whole_run_finds_broken(
    said: list[tuple[int, str]], answer: str
) -> None:
    """A follower that has heard all of one run, and a leader, say the same of an answer."""
    told, follower = Told(), Followed()
    for start, text in said:
        told.add(A, delta(start, text))
        follower.reading.told(A, delta(start, text))
    if told.agrees(A, answer):
        follower.take()
        follower.reading.answered(result(answer))
        follower.take()
        assert isinstance(follower.given[-1], Answered)
        follower.holds()


@pytest.mark.parametrize(
    ("operator", "answer", "agrees"),
    [(A, "one two", True), (A, "one", False), (A, "on", False), (A, "One two", False), (B, "other", True)],
)
def test_an_answer_must_begin_with_what_its_operator_streamed(
    operator: str, answer: str, agrees: bool
) -> None:
    told = Told()
    for said in (delta(0, "on"), delta(0, "one"), delta(3, " t"), delta(9, "?"), delta(0, "", position=1)):
        told.add(A, said)
    assert told.agrees(operator, answer) == agrees


def test_what_is_said_after_a_gap_is_held_against_nobody() -> None:
    told: Any = Told()
    told.add(A, delta(7, "behind a gap"))
    assert told.agrees(A, "anything")
