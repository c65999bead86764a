import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message

from aos_inference.engine import Engine
from aos_inference.errors import ClientLeft, QueueFull
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.streaming import GenerationStream, unless_client_leaves
from aos_inference.testing import ByteModel
from aos_inference.worker import Generation, Worker
from aos_protocol.transcript import Params


class Client:
    """The other end of an ASGI connection; `leave` disconnects it."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.leave = asyncio.Event()

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.received.append(message)

    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events as (name, JSON)."""
        body = b"".join(message.get("body", b"") for message in self.received).decode()
        found = []
        for block in body.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
        return found


@pytest.fixture
def model() -> ByteModel:
    return ByteModel()


@pytest.fixture
async def worker(model: ByteModel) -> AsyncIterator[Worker]:
    engine = Engine(model, model, context=4000, limits=Limits(1, requests=1, tokens=1000))
    engine.start()
    card = ModelCard(name="m", sha256="0" * 64, size=1, context=4000, vocabulary=260, engine="stand-in")
    yield Worker(card, engine, model, None)
    model.open.set()
    engine.stop()
    if engine.alive:
        await engine.wait()


def generation(max_tokens: int = 12) -> Generation:
    params = Params(temperature=1.0, top_p=0.9, max_tokens=max_tokens, stop=())
    return Generation([256, 65], params, bytes(32), "0xme")


async def stream(worker: Worker, client: Client, job: Generation) -> None:
    await GenerationStream(worker, job)({"type": "http"}, client.receive, client.send)


async def test_text_then_the_answer(worker: Worker) -> None:
    client = Client()
    await stream(worker, client, generation())
    assert client.received[0]["status"] == 200
    *texts, (name, answer) = client.events()
    assert all(kind == "message" and list(data) == ["text"] and data["text"] for kind, data in texts)
    assert name == "message"
    assert "".join(data["text"] for _, data in texts) == answer["text"]
    assert answer == (await worker.complete(generation())).model_dump(mode="json")
    assert not client.received[-1].get("more_body", False)


async def test_a_failure_midway_is_an_error_event(worker: Worker, model: ByteModel) -> None:
    client = Client()
    model.open.clear()
    running = asyncio.create_task(stream(worker, client, generation()))
    while not client.received:
        await asyncio.sleep(0)
    worker.engine.stop()
    await running
    name, problem = client.events()[-1]
    assert (name, problem["code"]) == ("error", 503)
    assert not client.received[-1].get("more_body", False)


async def test_a_full_queue_is_refused_before_the_status_line(worker: Worker, model: ByteModel) -> None:
    model.open.clear()
    client = Client()
    with worker.run(generation()), worker.run(generation()), pytest.raises(QueueFull):
        await stream(worker, client, generation())
    assert client.received == []


async def test_a_job_that_waits_is_told_its_place(worker: Worker, model: ByteModel) -> None:
    model.open.clear()
    client = Client()
    with worker.run(generation()):
        running = asyncio.create_task(stream(worker, client, generation()))
        while len(client.received) < 2:
            await asyncio.sleep(0)
        assert client.events() == [("queued", {"position": 1})]
    model.open.set()
    await running
    assert [name for name, _ in client.events()[1:]] == ["message"] * (len(client.events()) - 1)


async def left_meanwhile(worker: Worker, client: Client, running: asyncio.Future[Any]) -> None:
    """Have the client leave once the worker is at it."""
    while not worker.engine.load.active:
        await asyncio.sleep(0)
    client.leave.set()
    await running


async def test_a_client_that_leaves_cancels(worker: Worker, model: ByteModel) -> None:
    client, job = Client(), generation(max_tokens=3000)
    model.open.clear()
    work = asyncio.ensure_future(unless_client_leaves(client.receive, worker.complete(job)))
    with pytest.raises(ClientLeft):
        await left_meanwhile(worker, client, work)
    assert worker.engine.load == (0, 0, 0)


async def test_a_client_that_leaves_its_stream_cancels_it_and_is_no_failure(
    worker: Worker, model: ByteModel
) -> None:
    client = Client()
    model.open.clear()
    running = asyncio.ensure_future(stream(worker, client, generation(max_tokens=3000)))
    await left_meanwhile(worker, client, running)
    assert worker.engine.load == (0, 0, 0)


async def test_what_finishes_first_counts() -> None:
    client = Client()

    async def work() -> str:
        return "done"

    assert await unless_client_leaves(client.receive, work()) == "done"


async def test_a_failure_of_the_work_is_passed_on() -> None:
    async def work() -> str:
        raise QueueFull

    with pytest.raises(QueueFull):
        await unless_client_leaves(Client().receive, work())


async def test_being_cancelled_cancels_the_work(worker: Worker, model: ByteModel) -> None:
    """As uvicorn does at the end of its grace period."""
    model.open.clear()
    running = asyncio.create_task(stream(worker, Client(), generation()))
    while not worker.engine.load.active:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert worker.engine.load == (0, 0, 0)
