"""A stream through real processes: the client's is stopped in mid-stream, and its operator and its round go on at the other one."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from aos_operator.backends.protocol import Execution, Hear, Piece
from aos_operator.stub import StubWorker
from aos_protocol.job import JobSpec
from integration.dispatcher.processes import OneDispatcher, one_dispatcher, operator
from support.operators import MODEL

PROMPT = "What is AI?"
DRAIN_S = 600
"""As long as a test is patient; it ends that time itself."""
CALM_S = 5
"""A heartbeat by which nobody is missed who is only slow: the gateway refuses a model that nobody serves at the moment."""


class SteppingWorker(StubWorker):
    """A stub that says as many characters as it was let; then the whole answer, or it hears that nobody wants it any more."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.allowed = asyncio.Semaphore(0)
        self.dropped = asyncio.Event()

    def let(self, characters: int) -> None:
        for _ in range(characters):
            self.allowed.release()

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        answer = await super().generate(job, seed, prover, execution)
        assert hear is not None
        try:
            for character in answer["text"]:
                await self.allowed.acquire()
                hear(Piece(character))
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        return answer


class Streaming:
    """A request for text that streams: what has come of it."""

    def __init__(self, dispatcher: OneDispatcher, number: int, stack: AsyncExitStack) -> None:
        self.dispatcher = dispatcher
        self.url = dispatcher.urls[number] + "/v1/completions"
        self.stack = stack
        self.job_id = ""

    async def begin(self) -> None:
        """Ask; there is no answer before there is some text."""
        body = {"model": MODEL.name, "prompt": PROMPT, "max_tokens": 16, "stream": True}
        headers = {"Authorization": f"Bearer {self.dispatcher.token}"}
        asked = self.dispatcher.client.stream("POST", self.url, json=body, headers=headers)
        self.response = await self.stack.enter_async_context(asked)
        assert self.response.status_code == 200, await self.response.aread()
        self.job_id = self.response.headers["x-aos-job-id"]
        self._events = _events(self.response)

    async def read(self, text: str) -> None:
        """Read on until so much has come."""
        got = ""
        async with asyncio.timeout(30):
            while got != text:
                event = await anext(self._events)
                assert "error" not in event, event
                got += "".join(choice["text"] for choice in event["choices"])

    async def rest(self) -> list[Any]:
        async with asyncio.timeout(30):
            return [event async for event in self._events]


async def _events(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


@pytest_asyncio.fixture
async def dispatcher(tmp_path: Path, new_database: Any, redis_url: str) -> AsyncIterator[OneDispatcher]:
    async with one_dispatcher(
        tmp_path, await new_database("dispatcher"), redis_url, drain=DRAIN_S, heartbeat=CALM_S
    ) as running:
        yield running
        for number, child in enumerate(running.children):
            if child.returncode is None:  # the first signal; the second ends the draining
                running.signal(number, signal.SIGTERM)
                await running.said(number, "draining: requests are served")


async def test_a_stream_outlives_the_draining_of_its_process_or_says_that_it_does_not(
    dispatcher: OneDispatcher, new_database: Any, redis_url: str
) -> None:
    """Both streams are at process 0, as is their operator. One ends while that drains, the other is still open when that is over."""
    worker = SteppingWorker()
    async with (
        AsyncExitStack() as stack,
        operator(
            dispatcher, await new_database("operator"), redis_url, at=0, worker=worker, heartbeat=CALM_S
        ),
    ):
        await dispatcher.operators_known(0, 1)
        await dispatcher.operators_known(1, 1)
        whole, broken = (Streaming(dispatcher, 0, stack) for _ in range(2))
        worker.let(4)
        await whole.begin()
        await whole.read(PROMPT[:4])
        dispatcher.signal(0, signal.SIGTERM)
        await dispatcher.said(0, "draining: requests are served")
        worker.let(len(PROMPT) - 4)
        events = await whole.rest()
        assert events[-1] == "[DONE]"
        assert "".join(choice["text"] for event in events[:-1] for choice in event["choices"]) == PROMPT[4:]
        assert (await dispatcher.ended(1, whole.job_id))["status"] == "completed"

        worker.let(4)
        await broken.begin()
        await broken.read(PROMPT[:4])
        dispatcher.signal(0, signal.SIGTERM)
        events = await broken.rest()
        assert "[DONE]" not in events
        assert (events[-1]["code"], "being stopped" in events[-1]["error"]["message"]) == (503, True)
        await dispatcher.children[0].until_ended()
        detail = await dispatcher.ended(1, broken.job_id)
        assert (detail["status"], "being stopped" in detail["reason"]) == ("failed", True)
        await asyncio.wait_for(worker.dropped.wait(), 20)


async def test_a_client_that_leaves_stops_the_worker(
    dispatcher: OneDispatcher, new_database: Any, redis_url: str
) -> None:
    """Asked at one process, its operator at the other."""
    worker = SteppingWorker()
    async with operator(
        dispatcher, await new_database("operator"), redis_url, at=1, worker=worker, heartbeat=CALM_S
    ):
        await dispatcher.operators_known(0, 1)
        async with AsyncExitStack() as stack:
            streaming = Streaming(dispatcher, 0, stack)
            worker.let(4)
            await streaming.begin()
            await streaming.read(PROMPT[:4])
        await asyncio.wait_for(worker.dropped.wait(), 20)
        assert (await dispatcher.ended(1, streaming.job_id))["status"] == "cancelled"
