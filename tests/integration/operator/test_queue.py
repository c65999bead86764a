"""What a queue promises: the one on a Redis stream, the one in an SQLite file, and the one in memory that stands in for them elsewhere."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio as redis

from aos_operator.embedded import opened
from aos_operator.embedded_queue import SqliteQueue
from aos_operator.errors import QueueUnavailable
from aos_operator.memory import MemoryQueue
from aos_operator.queue import GROUP, Queue, RedisQueue, connect_redis
from aos_operator.tasks import Request
from aos_protocol.job import Claim
from aos_protocol.messages import Dispatch
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import private_job
from unit.operator.world import OPERATOR, World

WORLD = World()


@pytest_asyncio.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    client = connect_redis(redis_url)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def stream(client: redis.Redis) -> RedisQueue:
    queue = RedisQueue(client, OPERATOR.address, "task")
    await queue.open()
    return queue


@pytest_asyncio.fixture
async def rows(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    async with opened(tmp_path / "memory.sqlite", OPERATOR.address) as file:
        queue = SqliteQueue(file)
        await queue.open()
        yield queue


@pytest.fixture(params=["redis", "sqlite", "memory"])
def queue(request: pytest.FixtureRequest) -> Queue:
    match request.param:
        case "memory":
            return MemoryQueue()
        case "sqlite":
            return request.getfixturevalue("rows")
        case _:
            return request.getfixturevalue("stream")


async def test_entries_come_in_order_and_once(queue: Queue, enclave: SimulatedEnclave) -> None:
    jobs: list[Request] = [WORLD.job(f"prompt {number} é💡") for number in range(3)]
    jobs += [WORLD.call(challenge=number) for number in range(2)]
    jobs += [WORLD.call(WORLD.job(claim=Claim(text="é💡"))), private_job(WORLD, enclave)]
    for job in jobs:
        await queue.add(job)
    assert [entry.request for entry in await queue.read(0)] == jobs
    assert await queue.read(0) == []


async def test_a_reader_is_woken_by_an_entry(queue: Queue) -> None:
    reading = asyncio.create_task(queue.read(5))
    await asyncio.sleep(0.01)
    job = WORLD.job()
    await queue.add(job)
    assert [entry.request for entry in await reading] == [job]


async def test_what_is_not_done_is_taken_over(queue: Queue) -> None:
    for _ in range(3):
        await queue.add(WORLD.job())
    first, second, third = await queue.read(0)
    await queue.done(second.id)
    assert list(await queue.take_over()) == [first, third]
    assert list(await queue.take_over()) == [first, third]


async def test_done_twice_is_no_error(queue: Queue) -> None:
    await queue.add(WORLD.job())
    [entry] = await queue.read(0)
    await queue.done(entry.id)
    await queue.done(entry.id)
    assert await queue.take_over() == []


async def test_opening_twice_loses_nothing(queue: Queue) -> None:
    await queue.add(WORLD.job())
    await queue.open()
    assert len(await queue.read(0)) == 1


async def test_a_block_that_ends_brings_nothing(stream: RedisQueue) -> None:
    assert await stream.read(0.01) == []


async def test_entries_of_dead_processes_are_taken_over_and_the_dead_forgotten(
    client: redis.Redis, stream: RedisQueue
) -> None:
    jobs = [WORLD.job() for _ in range(250)]
    for job in jobs:
        await stream.add(job)
    for consumer, count in (("dead-1", 120), ("dead-2", 130)):
        await client.xreadgroup(GROUP, consumer, {stream.stream: ">"}, count=count)
    taken = await stream.take_over()
    assert [entry.request for entry in taken] == jobs
    consumers = await client.xinfo_consumers(stream.stream, GROUP)
    assert [consumer["pending"] for consumer in consumers] == [250]


async def test_many_at_once_are_added_and_done_in_a_handful_of_trips(
    client: redis.Redis, stream: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[Any] = []
    pipeline = client.pipeline

    def counted(**options: Any) -> Any:
        trips.append(options)
        return pipeline(**options)

    monkeypatch.setattr(client, "pipeline", counted)
    jobs = [WORLD.job(f"prompt {number}") for number in range(90)]
    await asyncio.gather(*map(stream.add, jobs))
    entries = await stream.read(0)
    await asyncio.gather(*(stream.done(entry.id) for entry in entries))
    assert len(trips) == 3 + 1  # by 32, and by 100
    assert [entry.request for entry in entries] == jobs
    assert await client.xlen(stream.stream) == 0
    assert (await client.xpending(stream.stream, GROUP))["pending"] == 0


async def test_an_own_entry_is_not_parsed_and_another_s_is(client: redis.Redis, stream: RedisQueue) -> None:
    job = WORLD.job()
    await stream.add(job)
    await RedisQueue(client, OPERATOR.address, "task").add(job)
    own, other = await stream.read(0)
    assert own.request is job
    assert other.request == job
    assert other.request is not job


async def test_a_done_entry_is_gone_from_redis(client: redis.Redis, stream: RedisQueue) -> None:
    await stream.add(WORLD.job())
    [entry] = await stream.read(0)
    await stream.done(entry.id)
    assert await client.xlen(stream.stream) == 0
    assert (await client.xpending(stream.stream, GROUP))["pending"] == 0


async def test_operators_and_topics_that_share_a_redis_do_not_meet(
    client: redis.Redis, stream: RedisQueue
) -> None:
    await stream.add(WORLD.job())
    for other in (
        RedisQueue(client, "0x" + "99" * 20, "task"),
        RedisQueue(client, OPERATOR.address, "other"),
    ):
        await other.open()
        assert await other.read(0) == []
    assert len(await stream.read(0)) == 1


async def test_a_queue_that_was_flushed_can_be_opened_again(client: redis.Redis, stream: RedisQueue) -> None:
    await client.flushdb()
    with pytest.raises(QueueUnavailable, match="NOGROUP"):
        await stream.read(0)
    with pytest.raises(QueueUnavailable, match="NOGROUP"):
        await stream.take_over()
    await stream.open()
    await stream.add(WORLD.job())
    assert len(await stream.read(0)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"other": "x"},
        {"dispatch_job": "not json"},
        {"dispatch_job": "{}"},
        {"score_job": "[]"},
        {"a": "1", "b": "2"},
    ],
)
async def test_an_entry_that_cannot_be_read_is_named_by_its_id(
    client: redis.Redis, stream: RedisQueue, fields: dict[Any, Any]
) -> None:
    entry_id = await client.xadd(stream.stream, fields)
    [entry] = await stream.read(0)
    assert (entry.id, entry.request) == (entry_id, None)


async def test_a_large_job_fits(stream: RedisQueue) -> None:
    job = WORLD.job("x" * 1_000_000)
    await stream.add(job)
    [entry] = await stream.read(0)
    assert entry.request == job


async def test_a_cancellation_at_any_moment_is_kept(redis_url: str) -> None:
    """Found as an operator that never ended: redis-py had swallowed the cancellation of the task that reads."""
    chance = random.Random(7)
    for _ in range(100):
        client = connect_redis(redis_url)
        queue = RedisQueue(client, OPERATOR.address, "task")

        async def open_and_stay(queue: RedisQueue = queue) -> None:
            await queue.open()
            await asyncio.Event().wait()

        opening = asyncio.create_task(open_and_stay())
        await asyncio.sleep(chance.uniform(0, 0.004))
        opening.cancel()
        await asyncio.wait([opening], timeout=30)
        assert opening.cancelled()
        await client.aclose()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock"])
async def test_a_server_that_is_not_there_is_unavailable(url: str) -> None:
    client = connect_redis(url)
    queue = RedisQueue(client, OPERATOR.address, "task")
    job: Dispatch = WORLD.job()
    for call in (
        queue.open,
        queue.take_over,
        lambda: queue.add(job),
        lambda: queue.read(0),
        lambda: queue.done("1-0"),
    ):
        with pytest.raises(QueueUnavailable, match="check its service"):
            await call()
    await client.aclose()
