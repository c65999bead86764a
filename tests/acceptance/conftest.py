"""One network for all tests that only use one; it is stopped at the end, and nothing of it may be left."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.processes import HANG_S, Network, Program, left_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every hang here later than elsewhere: whole networks start within a test, on processors that others use as well."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(HANG_S))


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user_s(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every command away from a network, token or dispatcher that whoever runs the tests has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AOS_DISPATCHER", "AOS_DISPATCHER_ADDRESS", "AOS_TOKEN", "AOS_RPC", "AOS_DEPLOYMENT"):
            patch.delenv(name, raising=False)
        patch.setenv("AOS_DATA", str(tmp_path_factory.mktemp("nobody") / "data"))
        yield


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder in a place that root's PostgreSQL can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


@pytest.fixture(scope="session")
def network(demo_model: Path) -> Iterator[Network]:
    """A running `aos up` with the demo model."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        with Program("aos", "up", "--data", str(data), "--port", "0", "--model", str(demo_model)) as program:
            program.read_until("ready:")
            program.read_until("stop:")
            family = program.family()
            # aos itself, PostgreSQL and its helpers, Valkey, worker, dispatcher, three operators
            assert len(family) > 7
            yield Network(program, data)
            assert program.interrupt(signal.SIGTERM) == 0
            assert program.lines[-1] == "stopped by SIGTERM; nothing is left running"
            assert left_of(family) == []
            assert not (data / "running.json").exists()
