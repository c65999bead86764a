"""Jobs: every step from a dispatch to its accepted result."""

import asyncio
from typing import Any

import pytest

from aos_operator.errors import (
    LinkLost,
    QueueUnavailable,
    Refused,
    StoreUnavailable,
    WorkerRefused,
    WorkerUnavailable,
)
from aos_operator.events import Settled
from aos_operator.memory import MemoryQueue, MemoryStore
from aos_operator.queue import Entry
from aos_operator.tasks import Outcome, Product, Request, Task, TaskKey, TaskState
from aos_protocol.job import JobSpec
from unit.operator.parts import Parts, Worker
from unit.operator.world import World

WORLD = World()


async def test_a_job_goes_from_its_dispatch_to_its_accepted_result(parts: Parts) -> None:
    dispatch = WORLD.job("What is AI?")
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
        assert jobs.open_count == 0
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert isinstance(outcome, Outcome)
    assert outcome.result == "What is AI?"
    assert parts.state(dispatch) is TaskState.ACCEPTED


async def test_a_taken_job_is_durable_before_take_returns(parts: Parts) -> None:
    dispatch = WORLD.job()
    await parts.jobs().take(dispatch)
    assert parts.store.tasks[TaskKey.of(dispatch)].open
    assert [entry.request for entry in parts.queue.unread] == [dispatch]


async def test_a_repeated_dispatch_runs_once_and_brings_its_clock(parts: Parts) -> None:
    dispatch = WORLD.job(clock={"1": "1"})
    parts.worker.go.clear()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await parts.worker.started.wait()
        await jobs.take(dispatch.model_copy(update={"clock": {"1": "8"}}))
        parts.worker.go.set()
        await jobs.idle()
        await jobs.take(dispatch)
        await jobs.idle()
    assert parts.worker.runs == 1
    assert [task.request.clock for task in parts.post.sent] == [{"1": "8"}]


async def test_no_more_than_the_limit_is_taken(parts: Parts) -> None:
    jobs = parts.jobs()
    dispatches = [WORLD.job() for _ in range(10)]
    for dispatch in dispatches:
        assert not jobs.full
        await jobs.take(dispatch)
    assert jobs.full
    with pytest.raises(Refused, match="10 jobs are queued") as refused:
        await jobs.take(WORLD.job())
    assert refused.value.code == 429
    await jobs.take(dispatches[0])  # what is here already takes no more room


async def test_dispatches_that_arrive_at_once_do_not_pass_the_limit(parts: Parts) -> None:
    jobs = parts.jobs()
    taken = await asyncio.gather(*(jobs.take(WORLD.job()) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, Refused) for outcome in taken) == 10


async def test_the_worker_gets_a_bounded_number_at_once(parts: Parts) -> None:
    parts.worker.go.clear()
    async with parts.running() as jobs:
        for _ in range(8):
            await jobs.take(WORLD.job())
        while parts.worker.at_once < 2:
            await asyncio.sleep(0)
        for _ in range(50):  # time for a third to slip in
            await asyncio.sleep(0)
        parts.worker.go.set()
        await jobs.idle()
    assert (parts.worker.runs, parts.worker.most_at_once) == (8, 2)


async def test_a_worker_that_is_away_is_asked_again(parts: Parts) -> None:
    parts.worker.trouble = [WorkerUnavailable(), WorkerUnavailable()]
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    assert parts.worker.runs == 3
    assert parts.post.accepted[TaskKey.of(dispatch)][0].reason == ""


async def test_a_refusal_of_the_worker_becomes_the_reason(parts: Parts) -> None:
    parts.worker.trouble = [WorkerRefused("the prompt does not fit (HTTP 422)")]
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert outcome == Outcome.failed("the prompt does not fit (HTTP 422)")


async def test_an_answer_that_does_not_fit_the_job_is_not_sent(parts: Parts) -> None:
    class OtherModel(Worker):
        async def generate(self, job: JobSpec, seed: str, prover: str, *more: Any) -> dict[str, Any]:
            answer = await super().generate(job, seed, prover, *more)
            return {**answer, "commitment": "00" * 32}

    parts.worker = OtherModel()
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert isinstance(outcome, Outcome)
    assert (outcome.result, outcome.transcript) == ("", None)
    assert "commitment" in outcome.reason


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_result_that_cannot_be_taken_now_is_sent_again(parts: Parts, code: int) -> None:
    replies = iter([Settled("1", code, "later"), Settled("2", code, "later"), Settled("3", 200, "success")])
    parts.post.say = lambda _: next(replies)
    async with parts.running() as jobs:
        await jobs.take(WORLD.job())
        await jobs.idle()
    assert len(parts.post.sent) == 3
    assert parts.worker.runs == 1


async def test_a_lost_connection_sends_the_result_again(parts: Parts) -> None:
    lost = [LinkLost(), LinkLost()]

    def say(_: Task) -> Settled:
        if lost:
            raise lost.pop()
        return Settled("1", 200, "success")

    parts.post.say = say
    async with parts.running() as jobs:
        await jobs.take(WORLD.job())
        await jobs.idle()
    assert len(parts.post.sent) == 3


async def test_a_result_refused_for_good_is_not_sent_again(parts: Parts) -> None:
    parts.post.say = lambda _: Settled("1", 400, "not a member of this committee")
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    assert len(parts.post.sent) == 1
    assert parts.state(dispatch) is TaskState.REFUSED
    assert parts.store.verdicts[TaskKey.of(dispatch)] == "not a member of this committee"


@pytest.mark.parametrize("code", [200, 400])
async def test_what_a_dispatcher_says_is_kept_as_a_database_can_keep_it(parts: Parts, code: int) -> None:
    parts.post.say = lambda _: Settled("1", code, "a\0b\ud800" + "c" * 10_000)
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    verdict = parts.store.verdicts[TaskKey.of(dispatch)]
    assert verdict == "ab?" + "c" * 4093


class TestCancel:
    async def test_all_that_a_round_asked_for_is_dropped(self, parts: Parts) -> None:
        job = WORLD.job()
        ours, other = WORLD.call(job), WORLD.call(job, challenge=1)
        parts.worker.go.clear()
        async with parts.running() as jobs:
            requests: list[Request] = [job, ours, other]
            for request in requests:
                await jobs.take(request)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(job), TaskKey.of(ours)])
            parts.worker.go.set()
            await jobs.idle()
        states = [parts.state(request) for request in requests]
        assert states == [TaskState.CANCELLED, TaskState.CANCELLED, TaskState.ACCEPTED]
        assert set(parts.post.accepted) == {TaskKey.of(other)}

    async def test_a_running_job_stops_and_frees_its_place(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        parts.worker.go.clear()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(dispatch)])
            await asyncio.sleep(0)
            assert (jobs.open_count, parts.worker.at_once) == (0, 0)
        assert parts.state(dispatch) is TaskState.CANCELLED
        assert parts.queue.pending == {}
        assert parts.post.sent == []

    async def test_a_job_that_was_not_begun_never_begins(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        jobs = parts.jobs()
        await jobs.take(dispatch)
        await jobs.cancel([TaskKey.of(dispatch)])
        async with parts.running():
            while parts.queue.unread or parts.queue.pending:
                await asyncio.sleep(0)
        assert parts.worker.runs == 0

    async def test_what_is_not_known_is_cancelled_without_a_word(self, parts: Parts) -> None:
        await parts.jobs().cancel([TaskKey("ab" * 32, "")])

    async def test_an_accepted_job_stays_accepted(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await jobs.idle()
            await jobs.cancel([TaskKey.of(dispatch)])
        assert parts.state(dispatch) is TaskState.ACCEPTED

    async def test_a_cancelled_job_that_is_dispatched_again_is_run(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        parts.worker.go.clear()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(dispatch)])
            parts.worker.go.set()
            await jobs.take(dispatch)
            await jobs.idle()
        assert parts.state(dispatch) is TaskState.ACCEPTED


class TestRecovery:
    async def test_an_outcome_that_is_stored_is_sent_without_running_again(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        await parts.store.finish(dispatch, Outcome.failed("stored before the crash"))
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.worker.runs == 0
        assert parts.post.accepted[TaskKey.of(dispatch)][0].reason == "stored before the crash"

    async def test_a_queue_that_lost_everything_gets_it_back_from_the_store(self, parts: Parts) -> None:
        dispatches = [WORLD.job() for _ in range(5)]
        for dispatch in dispatches:
            await parts.jobs().take(dispatch)
        parts.queue = MemoryQueue()
        async with parts.running():
            while len(parts.post.accepted) < 5:
                await asyncio.sleep(0.001)
        assert {TaskKey.of(dispatch) for dispatch in dispatches} == set(parts.post.accepted)

    async def test_a_store_that_lost_everything_gets_it_back_from_the_queue(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        parts.store = MemoryStore()
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.state(dispatch) is TaskState.ACCEPTED

    async def test_an_entry_that_cannot_be_read_is_dropped(self, parts: Parts) -> None:
        parts.queue.unread.append(Entry("1-0", None))
        async with parts.running():
            while parts.queue.unread or parts.queue.pending:
                await asyncio.sleep(0)

    async def test_the_same_task_twice_in_the_queue_runs_once(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        await parts.queue.add(dispatch)
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.worker.runs == 1
        assert parts.queue.pending == {}

    async def test_a_queue_that_fails_while_it_is_read_is_opened_again(self, parts: Parts) -> None:
        class Flaky(MemoryQueue):
            failures = 2
            opened = 0

            async def open(self) -> None:
                self.opened += 1

            async def read(self, block_s: float) -> Any:
                if block_s and self.failures:
                    self.failures -= 1
                    raise QueueUnavailable
                return await super().read(block_s)

        parts.queue = queue = Flaky()
        dispatch = WORLD.job()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            while queue.failures or not parts.post.accepted or queue.opened < 3:
                await asyncio.sleep(0)
        assert queue.opened == 3

    async def test_a_dispatch_that_the_queue_does_not_take_can_be_repeated(self, parts: Parts) -> None:
        class Away(MemoryQueue):
            away = True

            async def add(self, request: Request) -> None:
                if self.away:
                    raise QueueUnavailable
                await super().add(request)

        parts.queue = queue = Away()
        jobs, dispatch = parts.jobs(), WORLD.job()
        with pytest.raises(QueueUnavailable):
            await jobs.take(dispatch)
        queue.away = False
        await jobs.take(dispatch)
        assert len(queue.unread) == 1

    async def test_a_store_that_is_away_after_the_run_costs_no_second_run(self, parts: Parts) -> None:
        class Away(MemoryStore):
            failures = 3

            async def finish(self, request: Request, outcome: Product) -> Product:
                if self.failures:
                    self.failures -= 1
                    raise StoreUnavailable
                return await super().finish(request, outcome)

        parts.store = Away()
        async with parts.running() as jobs:
            await jobs.take(WORLD.job())
            await jobs.idle()
        assert (parts.worker.runs, len(parts.post.sent)) == (1, 1)
