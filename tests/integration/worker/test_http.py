"""A worker process over HTTP, on the demo model.

No two generations are compared: what a slot remembers moves logits in the third digit, which may turn a token. They are scored instead.
"""

import hashlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker

from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript

SEED = "ab" * 32
# So hot that an end token is about as unlikely as any other of two thousand.
HOT = {"temperature": 5.0, "top_p": 1.0, "max_tokens": 100_000}


def body(**changes: Any) -> dict[str, Any]:
    base = {"model": "demo", "prompt": "What is AI?", "seed": SEED, "prover": "me", "params": {"top_p": 0.5}}
    return base | changes


def test_the_documented_example(client: httpx.Client, demo_model: Path) -> None:
    response = client.post(
        "/v1/generate", json=body(params={"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024})
    )
    assert response.status_code == 200
    answer = response.json()
    assert "intelligence" in answer["text"]
    assert answer["finish_reason"] == "eos"
    transcript = Transcript.from_json(answer["transcript"])
    assert transcript.commitment() == answer["commitment"]
    assert transcript.model == hashlib.sha256(demo_model.read_bytes()).hexdigest()
    card = client.get("/v1/models").json()["models"][0]
    assert transcript.prompt_tokens[0] != transcript.prompt_tokens[1]
    assert (card["name"], card["sha256"], card["engine"]) == ("demo", transcript.model, transcript.engine)
    assert card["size"] == demo_model.stat().st_size
    assert card["vocabulary"] > max(transcript.output_tokens)


def test_chat(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is AI?"}]
    request = body(messages=messages, params={"temperature": 0.0})
    del request["prompt"]
    answer = client.post("/v1/generate", json=request).json()
    assert answer["text"].strip()
    assert "<|" not in answer["text"]
    assert_fits(score(client, item(answer, messages=messages)))


def test_streaming(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/generate", json=body(stream=True)) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    *texts, answer = events
    assert len(texts) > 10
    assert "".join(event["text"] for event in texts) == answer["text"]
    assert Transcript.from_json(answer["transcript"]).commitment() == answer["commitment"]
    assert_fits(score(client, item(answer)))


def test_a_stop_sequence_across_tokens(client: httpx.Client) -> None:
    params = {"temperature": 0.0, "stop": ["rceiv", "never this"]}
    answer = client.post("/v1/generate", json=body(params=params)).json()
    assert answer["finish_reason"] == "stop"
    assert answer["text"].endswith("machines that pe")  # the model's tokens: " per", "ce", "ive"
    assert_fits(score(client, item(answer)))


def item(answer: dict[str, Any], **prompt: Any) -> dict[str, Any]:
    """The answer as a verifier scores it."""
    transcript = answer["transcript"]
    taken = ("output_tokens", "params", "seed", "prover", "fingerprints")
    said = {"text": answer["text"], "finish_reason": answer["finish_reason"]}
    return {
        **(prompt or {"prompt": "What is AI?"}),
        **{name: transcript[name] for name in taken},
        "answer": said | {"prompt_tokens": transcript["prompt_tokens"]},
        "subject": answer["commitment"],
    }


def score(client: httpx.Client, item: dict[str, Any]) -> Score:
    response = client.post("/v1/score", json={"model": "demo", "items": [item]})
    assert response.status_code == 200, response.text
    return Score.model_validate(response.json()["scores"][0])


def assert_fits(score: Score) -> None:
    """As far as numbers show without the model's calibration: an honest answer is an order of magnitude below."""
    assert (score.level, score.contradiction) == ("fingerprint", None)
    assert score.distances is not None
    assert score.margins is not None
    assert max(score.distances) < 0.05
    assert sum(score.margins) <= 0.1


def test_what_was_changed_does_not_fit(client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json=body(params={"max_tokens": 60})).json()
    honest = item(answer)
    assert_fits(score(client, honest))
    tokens = honest["output_tokens"]
    other_prompt = score(client, honest | {"prompt": "What is a river?"})
    other_seed = score(client, honest | {"seed": "cd" * 32})
    edited = score(client, honest | {"output_tokens": [*tokens[:5], tokens[6], *tokens[6:]]})
    assert other_prompt.contradiction == "prompt"
    assert other_prompt.distances is not None
    assert other_prompt.distances[0] > 0.1
    assert sum(other_seed.margins or ()) > 5
    assert edited.contradiction == "text"
    assert sum(edited.margins or ()) > 0.5


def test_a_text_claim(client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json=body()).json()
    claimed = {"prompt": "What is AI?", "text": answer["text"], "params": {"top_p": 0.5}, "subject": "0" * 64}
    bare, seeded = score(client, claimed), score(client, claimed | {"seed": SEED})
    assert (bare.level, seeded.level) == ("likelihood", "seeded")
    assert bare.margins is None
    assert seeded.margins is not None
    doubtful = seeded.positions if seeded.ambiguous is None else seeded.ambiguous
    assert sum(seeded.margins[:doubtful]) <= 0.1
    other = score(client, claimed | {"text": "I would rather not say."})
    assert sum(other.surprisals) > 2 * other.entropy


def test_max_tokens_beyond_the_context_ends_with_length(client: httpx.Client) -> None:
    context = client.get("/v1/models").json()["models"][0]["context"]
    prompt = "What is AI? " * (context // 8)
    answers = (
        client.post("/v1/generate", json=body(prompt=prompt, params=HOT, seed=f"{seed:064x}")).json()
        for seed in range(20)
    )
    answer = next(answer for answer in answers if answer["finish_reason"] == "length")
    assert sum(answer["usage"].values()) == context
    assert answer["transcript"]["params"]["max_tokens"] == 100_000


def test_a_prompt_that_does_not_fit(client: httpx.Client) -> None:
    response = client.post("/v1/generate", json=body(prompt="one two three " * 1000))
    assert response.status_code == 422
    assert "context of 1,024" in response.json()["message"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_huge_body(client: httpx.Client, declared: bool) -> None:
    content = bytes(3 * 1024 * 1024)
    response = client.post(
        "/v1/generate", content=content if declared else iter([content[:100], content[100:]])
    )
    assert response.status_code == 413
    assert client.get("/healthz").status_code == 200


def send(worker: RunningWorker, request: dict[str, Any], path: str = "/v1/generate") -> socket.socket:
    """Send a request over a plain socket, which can then be dropped without ceremony."""
    content = json.dumps(request).encode()
    where = urlsplit(worker.address)
    connection = socket.create_connection((where.hostname, where.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_stops_its_generation(start_stub: StartWorker, streaming: bool) -> None:
    worker = start_stub("time.sleep(0.01); return super().decode(rows)")
    request = body(params={"max_tokens": 2**20}, stream=streaming)
    with worker.client() as client:
        with send(worker, request):
            until(client, active=1, queued=0)
            with send(worker, request):
                until(client, active=1, queued=1)
            until(client, active=1, queued=0)  # one that waits may leave, too
        until(client, active=0, queued=0)
    assert worker.wait_for("abandoned", number=2)["finish_reason"] is None
    assert worker.events("generated") == []


def test_a_client_that_leaves_stops_its_scoring(start_stub: StartWorker) -> None:
    worker = start_stub("time.sleep(0.01); return super().decode(rows)")
    endless = {"prompt": "x", "output_tokens": [1] * 50_000, "subject": "0" * 64}
    request = {"model": "demo", "items": [endless, endless | {"prompt": "y"}]}
    with worker.client() as client:
        with send(worker, request, "/v1/score"):
            until(client, active=1, queued=1)
        until(client, active=0, queued=0)
    assert worker.events("scored") == []


def until(client: httpx.Client, **expected: int) -> None:
    """Ask until the worker is as busy as expected; the test's time-out is the limit."""
    while not expected.items() <= client.get("/healthz").json().items():
        pass


def test_a_full_queue(start_stub: StartWorker) -> None:
    worker = start_stub("time.sleep(0.01); return super().decode(rows)")
    request = body(params={"max_tokens": 2**20})
    with worker.client() as client, send(worker, request), send(worker, request), send(worker, request):
        until(client, active=1, queued=2)
        refused = client.post("/v1/generate", json=request)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


def test_concurrent_requests_run_together(client: httpx.Client, worker: RunningWorker) -> None:
    seen = 0
    with ThreadPoolExecutor(4) as pool:
        params = HOT | {"max_tokens": 300}
        while seen < 4:  # a busy machine may start one only when another has ended
            posts = [pool.submit(client.post, "/v1/generate", json=body(params=params)) for _ in range(4)]
            while not all(post.done() for post in posts):
                seen = max(seen, client.get("/healthz").json()["active"])
    assert seen == 4
