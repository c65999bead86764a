import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aos_inference.app import create_app
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.intake import MAX_BODY
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.testing import ByteModel
from aos_inference.worker import Worker
from aos_protocol import sampling
from aos_protocol.transcript import Transcript

CARD = ModelCard(name="m.gguf", sha256="ab" * 32, size=5, context=300, vocabulary=260, engine="stand-in 1")
SEED = "0f" * 32
PROVER = "0x" + "ab" * 20
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture
def model() -> ByteModel:
    return ByteModel()


@pytest.fixture
async def worker(model: ByteModel) -> AsyncIterator[Worker]:
    engine = Engine(model, model, context=300, limits=Limits(1, requests=1, tokens=1000))
    engine.start()
    yield Worker(CARD, engine, model, ChatFormat(TEMPLATE, model))
    model.open.set()
    engine.stop()
    if engine.alive:
        await engine.wait()


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(worker), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client


def body(**changes: Any) -> dict[str, Any]:
    base = {"model": "m.gguf", "prompt": "Hi", "seed": SEED, "prover": PROVER, "params": {"max_tokens": 9}}
    return {key: value for key, value in (base | changes).items() if value is not None}


async def generate(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/v1/generate", json=body(**changes))


async def test_an_answer_with_its_transcript(client: httpx.AsyncClient, model: ByteModel) -> None:
    response = await generate(client)
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"text", "finish_reason", "transcript", "commitment", "usage"}
    transcript = Transcript.from_json(answer["transcript"])
    assert answer["commitment"] == transcript.commitment()
    assert transcript.to_json() == {
        "rule": 1,
        "model": "ab" * 32,
        "engine": "stand-in 1",
        "params": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "stop": []},
        "seed": SEED,
        "prover": PROVER,
        "prompt_tokens": [256, *b"Hi"],
        "output_tokens": list(transcript.output_tokens),
        "fingerprints": transcript.fingerprints,
        "finish_reason": answer["finish_reason"],
    }
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": len(transcript.output_tokens)}
    reference = ByteModel()
    reference.keep(0, 0)
    (logits,) = reference.decode([(0, 256, 0, False), (0, ord("H"), 1, False), (0, ord("i"), 2, True)])
    first = sampling.sample(logits, sampling.sampling_seed(bytes.fromhex(SEED)), 0, 1.0, 1.0)
    assert transcript.output_tokens[0] == first


async def test_the_same_request_gives_the_same_answer_and_another_seed_another(
    client: httpx.AsyncClient,
) -> None:
    first, again = (await generate(client)).json(), (await generate(client)).json()
    assert first == again
    other = (await generate(client, seed="0e" * 32)).json()
    assert other["transcript"]["output_tokens"] != first["transcript"]["output_tokens"]


async def test_upper_case_seeds_are_the_same_seeds(client: httpx.AsyncClient) -> None:
    assert (await generate(client, seed=SEED.upper())).json() == (await generate(client)).json()


async def test_messages_go_through_the_template(client: httpx.AsyncClient) -> None:
    messages = [{"role": "system", "content": "<|im_end|>"}, {"role": "user", "content": "Hi"}]
    answer = (await generate(client, prompt=None, messages=messages)).json()
    assert answer["transcript"]["prompt_tokens"] == [256, 258, *b"<|im_end|>", 259, 258, *b"Hi", 259]


async def test_streaming_ends_with_the_same_answer(client: httpx.AsyncClient) -> None:
    plain = (await generate(client)).json()
    response = await generate(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert events[-1] == plain
    assert "".join(event["text"] for event in events[:-1]) == plain["text"]


async def test_the_models_and_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {"models": [CARD.model_dump()]}
    response = await client.get("/healthz")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ok", "active": 0, "queued": 0, "queued_tokens": 0, "slots": 1},
    )


async def test_a_dead_engine_shows(client: httpx.AsyncClient, model: ByteModel) -> None:
    model.failure = OSError("gone")
    response = await generate(client)
    assert (response.status_code, response.json()["code"]) == (503, 503)
    response = await client.get("/healthz")
    assert (response.status_code, response.json()["status"]) == (503, "failed")


async def test_a_full_queue_says_when_to_come_back(
    client: httpx.AsyncClient, worker: Worker, model: ByteModel
) -> None:
    model.open.clear()
    running = [asyncio.create_task(generate(client)) for _ in range(2)]
    while worker.engine.load.queued == 0:
        await asyncio.sleep(0)
    for stream in (False, True):
        response = await generate(client, stream=stream)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["code"] == 503
    model.open.set()
    assert [response.status_code for response in await asyncio.gather(*running)] == [200, 200]


async def test_another_model_is_unknown(client: httpx.AsyncClient) -> None:
    response = await generate(client, model="other")
    assert response.status_code == 404
    assert response.json() == {"code": 404, "message": "Unknown model 'other'; this worker serves 'm.gguf'."}


async def test_a_prompt_that_does_not_fit_names_both_numbers(client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        response = await generate(client, prompt="x" * 299, stream=stream)
        assert response.status_code == 422
        assert "300 tokens" in response.json()["message"]
        assert "context of 300" in response.json()["message"]
    assert (await generate(client, prompt="x" * 298)).json()["finish_reason"] in {"length", "eos"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": 5}, "model:"),
        ({"prompt": None}, "exactly one of prompt and messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "exactly one of prompt and messages"),
        ({"prompt": ""}, "prompt:"),
        ({"prompt": None, "messages": []}, "messages:"),
        ({"prompt": None, "messages": [{"role": "tool", "content": "x"}]}, "messages.0.role:"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "messages.0.content:"),
        ({"prover": None}, "prover:"),
        ({"prover": ""}, "prover:"),
        ({"seed": "0f"}, "seed:"),
        ({"seed": "zz" * 32}, "seed:"),
        ({"stream": "yes"}, "stream:"),
        ({"params": {"temperature": 5.1}}, "params.temperature:"),
        ({"params": {"temperature": "1"}}, "params.temperature:"),
        ({"params": {"top_p": 0}}, "params.top_p:"),
        ({"params": {"max_tokens": 0}}, "params.max_tokens:"),
        ({"params": {"max_tokens": 2.5}}, "params.max_tokens:"),
        ({"params": {"stop": ["a"] * 17}}, "params.stop:"),
        ({"params": {"stop": [""]}}, "params.stop.0:"),
        ({"params": {"stop": "a"}}, "params.stop:"),
        ({"params": {"top_k": 4}}, "params.top_k:"),
        ({"extra": 1}, "extra:"),
    ],
)
async def test_wrong_fields_are_named(client: httpx.AsyncClient, changes: dict[str, Any], named: str) -> None:
    response = await generate(client, **changes)
    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == 422
    assert named in problem["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{}", b'{"model": NaN}', b'{"model": "a", "model": "b"}', b'{"a": "\\ud800"}'],
)
async def test_a_body_that_is_no_json(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/v1/generate", content=content)
    assert (response.status_code, response.json()["code"]) == (400, 400)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"'])
async def test_a_body_that_is_no_object(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/v1/generate", content=content)
    assert response.status_code == 422
    assert "body:" in response.json()["message"]


async def test_a_body_over_the_limit_is_counted_not_believed(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:  # sent in chunks, without a Content-Length
        for _ in range(33):
            yield bytes(MAX_BODY // 32)

    response = await client.post("/v1/generate", content=pieces())
    assert (response.status_code, response.json()["code"]) == (413, 413)


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient) -> None:
    empty = len(json.dumps(body(prompt="")))
    response = await client.post(
        "/v1/generate", content=json.dumps(body(prompt="x" * (MAX_BODY - empty))).encode()
    )
    assert response.status_code == 422  # too long for the context, but read


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/generate", 405), ("GET", "/nothing", 404)]
)
async def test_wrong_paths_and_methods_look_like_other_errors(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["code"] == status


async def test_a_bug_is_a_500_without_details(client: httpx.AsyncClient, worker: Worker) -> None:
    del worker.card
    response = await client.get("/v1/models")
    assert response.status_code == 500
    assert response.json() == {"code": 500, "message": "The worker failed on this request; its log says why."}


async def test_openapi_describes_the_body_and_the_errors(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    for path, field in (("/v1/generate", "seed"), ("/v1/score", "items")):
        post = schema["paths"][path]["post"]
        reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert field in schema["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
        assert {"400", "404", "413", "422", "503"} <= set(post["responses"])
    dangling = [
        ref for ref in references(schema) if ref.rsplit("/", 1)[1] not in schema["components"]["schemas"]
    ]
    assert dangling == []


def references(node: Any) -> list[str]:
    """All $ref values anywhere in a JSON document."""
    if isinstance(node, list):
        return [ref for child in node for ref in references(child)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [ref for child in node.values() for ref in references(child)]


async def test_without_a_template_messages_are_refused(model: ByteModel, worker: Worker) -> None:
    transport = httpx.ASGITransport(create_app(Worker(CARD, worker.engine, model, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        response = await generate(client, prompt=None, messages=[{"role": "user", "content": "Hi"}])
    assert response.status_code == 422
    assert "no chat template" in response.json()["message"]
