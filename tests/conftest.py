"""What every test has: hypothesis profiles, files outside the code, a watched event loop."""

import asyncio
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from aos_protocol.identity import recursion_limit_kept

# web3 raises the recursion limit of the whole process when it is imported; what tests of deep nesting find must be what programs do.
with recursion_limit_kept():
    import web3  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# No deadline: cores are shared, and a slow example says nothing. `ci` repeats its examples in each run.
settings.register_profile("default", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through all that is imported by now, in the middle of some test's event loop."""
    gc.collect()
    gc.freeze()


_BLOCKED_CPU_S = 0.5
_BLOCKED_WALL_S = 20.0


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The published test vectors, which lie beside the project and are not part of it."""
    folder = ROOT.parent / "shared" / "vectors"
    if not folder.is_dir():
        pytest.skip(f"the published test vectors are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The small model that comes with the project."""
    model = ROOT / "models" / "aos-demo-5m.F16.gguf"
    if not model.is_file():
        pytest.fail(f"{model} is missing: it is part of the checkout; scripts/train_demo_model.py makes it")
    return model


@pytest.fixture(autouse=True)
def _unblocked_event_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which one step of the event loop computes for long: all else in the process waited.

    CPU time is measured (other processes share the cores); wall time catches blocking waits, generously.
    """
    blocked: list[str] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        try:
            run(handle)
        finally:
            cpu, wall = time.thread_time() - cpu, time.monotonic() - wall
            if cpu > _BLOCKED_CPU_S or wall > _BLOCKED_WALL_S:
                blocked.append(f"{handle!r}: {cpu:.2f} s computing, {wall:.2f} s in all")

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    yield
    if blocked:
        pytest.fail("the event loop was blocked; move the work to a thread:\n" + "\n".join(blocked))
