"""The same job on the same build gives the same tokens: beside others, after a restart, with other settings."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker

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


def test_eight_at_once_give_what_each_gives_alone(client: httpx.Client) -> None:
    alone = [answer(client, job(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
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
