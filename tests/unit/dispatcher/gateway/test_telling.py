"""What clients are told of news, and how the news of several jobs become one stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.gateway.chunks import Rendering
from aos_dispatcher.gateway.errors import JobFailed
from aos_dispatcher.gateway.merging import merged
from aos_dispatcher.gateway.telling import Telling
from aos_dispatcher.reading import Answered, Broken, Queued
from aos_protocol.messages import JobResult, ModelOffer

JOBS = ["ab" * 32, "cd" * 32, "ef" * 32]


def answered(number: int, text: str = "text") -> Answered:
    run = {"finish_reason": "eos", "output_tokens": [5, 2], "prompt_tokens": [1]}
    offer = ModelOffer(name="m", sha256=JOBS[0])
    result = JobResult.model_construct(
        result=text,
        job_id=JOBS[number],
        operator="0x1",
        model=offer,
        transcript=run,
        record=None,
        logprobs=None,
    )
    return Answered(result)


def telling(count: int) -> Telling:
    return Telling(Rendering(chat=True, model="m", created=1, jobs=JOBS[:count]), [])


def chunks(told: bytes) -> list[Any]:
    data = [block.removeprefix("data: ") for block in told.decode().split("\n\n") if block]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def test_places_in_the_queue_are_comments() -> None:
    assert telling(1).hear(0, Queued(3)) == b": queued 3\n\n"


@given(order=st.permutations(range(3)))
def test_in_whatever_order_choices_end_the_last_says_what_was_used_and_all_is_done_once(
    order: list[int],
) -> None:
    told = telling(3)
    assert len(chunks(told.begin())) == 3
    for number in order[:-1]:
        [ended] = chunks(told.hear(number, answered(number)))
        assert ended["choices"][0]["index"] == number
        assert "usage" not in ended
        assert JOBS[number] not in told.open
        assert not told.whole
    last, done = chunks(told.hear(order[-1], answered(order[-1])))
    assert done == "[DONE]"
    assert last["usage"]["completion_tokens"] == 6
    assert [each["job_id"] for each in last["aos"]["jobs"]] == JOBS
    assert (told.whole, told.open) == (True, [])


def test_a_job_without_an_answer_is_named_and_not_open_any_more() -> None:
    told = telling(2)
    with pytest.raises(JobFailed, match="the operator is gone") as error:
        told.hear(1, Broken("the operator is gone", 502))
    assert (error.value.status, error.value.details) == (502, {"job_id": JOBS[1]})
    assert (told.open, told.whole) == ([JOBS[0]], False)


async def given_one_by_one(values: list[int], steps: asyncio.Queue[None]) -> AsyncIterator[int]:
    for value in values:
        await steps.get()
        yield value


@pytest.mark.parametrize("streams", [[], [[]], [[1, 2, 3]], [[1, 2], [], [3, 4, 5]]])
async def test_every_stream_s_news_come_in_its_order_with_its_number(streams: list[list[int]]) -> None:
    steps: asyncio.Queue[None] = asyncio.Queue()
    for _ in range(sum(map(len, streams))):
        steps.put_nowait(None)
    heard: dict[int, list[int]] = {number: [] for number in range(len(streams))}
    async for said in merged([given_one_by_one(each, steps) for each in streams], 10):
        assert said is not None
        heard[said[0]].append(said[1])
    assert list(heard.values()) == streams


async def test_silence_is_told_and_loses_nothing() -> None:
    steps: asyncio.Queue[None] = asyncio.Queue()
    news = merged([given_one_by_one([7], steps)], 0.01)
    assert [await anext(news), await anext(news)] == [None, None]
    steps.put_nowait(None)
    said = None
    while said is None:
        said = await anext(news)
    assert said == (0, 7)
    assert [each async for each in news if each is not None] == []


async def test_whoever_stops_listening_ends_the_streams() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    news = merged([endless()], 0.01)
    assert [await anext(news), await anext(news)] == [(0, 1), None]
    await news.aclose()
    assert ended.is_set()


async def test_what_a_stream_raises_is_raised() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise JobFailed("gone", job_id=JOBS[0], status=502)

    news = merged([broken()], 10)
    assert await anext(news) == (0, 1)
    with pytest.raises(JobFailed):
        await anext(news)
