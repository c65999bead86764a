"""What comes of streamed jobs on its way to the dispatcher: in groups, in runs, and never more than fits."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator import streams
from aos_operator.backends.protocol import Execution, Hear, Piece, Queued
from aos_operator.errors import AnswerRejected, LinkLost, WorkerUnavailable
from aos_operator.streams import Streams, Telling
from aos_operator.stub import StubWorker, stub_answer
from aos_operator.tasks import Outcome
from aos_operator.workshop import Workshop
from aos_protocol.canonical import JsonObject
from aos_protocol.fields import Role, parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import Delta, Dispatch, JobStream, TokenLogprob
from unit.operator.parts import Parts
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()


def job(prompt: str = "What is AI?", *, stream: bool = True, role: Role = "executor") -> Dispatch:
    made = WORLD.job(prompt, role=role)
    return made.model_copy(update={"job": made.job.model_copy(update={"stream": stream or None})})


class Notices:
    """A connection that keeps what is sent; while `busy`, it takes nothing, and without one, `open` is False."""

    def __init__(self) -> None:
        self.connection = 1
        self.open = True
        self.sent: list[Sequence[Delta]] = []
        self.some = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()
        self.waits = asyncio.Event()

    async def notice(self, method: str, param: JsonObject) -> None:
        assert method == "job_stream"
        self.waits.set()
        await self.free.wait()
        if not self.open:
            raise LinkLost
        self.sent.append(parse_message(JobStream, param).deltas)
        self.some.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < count:
                self.some.clear()
                await self.some.wait()

    @property
    def deltas(self) -> list[Delta]:
        return [delta for group in self.sent for delta in group]


@asynccontextmanager
async def sending(notices: Notices) -> AsyncIterator[Streams]:
    made = Streams(notices)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_the_first_text_leaves_at_once_and_what_comes_behind_it_together() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as one, made.telling(job()) as two:
            assert one is not None
            assert two is not None
            one.begin()
            two.begin()
            one.hear(Piece("a"))
            await notices.until(1)
            for text in "bcd":
                one.hear(Piece(text))
                two.hear(Piece(text.upper()))
            await notices.until(2)
    assert [(delta.start, delta.text) for delta in notices.deltas] == [(0, "a"), (1, "bcd"), (0, "BCD")]


async def test_what_a_slow_connection_does_not_take_is_joined() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as telling:
            assert telling is not None
            telling.hear(Piece("first"))
            notices.free.clear()
            await notices.waits.wait()
            for _ in range(1000):
                telling.hear(Piece("x"))
            notices.free.set()
            await notices.until(2)
    assert [len(delta.text) for delta in notices.deltas] == [5, 1000]


async def test_after_a_lost_connection_everything_is_told_anew() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as telling:
            assert telling is not None
            telling.hear(Piece("one"))
            await notices.until(1)
            notices.open = False
            notices.waits.clear()
            telling.hear(Piece(" two"))
            await notices.waits.wait()
            notices.open, notices.connection = True, 2
            telling.hear(Piece(" three"))
            await notices.until(2)
    assert [(delta.start, delta.text) for delta in notices.deltas] == [(0, "one"), (0, "one two three")]


async def test_a_job_that_is_sent_again_is_told_anew() -> None:
    """Its leader may be another one, and what was told on the way to that be lost."""
    notices, again = Notices(), job()
    async with sending(notices) as made:
        with made.telling(again) as telling, made.telling(job()) as other:
            assert telling is not None
            assert other is not None
            telling.hear(Piece("one"))
            other.hear(Piece("1"))
            await notices.until(1)
            made.retell(again)
            telling.hear(Piece(" two"))
            other.hear(Piece("2"))
            await notices.until(2)
    assert [(delta.start, delta.text) for delta in notices.sent[-1]] == [(0, "one two"), (1, "2")]


async def test_nothing_is_told_of_a_job_that_is_over() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as telling:
            assert telling is not None
            telling.hear(Piece("first"))
            await notices.until(1)
            telling.hear(Piece("comes with the result"))
        with made.telling(job()) as other:
            assert other is not None
            other.hear(Piece("other"))
            await notices.until(2)
    assert [delta.text for delta in notices.deltas] == ["first", "other"]


async def test_a_place_in_the_queue_is_told_unless_text_has_overtaken_it() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as telling:
            assert telling is not None
            telling.hear(Queued(3))
            telling.hear(Queued(2))
            await notices.until(1)
            telling.hear(Queued(1))
            telling.hear(Piece("text"))
            await notices.until(2)
    assert [(delta.position, delta.text) for delta in notices.deltas] == [(2, ""), (None, "text")]


async def test_text_that_no_message_can_carry_is_left_to_the_result() -> None:
    notices = Notices()
    async with sending(notices) as made:
        with made.telling(job()) as telling:
            assert telling is not None
            telling.hear(Piece("\ud83d"))
            telling.hear(Queued(1))
            await notices.until(1)
    assert [delta.text for delta in notices.deltas] == [""]


@pytest.mark.parametrize("dispatch", [job(stream=False), job(role="verifier")])
def test_only_the_executor_of_a_streamed_job_tells(dispatch: Dispatch) -> None:
    with Streams(Notices()).telling(dispatch) as telling:
        assert telling is None


@given(
    st.lists(
        st.builds(
            Piece,
            st.text(alphabet="ab", max_size=9),
            st.lists(st.builds(TokenLogprob, token=st.just("a"), logprob=st.just(-1.0)), max_size=2).map(
                tuple
            ),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 40),
)
def test_parts_of_a_long_text_follow_each_other_without_a_gap(pieces: list[Piece], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_MOST_CHARACTERS", most)
        patch.setattr(streams, "_LOGPROB", 8)
        telling = Telling(job(), Streams(Notices()))
        telling.pieces = list(pieces)
        deltas: list[Delta] = []
        while telling.due:
            delta = telling.next()
            assert delta is not None
            deltas.append(delta)
    assert "".join(delta.text for delta in deltas) == "".join(piece.text for piece in pieces)
    assert [delta.start for delta in deltas] == [
        sum(len(before.text) for before in deltas[:at]) for at in range(len(deltas))
    ]
    told = [one for delta in deltas for one in delta.logprobs or ()]
    assert told == [one for piece in pieces for one in piece.logprobs]


class Chatty(StubWorker):
    """A worker that says part of its answer, then does what a test wants."""

    def __init__(self, *runs: str | Exception) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.runs = list(runs)

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        assert hear is not None
        match self.runs.pop(0):
            case str(text):
                hear(Piece(text))
                return stub_answer(job, MODEL.sha256, seed, prover)
            case error:
                hear(Piece("What"))
                raise error


def workshop(worker: StubWorker, made: Streams) -> Workshop:
    async def domain() -> Any:
        raise AssertionError("only an enclave has anything to sign")

    return Workshop(worker, OPERATOR.address, domain, streams=made)


async def test_a_job_that_is_run_again_is_told_from_the_start(parts: Parts) -> None:
    """`parts` takes the pauses between attempts away."""
    notices = Notices()
    async with sending(notices) as made:
        worker = Chatty(WorkerUnavailable("gone"), "What is")
        outcome = await workshop(worker, made).work(job())
    assert isinstance(outcome, Outcome)
    assert outcome.result == "What is AI?"
    assert all("What is AI?".startswith(delta.text) and delta.start == 0 for delta in notices.deltas)
    assert parts.worker.runs == 0


async def test_an_answer_that_is_not_what_was_streamed_is_no_answer() -> None:
    async with sending(Notices()) as made:
        outcome = await workshop(Chatty("something else"), made).work(job())
    assert isinstance(outcome, Outcome)
    assert outcome.reason == "the backend's answer is another one than what it has streamed"


@pytest.mark.parametrize(
    ("text", "tokens", "good"), [("ab", "a", True), ("ab", "ab", True), ("ab", "b", False), ("ab", "", False)]
)
def test_logprobs_that_were_streamed_are_part_of_the_answer(text: str, tokens: str, good: bool) -> None:
    telling = Telling(job(), Streams(Notices()))
    telling.pieces.append(Piece("a", (TokenLogprob(token="a", logprob=-1.0),)))
    logprobs = [TokenLogprob(token=token, logprob=-1.0).to_json() for token in tokens]
    outcome = Outcome(text, "", None, logprobs=logprobs or None)
    if good:
        telling.check(outcome)
    else:
        with pytest.raises(AnswerRejected):
            telling.check(outcome)
