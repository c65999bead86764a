"""Streams from the executor to whoever follows the job: real dispatcher, real PostgreSQL, operators that say what a test wants."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aos_dispatcher.following import Answered, Broken, News, Piece, Queued
from aos_protocol.frames import Frame
from integration.dispatcher.conftest import Network
from support.operators import ScriptedOperator

ANSWER = "one two three"


def streamed_body(network: Network, **job: Any) -> dict[str, Any]:
    body = network.body()
    return body | {"job": body["job"] | {"stream": True} | job}


def told(operator: ScriptedOperator, *deltas: dict[str, Any]) -> Frame:
    """A `job_stream` frame for the operator's last dispatch."""
    last = operator.dispatched[-1]
    named = {"job_id": last.job_id, "tag": last.tag}
    return operator.request("job_stream", {"deltas": [named | delta for delta in deltas]})


class Reader:
    """Follows a job in the background and keeps what it was given; `some` is set with everything that comes."""

    def __init__(self, network: Network, job_id: str) -> None:
        self.news: list[News] = []
        self.some = asyncio.Event()
        self._following = network.dispatcher.following
        self._job_id = job_id
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with self._following.follow(self._job_id) as news:
            async for one in news:
                self.news.append(one)
                self.some.set()

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.news if isinstance(one, Piece))

    @property
    def end(self) -> News:
        return self.news[-1]

    async def has(self, text: str) -> None:
        """Wait until so much was given out, and nothing else."""
        async with asyncio.timeout(10):
            while self.text != text:
                self.some.clear()
                await self.some.wait()

    async def ended(self) -> News:
        await asyncio.wait_for(self.task, 20)
        return self.end


async def begin(network: Network, *operators: ScriptedOperator, **job: Any) -> tuple[Reader, ScriptedOperator]:
    """Submit a streamed job whose executor waits, and follow it; the reader, and the executor once it has the job."""
    for operator in operators:
        operator.answer = None
    answer = await network.client.post("/api/job/submit", json=streamed_body(network, **job))
    assert answer.status_code == 200, answer.text
    reader = Reader(network, answer.json()["result"])
    async with asyncio.timeout(10):
        while not (asked := [one for one in operators if one.dispatched]):
            await asyncio.sleep(0.01)
    return reader, asked[0]


async def answer(operator: ScriptedOperator, text: str = ANSWER) -> None:
    operator.answer = text
    await operator.send_result(operator.dispatched[-1])


async def test_text_comes_as_it_is_told_and_all_of_it_is_the_answer(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"position": 2}).text)
    await asyncio.wait_for(reader.some.wait(), 10)
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await operator.send(told(operator, {"start": 3, "text": " two"}).text)
    await reader.has("one two")
    await answer(operator)
    end = await reader.ended()
    assert isinstance(end, Answered)
    assert reader.text == end.result.result == ANSWER
    assert reader.news[0] == Queued(2)
    assert (await network.finished(reader._job_id))["status"] == "completed"
    assert await network.unpassed(reader._job_id) == []


async def test_a_job_that_does_not_stream_is_one_piece(network: Network) -> None:
    await network.operator()
    reader = Reader(network, await network.submit())
    end = await reader.ended()
    assert reader.news == [Piece("a sensible answer"), end]
    assert isinstance(end, Answered)
