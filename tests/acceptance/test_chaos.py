"""A short run of `python -m tests.chaos`: every deed on every kind of process, and every harm to connections, once."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.plan import Options
from chaos.run import run


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that root's PostgreSQL can reach; emptied outside of the event loop, since it holds thousands of files."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as made:
        yield Path(made)


@pytest.mark.timeout(480)  # 40 s where nothing else runs; what is to be shown is no speed
async def test_nothing_accepted_is_lost(folder: Path) -> None:
    options = Options(
        jobs=100, seed=11, operators=3, real_operators=0, faults=17, clients=8, waiting=40, pace=0.4
    )
    report = await run(options, folder)
    assert report.good, report.table()
