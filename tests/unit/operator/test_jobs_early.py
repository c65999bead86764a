"""Streamed jobs are worked on while they are still being taken, and nothing comes of it unless they are."""

import asyncio
from typing import Any

import pytest

from aos_operator.errors import QueueUnavailable, StoreUnavailable
from aos_operator.jobs import Limits
from aos_operator.memory import MemoryStore
from aos_operator.tasks import Outcome, Request, Task, TaskKey, TaskState
from aos_protocol.messages import Dispatch
from unit.operator.parts import Parts
from unit.operator.world import World

WORLD = World()


def streamed(**changes: Any) -> Dispatch:
    made = WORLD.job(**changes)
    return made.model_copy(update={"job": made.job.model_copy(update={"stream": True})})


class SlowStore(MemoryStore):
    """Takes nothing before `go`; then it raises `trouble`, if there is some."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.trouble: Exception | None = None

    async def take(self, request: Request) -> Task:
        await self.go.wait()
        if self.trouble is not None:
            raise self.trouble
        return await super().take(request)


@pytest.fixture
def slow(parts: Parts) -> SlowStore:
    store = parts.store = SlowStore()
    return store


async def test_the_worker_is_asked_while_the_job_is_being_stored(parts: Parts, slow: SlowStore) -> None:
    job = streamed()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        taking = asyncio.create_task(jobs.take(job))
        await asyncio.wait_for(parts.worker.started.wait(), 5)
        assert slow.tasks == {}
        assert parts.post.sent == []
        slow.go.set()
        await taking
        await parts.post.progress.wait()
    assert parts.worker.runs == 1
    [outcome] = parts.post.accepted[TaskKey.of(job)]
    assert isinstance(outcome, Outcome)
    assert outcome.result == "What is AI?"


async def test_a_job_that_cannot_be_stored_is_worked_on_no_more(parts: Parts, slow: SlowStore) -> None:
    slow.trouble = StoreUnavailable("gone")
    parts.worker.go.clear()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        taking = asyncio.create_task(jobs.take(streamed()))
        await parts.worker.started.wait()
        slow.go.set()
        with pytest.raises(StoreUnavailable):
            await taking
        async with asyncio.timeout(5):
            while parts.worker.at_once:
                await asyncio.sleep(0)
        assert jobs.open_count == 0
    assert parts.post.sent == []


async def test_a_job_that_cannot_be_queued_is_worked_on_no_more(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_request: Request) -> None:
        raise QueueUnavailable("gone")

    parts.worker.go.clear()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        monkeypatch.setattr(parts.queue, "add", away)
        with pytest.raises(QueueUnavailable):
            await jobs.take(streamed())
        async with asyncio.timeout(5):
            while parts.worker.at_once:
                await asyncio.sleep(0)
    assert parts.post.sent == []


async def test_a_job_that_was_done_before_is_not_done_again(parts: Parts) -> None:
    job = streamed()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        await jobs.take(job)
        async with asyncio.timeout(5):
            while parts.state(job) is not TaskState.ACCEPTED or jobs.open_count:
                await asyncio.sleep(0)
        parts.worker.go.clear()
        await jobs.take(job)
        async with asyncio.timeout(5):
            while parts.worker.at_once:
                await asyncio.sleep(0)
    assert len(parts.post.sent) == 1


@pytest.mark.parametrize("job", [WORLD.job(), streamed(role="verifier"), WORLD.call()])
async def test_what_nobody_waits_for_is_taken_first(parts: Parts, slow: SlowStore, job: Any) -> None:
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        taking = asyncio.create_task(jobs.take(job))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (parts.worker.runs, parts.worker.scorings) == (0, 0)
        slow.go.set()
        await taking
        await parts.post.progress.wait()


async def test_without_a_free_place_a_streamed_job_waits_like_any_other(parts: Parts) -> None:
    parts.limits = Limits(open_tasks=10, running=1, page=2)
    parts.worker.go.clear()
    first, second = streamed(), streamed()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        await jobs.take(first)
        await parts.worker.started.wait()
        await jobs.take(second)
        assert parts.worker.runs == 1
        parts.worker.go.set()
        async with asyncio.timeout(5):
            while len(parts.post.accepted) < 2:
                await asyncio.sleep(0)
    assert parts.worker.most_at_once == 1


async def test_a_cancelled_job_stops_its_worker_at_once(parts: Parts) -> None:
    parts.worker.go.clear()
    job = streamed()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        await jobs.take(job)
        await parts.worker.started.wait()
        await jobs.cancel([TaskKey.of(job)])
        async with asyncio.timeout(5):
            while parts.worker.at_once:
                await asyncio.sleep(0)
    assert parts.state(job) is TaskState.CANCELLED


async def test_a_job_that_is_sent_twice_at_once_is_worked_on_once(parts: Parts, slow: SlowStore) -> None:
    job = streamed()
    async with parts.running() as jobs:
        await asyncio.sleep(0)
        both = [asyncio.create_task(jobs.take(job)) for _ in range(2)]
        await parts.worker.started.wait()
        slow.go.set()
        await asyncio.gather(*both)
        await parts.post.progress.wait()
    assert parts.worker.runs == 1
