"""A running operator for the tests: real PostgreSQL and Valkey, a dispatcher that the test leads, a worker that it chooses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeAlias

import pytest
import pytest_asyncio

from aos_operator import runner
from aos_operator.backends.protocol import Backend
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_operator.watch import WorkerWatch
from aos_protocol.fields import WorkerType
from integration.operator.fake_dispatcher import FakeDispatcher
from support.enclave_workers import SimulatedEnclave
from unit.operator.world import MODEL, OPERATOR, World

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[None]]


@pytest_asyncio.fixture
async def dispatcher() -> AsyncIterator[FakeDispatcher]:
    """A dispatcher that listens and waits for the operator."""
    async with FakeDispatcher(World()).serving() as serving:
        yield serving
        assert serving.problems == []


@pytest_asyncio.fixture
async def configuration(
    new_database: Callable[[Literal["operator"]], Awaitable[str]], redis_url: str, dispatcher: FakeDispatcher
) -> dict[str, Any]:
    """The configuration file's content, for this test's servers.

    The heartbeat is not hastened: both ends of a connection may share a process, which a busy machine makes late.
    """
    return {
        "db": {"pg_db_url": await new_database("operator"), "min_connect_pool": 1, "max_connect_pool": 4},
        "queue": {"queue_url": redis_url},
        "net": {"dispatcher_url": dispatcher.url},
        "node": {
            "signer_key": "0x" + "11" * 32,
            "node_id": OPERATOR.address,
            "dispatcher_address": dispatcher.world.signer.address,
        },
    }


@pytest.fixture
def enclave(tmp_path_factory: pytest.TempPathFactory) -> SimulatedEnclave:
    """An enclave in this process, with keys and a simulator of its own."""
    return SimulatedEnclave(tmp_path_factory.mktemp("enclave"), MODEL)


@pytest.fixture
def _watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators of this process ask their workers for their models often, and not at each heartbeat only."""

    def watch(
        worker: Backend, worker_type: WorkerType, wanted: Sequence[str], _interval: float
    ) -> WorkerWatch:
        return WorkerWatch(worker, worker_type, wanted, 0.2)

    monkeypatch.setattr(runner, "WorkerWatch", watch)


@pytest.fixture
def running(configuration: dict[str, Any]) -> Running:
    """Run an operator in this process while the context is open; by default on a stub worker."""

    @asynccontextmanager
    async def run(worker: Backend | None = None) -> AsyncIterator[None]:
        settings = OperatorSettings.model_validate(configuration)
        stop = asyncio.Event()
        chosen = worker or StubWorker({MODEL.name: MODEL.sha256})
        async with asyncio.TaskGroup() as group:
            group.create_task(run_operator(settings, stop, worker=chosen))
            yield
            stop.set()

    return run
