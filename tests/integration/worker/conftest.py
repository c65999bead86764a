"""Workers as real processes, on ephemeral ports or unix sockets."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

PATIENCE_S = 50.0
"""How long a busy machine may take for anything; a little less than a test has."""


class RunningWorker:
    """A worker process and what it has logged."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The structured log lines with this event."""
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in parsed if event["event"] == name]

    def wait_for(self, name: str, number: int = 1) -> dict[str, Any]:
        """Wait until the event has been logged `number` times; give the latest."""
        with self._news:
            self._news.wait_for(
                lambda: len(self.events(name)) >= number or self.process.poll() is not None, PATIENCE_S
            )
            found = self.events(name)
        assert len(found) >= number, "".join(self.lines)
        return found[-1]

    @property
    def address(self) -> str:
        """Where it listens, once it does."""
        return str(self.wait_for("listening")["address"])

    def client(self, **options: Any) -> httpx.Client:
        """A client of it, over whichever kind of socket."""
        if self.address.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=self.address.removeprefix("unix:"))
            return httpx.Client(transport=transport, base_url="http://worker", timeout=PATIENCE_S, **options)
        return httpx.Client(base_url=self.address, timeout=PATIENCE_S, **options)

    def exit_code(self) -> int:
        """Wait for the process to end by itself."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    def close(self) -> None:
        """Make sure that it is gone."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


StartWorker: TypeAlias = Callable[..., RunningWorker]


@pytest.fixture(scope="session")
def worker_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No inherited settings, and a digest cache of the test run's own."""
    return {"PATH": str(Path(sys.executable).parent), "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture
def start_worker(worker_environment: dict[str, str], demo_model: Path) -> Iterator[StartWorker]:
    """`start_worker("--port", "0")` runs the command on the demo model; it is gone after the test."""
    started: list[RunningWorker] = []

    def start(*arguments: str, model: Path = demo_model) -> RunningWorker:
        command = [str(Path(sys.executable).parent / "inference-worker"), "--model", str(model), *arguments]
        started.append(RunningWorker(command, worker_environment))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture(scope="session")
def worker(worker_environment: dict[str, str], demo_model: Path) -> Iterator[RunningWorker]:
    """One worker for all tests that leave it as it was."""
    program = str(Path(sys.executable).parent / "inference-worker")
    command = [program, "--model", str(demo_model), "--port", "0", "--name", "demo", "--threads", "1"]
    running = RunningWorker(command, worker_environment)
    yield running
    running.close()


@pytest.fixture
def client(worker: RunningWorker) -> Iterator[httpx.Client]:
    """A client of the shared worker."""
    with worker.client() as client:
        yield client


STUB = """
import asyncio, time
from aos_inference import server
from aos_inference.engine import Engine
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.testing import ByteModel
from aos_inference.worker import Worker
from aos_service.logs import configure_logs

class Model(ByteModel):
    def decode(self, rows):
        {decode}

configure_logs("worker")
server.GRACE = 0.5
model = Model(endless=True)
engine = Engine(model, model, 10**6, Limits(1, requests=2, tokens=10**6))
card = ModelCard(name="demo", sha256="0" * 64, size=1, context=10**6, vocabulary=260, engine="stand-in")
asyncio.run(server.serve(Worker(card, engine, model, None), server.listen_tcp("127.0.0.1", 0)))
"""


@pytest.fixture
def start_stub(worker_environment: dict[str, str], request: pytest.FixtureRequest) -> StartWorker:
    """A worker process around the stand-in model, with one slot and its `decode` replaced."""

    def start(decode: str) -> RunningWorker:
        worker = RunningWorker([sys.executable, "-c", STUB.format(decode=decode)], worker_environment)
        request.addfinalizer(worker.close)
        return worker

    return start
