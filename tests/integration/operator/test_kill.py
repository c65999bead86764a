"""A real operator process, killed by SIGKILL at every delicate moment: each job ends with exactly one accepted result."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio as redis
from sqlalchemy import text

from aos_operator.tasks import Request
from aos_service.database import create_engine, database_url
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.fake_worker import FakeWorker
from integration.operator.processes import RUNNER, OperatorProcess
from unit.operator.world import OPERATOR

pytestmark = pytest.mark.usefixtures("_nothing_is_left")


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[FakeWorker]:
    async with FakeWorker().serving() as serving:
        yield serving


@pytest.fixture
def program() -> list[str]:
    """What runs as the operator."""
    return [str(RUNNER)]


@pytest_asyncio.fixture
async def operator(
    tmp_path: Path, configuration: dict[str, Any], worker: FakeWorker, program: list[str]
) -> AsyncIterator[OperatorProcess]:
    """A running operator on the fake worker."""
    configuration["net"]["worker_url"] = worker.url
    async with OperatorProcess(tmp_path, configuration, program).running() as process:
        yield process


@pytest_asyncio.fixture
async def _nothing_is_left(
    dispatcher: FakeDispatcher, operator: OperatorProcess, redis_url: str
) -> AsyncIterator[None]:
    """In the end, the queue is empty: every task was closed."""
    yield
    async with asyncio.timeout(50), redis.from_url(redis_url) as client:
        while await client.xlen(f"aos:{OPERATOR.address}:task"):
            await asyncio.sleep(0.02)
    assert dispatcher.problems == []


class TestKilled:
    """Each test kills the process at one moment and starts it again; what is wanted is an answer, and the score of one."""

    @pytest.fixture
    def wanted(self, dispatcher: FakeDispatcher) -> list[Request]:
        return [dispatcher.world.job(), dispatcher.world.call()]

    async def begun(self, dispatcher: FakeDispatcher, wanted: list[Request]) -> None:
        """Draw and dispatch them."""
        for request in wanted:
            await dispatcher.draw(request)
            assert (await dispatcher.dispatch(request))["code"] == 200

    async def done(self, dispatcher: FakeDispatcher, wanted: list[Request]) -> None:
        for request in wanted:
            await dispatcher.done(request)

    async def test_before_it_could_acknowledge_the_dispatch(
        self, operator: OperatorProcess, dispatcher: FakeDispatcher, wanted: list[Request]
    ) -> None:
        for request in wanted:
            await dispatcher.draw(request)
        unacknowledged = [asyncio.create_task(dispatcher.dispatch(request)) for request in wanted]
        await asyncio.sleep(0)
        await operator.kill()
        for task in unacknowledged:
            task.cancel()
        await asyncio.wait(unacknowledged)
        operator.start()
        await dispatcher.reconnected(2)
        for request in wanted:
            assert (await dispatcher.dispatch(request))["code"] == 200
        await self.done(dispatcher, wanted)

    async def test_while_the_model_runs(
        self,
        operator: OperatorProcess,
        dispatcher: FakeDispatcher,
        worker: FakeWorker,
        wanted: list[Request],
    ) -> None:
        worker.go.clear()
        await self.begun(dispatcher, wanted)
        await at_work(worker, 2)
        await operator.kill()
        worker.go.set()
        operator.start()
        await self.done(dispatcher, wanted)
        assert work_of(worker) == 4

    async def test_when_the_outcome_is_stored_and_not_sent(
        self,
        operator: OperatorProcess,
        dispatcher: FakeDispatcher,
        worker: FakeWorker,
        configuration: dict[str, Any],
        wanted: list[Request],
    ) -> None:
        worker.go.clear()
        await self.begun(dispatcher, wanted)
        await at_work(worker, 2)
        dispatcher.unreachable = True
        await dispatcher.drop()
        worker.go.set()
        for request in wanted:
            await outcome_stored(configuration, request.job_id)
        await operator.kill()
        dispatcher.unreachable = False
        operator.start()
        await self.done(dispatcher, wanted)
        assert work_of(worker) == 2

    async def test_when_the_result_is_sent_and_not_replied_to(
        self,
        operator: OperatorProcess,
        dispatcher: FakeDispatcher,
        worker: FakeWorker,
        wanted: list[Request],
    ) -> None:
        sent: set[str] = set()
        dispatcher.answer = lambda said: sent.add(said.job_id)
        await self.begun(dispatcher, wanted)
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        await operator.kill()
        dispatcher.answer = lambda _: (200, "success")
        operator.start()
        await self.done(dispatcher, wanted)
        assert work_of(worker) == 2

    async def test_when_the_result_is_accepted_and_the_reply_is_lost(
        self,
        operator: OperatorProcess,
        dispatcher: FakeDispatcher,
        worker: FakeWorker,
        wanted: list[Request],
    ) -> None:
        dispatcher.lose_replies = True
        await self.begun(dispatcher, wanted)
        await self.done(dispatcher, wanted)
        await operator.kill()
        dispatcher.lose_replies = False
        operator.start()
        while dispatcher.repetitions < 2:
            await asyncio.sleep(0.02)
        assert work_of(worker) == 2

    async def test_when_it_was_queued_and_not_begun(
        self,
        operator: OperatorProcess,
        dispatcher: FakeDispatcher,
        worker: FakeWorker,
        wanted: list[Request],
    ) -> None:
        """The worker's places are taken: what comes next stays between queueing and the worker."""
        worker.go.clear()
        earlier = [dispatcher.world.job(f"prompt {number}") for number in range(4)]
        for request in (*earlier, *wanted):
            assert (await dispatcher.dispatch(request))["code"] == 200
        await at_work(worker, 4)
        await operator.kill()
        worker.go.set()
        operator.start()
        await self.done(dispatcher, wanted)
        assert work_of(worker) == 4 + 4 + 2
        for job in earlier:
            await dispatcher.done(job)


@pytest.mark.timeout(180)
async def test_killed_again_and_again_at_any_moment(
    operator: OperatorProcess,
    dispatcher: FakeDispatcher,
) -> None:
    chance, world = random.Random(20260101), dispatcher.world
    jobs = [world.job(f"prompt {number}") for number in range(30)]
    calls = [world.call(world.job(f"answer {number}"), challenge=number % 3) for number in range(30)]
    wanted: list[Request] = [request for pair in zip(jobs, calls, strict=True) for request in pair]
    submitting = asyncio.create_task(dispatcher.insist(wanted))
    for round_ in range(2, 6):
        await dispatcher.reconnected(round_ - 1)
        await asyncio.sleep(chance.uniform(0, 0.15))
        await operator.kill()
        operator.start()
    await submitting
    for request in wanted:
        await dispatcher.done(request)
    assert len(dispatcher.accepted) == 60


async def test_a_polite_end_takes_seconds_and_keeps_the_job(
    operator: OperatorProcess,
    dispatcher: FakeDispatcher,
    worker: FakeWorker,
) -> None:
    worker.go.clear()
    job = dispatcher.world.job()
    await dispatcher.draw(job)
    await dispatcher.dispatch(job)
    await worker.started.wait()
    began = time.monotonic()
    assert await operator.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 30  # the worker has a quarter of an hour
    await worker.left.wait()
    worker.go.set()
    operator.start()
    await dispatcher.result_of(job)


# As the command, with time to finish for a busy machine, too.
UNHURRIED = "from aos_operator import main, runner; runner.GRACE_S = 40.0; main.app()"


@pytest.mark.parametrize("program", [[sys.executable, "-c", UNHURRIED]], ids=["unhurried"])
async def test_a_stopping_operator_finishes_what_is_nearly_done_and_takes_nothing_more(
    operator: OperatorProcess,
    dispatcher: FakeDispatcher,
    worker: FakeWorker,
) -> None:
    worker.go.clear()
    job = dispatcher.world.job()
    await dispatcher.draw(job)
    await dispatcher.dispatch(job)
    await worker.started.wait()
    ending = asyncio.create_task(operator.end(signal.SIGINT))
    while (answer := await dispatcher.draw(dispatcher.world.job()))["code"] == 200:
        await asyncio.sleep(0.01)
    assert (answer["code"], answer["message"]) == (503, "this operator is shutting down")
    assert (await dispatcher.dispatch(dispatcher.world.job()))["code"] == 503
    worker.go.set()
    await dispatcher.result_of(job)
    assert await ending == 0


def work_of(worker: FakeWorker) -> int:
    """How many times the worker was asked for anything."""
    return len(worker.jobs) + len(worker.scorings)


async def at_work(worker: FakeWorker, requests: int) -> None:
    """Return when the worker was asked for so many."""
    while work_of(worker) < requests:
        await asyncio.sleep(0.01)


async def outcome_stored(configuration: dict[str, Any], job_id: str) -> None:
    """Return when the operator's PostgreSQL has the job's outcome."""
    url = database_url(configuration["db"]["pg_db_url"])
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    query = text("select count(*) from tasks where job_id = :job and outcome is not null")
    async with engine.connect() as connection:
        while not (await connection.execute(query, {"job": job_id})).scalar_one():
            await connection.rollback()
            await asyncio.sleep(0.02)
    await engine.dispose()
