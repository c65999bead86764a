"""What is deterministic and what is not: measured in logits, and shown by workers that confirm each other's answers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.integration.worker import runs
from tests.integration.worker.conftest import RunningWorker, StartWorker

from aos_inference import llama
from aos_protocol.score_document import Score

KINDS = ("F16", "Q8_0", "Q4_0")

# On the processors and the build that docs/worker.md tells of; elsewhere llama.cpp may choose other routines.
EXACT = {
    "F16": {"repacking off"},
    "Q8_0": {"1 other in its batches", "7 others in its batches", "repacking off"},
    "Q4_0": {"2 threads in place of 1"},
}


@pytest.fixture(scope="module")
def model_file(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantised")
    return {kind: demo_model if kind == "F16" else runs.quantised(demo_model, kind, folder) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_differences_in_logits(kind: str, model_file: dict[str, Path]) -> None:
    """The table of docs/worker.md: some ways to compute are exact, all honest ones stay within what verifiers allow for."""
    found = runs.differences(model_file[kind])
    assert found["the same once more"].greatest == 0
    honest = {name: apart for name, apart in found.items() if "no honest setting" not in name}
    assert max(apart.greatest for apart in honest.values()) < 0.5
    assert max(apart.rms for apart in honest.values()) < 0.06
    assert found["Q8_0 cache (no honest setting)"].rms > max(apart.rms for apart in honest.values())
    if "AVX512_VNNI" in llama.engine_name():
        assert {name for name in EXACT[kind] if found[name].greatest > 0} == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "run", [replace(runs.BASE, threads=2), replace(runs.BASE, neighbours=7), replace(runs.BASE, scored=True)]
)
def test_the_same_way_twice_gives_the_same_bits(
    kind: str, run: runs.Run, model_file: dict[str, Path]
) -> None:
    output = list(range(40, 60))
    first, second = (runs.logits(model_file[kind], run, output) for _ in range(2))
    assert np.array_equal(first, second)


def job(number: int) -> dict[str, Any]:
    prompt = "What is AI?" if number % 2 else "Say something about everything. " * 20
    params = {"max_tokens": 60, "temperature": 0.3 * number, "top_p": 1.0 if number % 3 else 0.7}
    return {"model": "demo", "prompt": prompt, "seed": f"{number:064x}", "prover": "me", "params": params}


def answer(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/generate", json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


@pytest.fixture(scope="module")
def crowd(worker: RunningWorker) -> list[dict[str, Any]]:
    """Answers to eight jobs that ran at the same time."""
    with worker.client() as client, ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: answer(client, job(number)), range(8)))


def test_the_jobs_differ(crowd: list[dict[str, Any]]) -> None:
    assert len({tuple(each["transcript"]["output_tokens"]) for each in crowd}) > 4


@pytest.mark.parametrize("arguments", [(), ("--threads", "2"), ("--slots", "1"), ("--context", "1000")])
def test_another_process_confirms_what_ran_in_a_crowd(
    crowd: list[dict[str, Any]], start_worker: StartWorker, arguments: tuple[str, ...]
) -> None:
    """All eight are scored in one request: far apart in temperature, prompt and length, all honest."""
    other = start_worker("--port", "0", "--name", "demo", *arguments)
    items = [
        {
            "prompt": job(number)["prompt"],
            **{
                name: each["transcript"][name]
                for name in ("output_tokens", "params", "seed", "prover", "fingerprints")
            },
            "answer": {
                "text": each["text"],
                "finish_reason": each["finish_reason"],
                "prompt_tokens": each["transcript"]["prompt_tokens"],
            },
            "subject": each["commitment"],
        }
        for number, each in enumerate(crowd)
    ]
    with other.client() as client:
        response = client.post("/v1/score", json={"model": "demo", "items": items})
    scores = [Score.model_validate(score) for score in response.json()["scores"]]
    assert [score.subject for score in scores] == [each["commitment"] for each in crowd]
    for score in scores:
        assert score.contradiction is None
        assert max(score.distances or ()) < 0.05
        assert np.mean(np.minimum(score.margins or (), 1)) < 0.005
