"""A network of real parts in this process: dispatcher, operators, PostgreSQL and Valkey; their workers are real processes on real models."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import pytest
import pytest_asyncio

from aos_dispatcher.operators import pin_model, register_operator
from aos_operator.backends.protocol import Backend
from aos_operator.backends.text import TextBackend
from aos_operator.backends.worker import HttpWorker
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_protocol.calibration import Calibration
from aos_protocol.identity import Signer
from integration.cheats.cheats import TIMEOUT_S
from integration.dispatcher.conftest import Network
from integration.worker.conftest import RunningWorker
from integration.worker.runs import quantised

HONEST = 3
MODEL = "demo"
Kept = TypeVar("Kept", HttpWorker, TextBackend)

Databases: TypeAlias = Callable[[Literal["dispatcher", "operator"]], Awaitable[str]]


def other_checkpoint(model: Path, folder: Path) -> Path:
    """The model with all weights a little different: the lowest bits of each 16-bit word of the file's last nine tenths, turned at random."""
    path = folder / "checkpoint.gguf"
    data = bytearray(model.read_bytes())
    start = len(data) // 10 & ~1
    noise = random.Random(1).randbytes(len(data) - start)
    data[start::2] = bytes(byte ^ (turn & 7) for byte, turn in zip(data[start::2], noise[::2], strict=True))
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def workers(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Three worker processes, by what they run: their URLs."""
    folder, program = tmp_path_factory.mktemp("models"), Path(sys.executable).parent / "inference-worker"
    environment = {"PATH": str(program.parent), "XDG_CACHE_HOME": str(folder)}
    models = {
        "true": demo_model,
        "quantised": quantised(demo_model, "Q4_0", folder),
        "checkpoint": other_checkpoint(demo_model, folder),
    }
    with ExitStack() as stack:
        running = {}
        for name, model in models.items():
            command = [str(program), "--model", str(model), "--port", "0", "--threads", "1", "--name", MODEL]
            running[name] = RunningWorker(command, environment)
            stack.callback(running[name].close)
        yield {name: worker.address for name, worker in running.items()}


class Members:
    """The operators of a network, each on a database of its own."""

    def __init__(self, network: Network, databases: Databases, redis_url: str) -> None:
        self.network = network
        self.addresses: list[str] = []
        self._workers: list[HttpWorker | TextBackend] = []
        self._databases = databases
        self._redis_url = redis_url
        self._stop = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    async def add(self, worker: Backend) -> str:
        """Register and start an operator; its address, once it is connected."""
        key = os.urandom(32)
        address = Signer(key).address
        await register_operator(self.network.dispatcher.database, address)
        settings = OperatorSettings.model_validate(
            {
                "db": {"pg_db_url": await self._databases("operator"), "min_connect_pool": 1},
                "queue": {"queue_url": self._redis_url},
                "net": {"dispatcher_url": self.network.ws},
                "node": {
                    "signer_key": "0x" + key.hex(),
                    "dispatcher_address": self.network.signer.address,
                },
            }
        )
        self._running.append(asyncio.create_task(run_operator(settings, self._stop, worker=worker)))
        while address not in self.network.dispatcher.hub.connected():
            await asyncio.sleep(0.02)
        self.addresses.append(address)
        return address

    def keep(self, worker: Kept) -> Kept:
        """Close this worker's connections in the end, when no operator asks it any more."""
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        """Stop them all."""
        self._stop.set()
        await asyncio.gather(*self._running)
        for worker in self._workers:
            await worker.close()


@pytest_asyncio.fixture
async def members(
    new_database: Databases, redis_url: str, workers: dict[str, str], demo_model: Path
) -> AsyncIterator[Members]:
    """Honest operators on a dispatcher that has the demo model's calibration."""
    document = json.loads(demo_model.with_suffix(".calibration.json").read_text())
    network = Network(await new_database("dispatcher"), member_timeout=60, job_timeout=100)
    running = Members(network, new_database, redis_url)
    worker = running.keep(HttpWorker(workers["true"], TIMEOUT_S))
    async with AsyncExitStack() as stack:
        await network.start()
        stack.push_async_callback(network.stop)
        await network.project()
        (offer,) = await worker.models()
        await pin_model(network.dispatcher.database, "opml", offer, Calibration.from_json(document))
        stack.push_async_callback(running.close)
        for _ in range(HONEST):
            await running.add(worker)
        yield running
