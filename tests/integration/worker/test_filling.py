"""Filling in and logprobs on a real model: by a template, and by tokens that a model file names."""

import json
import math
import struct
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker

from aos_inference import llama
from aos_inference.filling import Gap, choose
from aos_protocol.job import JobSpec, Params
from aos_protocol.score_document import Score
from aos_protocol.shown import score_item
from aos_protocol.transcript import Transcript

TEMPLATE = "custom:<|system|>{prefix}\n...\n{suffix}<|user|>"
JOB = JobSpec(
    tag="opml",
    prompt="AI is",
    suffix="<|user|> machines.",
    model="demo",
    params=Params(max_tokens=24),
    logprobs=2,
)
_UINT32, _STRING = 4, 8


def with_gap(model: Path, folder: Path, gap: Gap) -> Path:
    """The same model, whose file names tokens for filling in. What is put into its header keeps the alignment of the data behind it."""
    data = model.read_bytes()
    (entries,) = struct.unpack_from("<Q", data, 16)
    named = zip(("prefix", "suffix", "middle"), gap, strict=True)
    added = b"".join(
        _key(f"tokenizer.ggml.{name}_token_id", _UINT32) + struct.pack("<I", token) for name, token in named
    )
    bare = len(added) + len(_key("filler", _STRING)) + 8
    filler = bytes(-bare % 32)
    added += _key("filler", _STRING) + struct.pack("<Q", len(filler)) + filler
    path = folder / "filling.gguf"
    path.write_bytes(data[:16] + struct.pack("<Q", entries + 4) + added + data[24:])
    return path


def _key(name: str, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)


def answer_to(client: httpx.Client, job: JobSpec, *, stream: bool = False) -> httpx.Response:
    said = job.to_json()
    wanted = {name: said[name] for name in ("prompt", "suffix", "params", "logprobs") if name in said}
    asked = {"model": "demo", "seed": "ab" * 32, "prover": "me", "stream": stream}
    return client.post("/v1/generate", json=asked | wanted)


def assert_scored(client: httpx.Client, job: JobSpec, answer: dict[str, object]) -> None:
    """A verifier that is asked as the job asked finds its own prompt, the same text, and the model's fingerprints."""
    transcript = Transcript.from_json(answer["transcript"])
    item = score_item(job, transcript.commitment(), str(answer["text"]), transcript)
    response = client.post("/v1/score", json={"model": "demo", "items": [item]})
    assert response.status_code == 200, response.text
    score = Score.model_validate(response.json()["scores"][0])
    assert (score.level, score.contradiction) == ("fingerprint", None)
    assert score.distances is not None
    assert max(score.distances) < 0.05


@pytest.fixture(scope="module")
def gap(demo_model: Path) -> Gap:
    """Control tokens of the demo model that may serve for it."""
    with closing(llama.Model(demo_model)) as model:
        special = model.special_tokens()
        assert model.gap is None
        assert choose(model, None) is None
        return Gap(special["<|system|>"], special["<|user|>"], special["<|assistant|>"])


def test_by_a_template(start_worker: StartWorker, gap: Gap) -> None:
    worker = start_worker("--port", "0", "--name", "demo", "--threads", "1", "--fim", TEMPLATE)
    with worker.client() as client:
        (card,) = client.get("/v1/models").json()["models"]
        assert {"fim", "logprobs"} <= set(card["able"])
        answer = answer_to(client, JOB).json()
        prompt = answer["transcript"]["prompt_tokens"]
        control = [token for token in prompt if token in gap]
        assert control == [gap.prefix, gap.suffix]  # the template's, and none of the suffix's text
        assert_scored(client, JOB, answer)


def test_by_the_tokens_that_the_model_file_names(
    start_worker: StartWorker, demo_model: Path, tmp_path: Path, gap: Gap
) -> None:
    model = with_gap(demo_model, tmp_path, gap)
    with closing(llama.Model(model)) as opened:
        assert opened.gap == gap
    worker = start_worker("--port", "0", "--name", "demo", "--threads", "1", model=model)
    with worker.client() as client:
        assert "fim" in client.get("/v1/models").json()["models"][0]["able"]
        answer = answer_to(client, JOB).json()
        prompt = answer["transcript"]["prompt_tokens"]
        assert [token for token in prompt if token in {gap.prefix, gap.suffix}] == [gap.prefix, gap.suffix]
        assert prompt[-1] == gap.middle
        assert_scored(client, JOB, answer)


def test_a_model_that_names_its_own_takes_no_template(
    start_worker: StartWorker, demo_model: Path, tmp_path: Path, gap: Gap
) -> None:
    worker = start_worker("--port", "0", "--fim", "starcoder", model=with_gap(demo_model, tmp_path, gap))
    assert worker.exit_code() == 1
    assert "leave --fim out" in "".join(worker.lines)


def test_an_unknown_template_is_refused_by_name(start_worker: StartWorker) -> None:
    worker = start_worker("--port", "0", "--fim", "gpt")
    assert worker.exit_code() == 1
    assert "there is no template 'gpt'. Give one of codellama, deepseek" in "".join(worker.lines)


def test_a_worker_without_either_says_that_it_does_not_fill_in(client: httpx.Client) -> None:
    assert "fim" not in client.get("/v1/models").json()["models"][0]["able"]
    response = answer_to(client, JOB)
    assert response.status_code == 422
    assert response.json()["message"].startswith("suffix: this model does not fill in")


def test_logprobs_of_a_real_model(client: httpx.Client) -> None:
    """They fall, a token's own is among the likeliest if it is one of them, and greedy answers are made of the likeliest."""
    job = JobSpec(
        tag="opml",
        prompt="What is AI?",
        model="demo",
        params=Params(temperature=0, max_tokens=24),
        logprobs=5,
    )
    answer = answer_to(client, job).json()
    assert len(answer["logprobs"]) >= 20
    assert "".join(said["token"] for said in answer["logprobs"]) == answer["text"]
    for said in answer["logprobs"]:
        values = [value for _, value in said["top"]]
        assert values == sorted(values, reverse=True)
        assert (said["top"][0][0], values[0]) == (said["token"], said["logprob"])
        assert sum(math.exp(value) for value in values) <= 1.000_01
    assert_scored(client, job, answer)


def test_logprobs_come_with_the_text(worker: RunningWorker, client: httpx.Client) -> None:
    job = JobSpec(tag="opml", prompt="What is AI?", model="demo", params=Params(max_tokens=24), logprobs=1)
    lines = answer_to(client, job, stream=True).text.split("\n\n")
    *events, answer = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(event["text"] for event in events) == answer["text"]
    assert [said for event in events for said in event.get("logprobs", [])] == answer["logprobs"]
    assert_scored(client, job, answer)
