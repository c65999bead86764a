"""PostgreSQL, Redis and the worker, each lost while jobs are under way: nothing is lost, nothing spins."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from structlog.testing import capture_logs

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_operator.database import prepare_database
from aos_service.database import database_url
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.test_link import SlowWorker


@pytest_asyncio.fixture
async def postgres(server_data: Path, configuration: dict[str, Any]) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, which it may stop."""
    async with EmbeddedPostgres(server_data / "outage-postgres", durable=False) as server:
        address = server.url("outage")
        await prepare_database(database_url(address))
        configuration["db"]["pg_db_url"] = address
        yield server


@pytest_asyncio.fixture
async def valkey(server_data: Path, configuration: dict[str, Any]) -> AsyncIterator[EmbeddedValkey]:
    """A Valkey of this test's own, which forgets everything when it is stopped."""
    async with EmbeddedValkey(server_data / "outage-valkey", durable=False) as server:
        configuration["queue"]["queue_url"] = server.url()
        yield server


async def test_postgres_lost_while_the_model_runs(
    running: Running, dispatcher: FakeDispatcher, postgres: EmbeddedPostgres
) -> None:
    worker, world = SlowWorker(), dispatcher.world
    job, later = world.job(), world.job()
    async with running(worker):
        await dispatcher.draw(job)
        await dispatcher.dispatch(job)
        await worker.started.wait()
        await postgres.stop()
        worker.go.set()
        refused = await dispatcher.dispatch(later)
        assert refused["code"] == 503
        assert "PostgreSQL" in refused["message"]
        await postgres.start()
        await dispatcher.result_of(job)
        assert (await dispatcher.dispatch(later))["code"] == 200
        await dispatcher.result_of(later)


async def test_redis_lost_with_everything_in_it(
    running: Running, dispatcher: FakeDispatcher, valkey: EmbeddedValkey
) -> None:
    worker, world = SlowWorker(), dispatcher.world
    job, later = world.job(), world.job()
    with capture_logs() as logs:
        async with running(worker):
            await dispatcher.draw(job)
            await dispatcher.dispatch(job)
            await worker.started.wait()
            await valkey.stop()
            refused = await dispatcher.dispatch(later)
            assert refused["code"] == 503
            assert "Redis" in refused["message"]
            await asyncio.sleep(0.5)
            attempts = [entry for entry in logs if entry["event"] == "waiting to read the queue again"]
            assert len(attempts) < 10
            await valkey.start()
            worker.go.set()
            await dispatcher.result_of(job)
            await dispatcher.insist([later])
            await dispatcher.result_of(later)


async def test_redis_flushed_under_a_waiting_operator(
    running: Running, dispatcher: FakeDispatcher, valkey: EmbeddedValkey
) -> None:
    """What waits for a worker is in PostgreSQL, too; a restart finds it there."""
    worker, world = SlowWorker(), dispatcher.world
    jobs = [world.job(f"prompt {number}") for number in range(6)]
    async with running(worker):
        await dispatcher.connected.wait()
        for job in jobs:
            await dispatcher.dispatch(job)
        await worker.started.wait()
    await valkey.stop()
    await valkey.start()
    worker.go.set()
    async with running(worker):
        for job in jobs:
            await dispatcher.result_of(job)


async def test_a_worker_that_goes_away_gets_the_job_again(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    worker, job = SlowWorker(), dispatcher.world.job()
    worker.lost = 2
    worker.go.set()
    async with running(worker):
        await dispatcher.run(job)
