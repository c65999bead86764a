"""The worker's server-sent events as they come: the fake writes what a test gives it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from aos_operator.backends.protocol import Piece, Queued
from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.stub import stub_answer
from aos_protocol.job import JobSpec
from aos_protocol.messages import TokenLogprob
from integration.operator.fake_worker import FakeWorker
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import private_job
from unit.operator.world import MODEL, OPERATOR, World

JOB = JobSpec(tag="opml", prompt="What is AI?", model=MODEL.name, stream=True)
SEED = "ab" * 32
ANSWER = stub_answer(JOB, MODEL.sha256, SEED, OPERATOR.address)


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with FakeWorker().serving() as serving:
        yield serving


@pytest_asyncio.fixture
async def client(worker: FakeWorker) -> AsyncIterator[HttpWorker]:
    client = HttpWorker(worker.url, timeout=30)
    yield client
    await client.close()


def events(*said: tuple[str, Any]) -> bytes:
    return b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"
        for name, data in said
    )


async def heard_of(client: HttpWorker) -> tuple[list[Piece | Queued], dict[str, Any]]:
    heard: list[Piece | Queued] = []
    return heard, await client.generate(JOB, SEED, OPERATOR.address, hear=heard.append)


async def test_places_text_and_logprobs_are_told_and_the_last_event_is_the_answer(
    client: HttpWorker, worker: FakeWorker
) -> None:
    worker.body = events(
        ("queued", {"position": 2}),
        ("", {"text": "What"}),
        ("", {"text": " is", "logprobs": [{"token": " is", "logprob": -0.5, "top": [[" was", -1.5]]}]}),
        ("", ANSWER),
    )
    heard, answer = await heard_of(client)
    told = TokenLogprob(token=" is", logprob=-0.5, top=[(" was", -1.5)])
    assert heard == [Queued(2), Piece("What"), Piece(" is", (told,))]
    assert answer == ANSWER
    assert worker.jobs[0]["stream"] is True


@pytest.mark.parametrize(
    ("body", "error", "why"),
    [
        (events(("", {"text": "What"})), WorkerUnavailable, "broke off"),
        (b"", WorkerUnavailable, "broke off"),
        (events(("error", {"code": 500, "message": "a fault"})), WorkerRefused, "a fault"),
        (events(("error", {"code": 503, "message": "the engine stops"})), WorkerBusy, "the engine stops"),
        (b"data: {\n\n", WorkerUnavailable, "cannot be read"),
        (b"data: [1]\n\n", WorkerUnavailable, "cannot be read"),
        (events(("queued", {})), WorkerUnavailable, "cannot be read"),
        (events(("other", {"text": "x"})), WorkerUnavailable, "cannot be read"),
        (events(("", {"text": "x", "logprobs": 3})), WorkerUnavailable, "cannot be read"),
        (events(("", {"text": "x", "logprobs": [{"token": 3}]})), WorkerUnavailable, "cannot be read"),
    ],
)
async def test_a_stream_that_ends_badly_says_why(
    client: HttpWorker, worker: FakeWorker, body: bytes, error: type[Exception], why: str
) -> None:
    worker.body = body
    with pytest.raises(error, match=why):
        await heard_of(client)


@pytest.mark.parametrize(
    ("status", "error"), [(503, WorkerBusy), (502, WorkerUnavailable), (422, WorkerRefused)]
)
async def test_a_stream_that_does_not_begin_is_an_error_like_any(
    client: HttpWorker, worker: FakeWorker, status: int, error: type[Exception]
) -> None:
    worker.status = status
    with pytest.raises(error, match="told to"):
        await heard_of(client)


async def test_whoever_stops_listening_leaves_the_worker(client: HttpWorker, worker: FakeWorker) -> None:
    worker.go.clear()
    asking = asyncio.create_task(heard_of(client))
    await worker.started.wait()
    asking.cancel()
    await asyncio.wait_for(worker.left.wait(), 10)
    assert asking.cancelled() or asking.cancelling()


async def test_a_sealed_prompt_is_not_streamed(
    client: HttpWorker, worker: FakeWorker, enclave: SimulatedEnclave
) -> None:
    worker.status = 422
    with pytest.raises(WorkerRefused):
        await client.generate(private_job(World(), enclave).job, SEED, OPERATOR.address, hear=lambda _: None)
    assert worker.jobs[0]["stream"] is False
