"""A short run of `python -m tests.chaos`: every deed on every kind of process, and every harm to connections, once."""

import tempfile
from pathlib import Path

import pytest

from chaos.plan import Options
from chaos.run import run


@pytest.mark.timeout(180)  # real processes, some of them stopped for seconds; on an idle machine it takes 40 s
async def test_nothing_accepted_is_lost() -> None:
    options = Options(jobs=130, seed=11, operators=3, real_operators=0, faults=15, clients=8, waiting=40, seconds=120)
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        report = await run(options, Path(folder))
    assert report.good, report.table()
