"""Enclaves as real processes: the command, its child, the demo model, simulated hardware, a unix socket."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker

# As the command, with a hang noticed after 3 seconds in place of 15: an enclave beats once a second.
IMPATIENT = """
from aos_tee_worker import main
from aos_tee_worker.supervisor import Timing
main.TIMING = Timing(silence=3.0, pause=0.01)
main.app()
"""


class RunningEnclave(RunningWorker):
    """A `tee-worker` and what it and its enclave have logged."""

    def pid(self, life: int = 1) -> int:
        """The process of the enclave in its so-manieth life, once that listens."""
        return int(self.wait_for("listening", life)["pid"])

    def attestation(self, client: httpx.Client, nonce: str) -> dict[str, object]:
        """What it gives for a nonce."""
        response = client.get("/attestation", params={"nonce": nonce})
        assert response.status_code == 200, response.text
        found: dict[str, object] = response.json()
        return found

    def samples(self, client: httpx.Client) -> dict[str, float]:
        """Its metrics, by name and labels as they are written."""
        lines = client.get("/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"}


StartEnclave: TypeAlias = Callable[..., RunningEnclave]


@pytest.fixture(scope="session")
def simulator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the simulated hardware of this run has its root."""
    return tmp_path_factory.mktemp("hardware") / "simulator"


@pytest.fixture(scope="session")
def enclave_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No inherited settings, and a cache that an enclave must not trust."""
    return {"PATH": str(Path(sys.executable).parent), "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="session")
def start_any(
    enclave_environment: dict[str, str], simulator_folder: Path, demo_model: Path
) -> Iterator[StartEnclave]:
    """`start_any("--uds", PATH)` runs a simulated enclave; it is gone after the session at the latest."""
    started: list[RunningEnclave] = []

    def start(*arguments: str, model: Path = demo_model, impatient: bool = False) -> RunningEnclave:
        program = (
            [sys.executable, "-c", IMPATIENT]
            if impatient
            else [str(Path(sys.executable).parent / "tee-worker")]
        )
        hardware = ["--enclave", "simulated", "--simulator", str(simulator_folder)]
        command = [*program, *hardware, "--model", str(model), "--name", "demo", "--threads", "1", *arguments]
        started.append(RunningEnclave(command, enclave_environment))
        return started[-1]

    yield start
    for enclave in started:
        enclave.close()


@pytest.fixture
def start_enclave(start_any: StartEnclave, request: pytest.FixtureRequest) -> StartEnclave:
    """As `start_any`, but gone after the test."""

    def start(*arguments: str, **options: object) -> RunningEnclave:
        enclave = start_any(*arguments, **options)
        request.addfinalizer(enclave.close)
        return enclave

    return start


@pytest.fixture(scope="session")
def enclave(start_any: StartEnclave, tmp_path_factory: pytest.TempPathFactory) -> RunningEnclave:
    """One enclave for all tests that leave it as it was."""
    return start_any("--uds", str(tmp_path_factory.mktemp("enclave") / "e.sock"))


@pytest.fixture
def client(enclave: RunningEnclave) -> Iterator[httpx.Client]:
    """A client of the shared enclave."""
    with enclave.client() as client:
        yield client
