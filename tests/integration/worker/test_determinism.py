"""The same job on the same build gives the same tokens: beside others, after a restart, with other settings."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker, quantised

LONG = "Say something about everything. " * 20


def job(number: int, model: str = "demo") -> dict[str, Any]:
    prompt = "What is AI?" if number % 2 else LONG
    params = {"max_tokens": 60, "temperature": 0.3 * number, "top_p": 1.0 if number % 3 else 0.7}
    return {"model": model, "prompt": prompt, "seed": f"{number:064x}", "params": params}


def answer(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/generate", json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_eight_at_once_give_what_each_gives_alone(
    start_worker: StartWorker, demo_model: Path, tmp_path: Path, kind: str
) -> None:
    """As the demo model is, and quantised so that, on most processors, sequences share batches."""
    model = demo_model if kind == "F16" else quantised(demo_model, kind, tmp_path)
    worker = start_worker("--port", "0", "--name", "demo", model=model)
    with worker.client() as client, ThreadPoolExecutor(8) as pool:
        alone = [answer(client, job(number)) for number in range(8)]
        together = list(pool.map(lambda number: answer(client, job(number)), range(8)))
    assert together == alone
    assert len({tuple(each["transcript"]["output_tokens"]) for each in alone}) > 4


@pytest.mark.parametrize("arguments", [(), ("--threads", "2"), ("--slots", "1"), ("--context", "1000")])
def test_another_process_agrees(
    client: httpx.Client, start_worker: StartWorker, arguments: tuple[str, ...]
) -> None:
    other: RunningWorker = start_worker("--port", "0", "--name", "demo", *arguments)
    with other.client() as there:
        for number in range(4):
            assert answer(there, job(number)) == answer(client, job(number))
