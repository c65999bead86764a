"""Executors on llama.cpp's own server, whose token ids verifiers with workers on the same file score."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aos_dispatcher.operators import pin_model
from aos_operator.backends.dialects import Source
from aos_operator.backends.text import TextBackend
from aos_operator.backends.worker import HttpWorker
from aos_operator.subjects import Subject
from aos_protocol.calibration import Calibration
from aos_protocol.job import JobSpec
from integration.cheats.cheats import TIMEOUT_S
from integration.cheats.conftest import MODEL, Databases, Members
from integration.dispatcher.conftest import Network
from integration.worker.conftest import RunningWorker
from support.model_servers import llama_server


class Both(TextBackend):
    """Runs jobs on a llama.cpp server, and scores on a worker with the same file, so that whoever is drawn can be either."""

    def __init__(self, url: str, file: Path, worker: HttpWorker) -> None:
        super().__init__(Source("llamacpp", url, models={MODEL: str(file)}, files={MODEL: file}))
        self._worker = worker

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        return await self._worker.score(job, subject)


@pytest.fixture
def scoring(demo_model: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of a worker on the demo model. It is waited for where no event loop waits with it."""
    program = Path(sys.executable).parent / "inference-worker"
    command = [str(program), "--model", str(demo_model), "--port", "0", "--threads", "1", "--name", MODEL]
    running = RunningWorker(command, {"PATH": str(program.parent), "XDG_CACHE_HOME": str(tmp_path)})
    try:
        yield running.address
    finally:
        running.close()


@pytest.fixture
def llama(demo_model: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of llama.cpp's own server on the same file."""
    with llama_server(demo_model, tmp_path) as url:
        yield url


@pytest_asyncio.fixture
async def members(
    new_database: Databases, redis_url: str, demo_model: Path, scoring: str, llama: str
) -> AsyncIterator[Members]:
    network = Network(await new_database("dispatcher"), member_timeout=60, job_timeout=100)
    running = Members(network, new_database, redis_url)
    async with AsyncExitStack() as stack:
        worker = running.keep(HttpWorker(scoring, TIMEOUT_S))
        await network.start()
        stack.push_async_callback(network.stop)
        await network.restart(least_evidence="token_ids")
        await network.project()
        (offer,) = await worker.models()
        document = json.loads(demo_model.with_suffix(".calibration.json").read_text())
        await pin_model(network.dispatcher.database, "opml", offer, Calibration.from_json(document))
        stack.push_async_callback(running.close)
        for _ in range(3):
            await running.add(running.keep(Both(llama, demo_model, worker)))
        yield running


async def test_they_are_scored_as_a_claim_on_the_model_is(members: Members) -> None:
    network = members.network
    params = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 200}
    job = {"tag": "opml", "prompt": "What is AI?", "model": MODEL, "params": params}
    job_id = await network.submit(tag="suspicion", job=job)
    detail = await network.finished(job_id)
    (row,) = [row for row in await network.results(job_id) if row["role"] == "executor"]
    assert (row["evidence"], row["backend"]) == ("token_ids", "llamacpp")
    assert detail["verdict"]["level"] == "likelihood"
    assert detail["verdict"]["outcome"] in {
        "match",
        "inconclusive",
    }  # how many tokens there are is the seed's affair
    assert {"surprisal", "entropy"} <= set(detail["verdict"]["statistics"])
    assert not [check for check in await network.checks(job_id) if check.status == "FAIL"]
