"""`POST /v1/score` over the application, with the stand-in model."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aos_inference.app import create_app
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.testing import ByteModel
from aos_inference.worker import Worker
from aos_inference.writing import Writing
from aos_protocol.score_document import Score
from aos_protocol.transcript import Params

CARD = ModelCard(name="m.gguf", sha256="ab" * 32, size=5, context=300, vocabulary=260, engine="stand-in 1")
SEED = "0f" * 32
PROVER = "0x" + "ab" * 20
SUBJECT = "5e" * 32
PARAMS = {"max_tokens": 20, "top_p": 0.9}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def model() -> ByteModel:
    return ByteModel(cells=4 * 300)


@pytest.fixture
async def client(model: ByteModel) -> AsyncIterator[httpx.AsyncClient]:
    engine = Engine(model, model, context=300, limits=Limits(4, requests=2, tokens=10_000))
    engine.start()
    transport = httpx.ASGITransport(create_app(Worker(CARD, engine, model, ChatFormat(TEMPLATE, model))))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client
    model.open.set()
    engine.stop()
    await engine.wait()


async def answer(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    base = {"model": "m.gguf", "prompt": "Hi", "seed": SEED, "prover": PROVER, "params": PARAMS}
    request = {key: value for key, value in (base | changes).items() if value is not None}
    found: dict[str, Any] = (await client.post("/v1/generate", json=request)).json()
    return found


def item(given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """As a verifier scores an answer with a transcript; None leaves a field out."""
    transcript = given["transcript"]
    base = {
        "prompt": "Hi",
        "output_tokens": transcript["output_tokens"],
        "params": transcript["params"],
        "seed": SEED,
        "prover": PROVER,
        "fingerprints": transcript["fingerprints"],
        "answer": {
            "text": given["text"],
            "finish_reason": given["finish_reason"],
            "prompt_tokens": transcript["prompt_tokens"],
        },
        "subject": given["commitment"],
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def claim(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "text": "Hello", "params": PARAMS, "subject": SUBJECT} | changes


async def post(client: httpx.AsyncClient, *items: dict[str, Any], model: str = "m.gguf") -> httpx.Response:
    return await client.post("/v1/score", json={"model": model, "items": items})


async def scores(client: httpx.AsyncClient, *items: dict[str, Any]) -> list[Score]:
    response = await post(client, *items)
    assert response.status_code == 200, response.text
    return [Score.model_validate(score) for score in response.json()["scores"]]


class TestTranscripts:
    async def test_an_honest_one(self, client: httpx.AsyncClient) -> None:
        given = await answer(client)
        (score,) = await scores(client, item(given))
        tokens = given["transcript"]["output_tokens"]
        assert score.level == "fingerprint"
        assert (score.subject, score.model, score.engine) == (given["commitment"], CARD.sha256, CARD.engine)
        assert (score.winners, score.margins) == (tokens, [0.0] * len(tokens))
        assert score.distances is not None
        assert max(score.distances) < 0.01
        assert (score.ambiguous, score.contradiction) == (None, None)

    async def test_to_chat_messages(self, client: httpx.AsyncClient) -> None:
        given = await answer(client, prompt=None, messages=CHAT)
        (score,) = await scores(client, item(given, prompt=None, messages=CHAT))
        assert (score.winners, score.contradiction) == (given["transcript"]["output_tokens"], None)

    async def test_every_way_to_end(self, client: httpx.AsyncClient) -> None:
        free = await answer(client)
        stop = {"max_tokens": 50, "top_p": 0.9, "stop": [free["text"][5:7]]}
        full = {"max_tokens": 10**6, "top_p": 1.0, "temperature": 0.1}
        for params in (PARAMS, stop, full):
            given = await answer(client, params=params)
            (score,) = await scores(client, item(given))
            assert score.contradiction is None, given["finish_reason"]

    async def test_what_an_answer_says_against_its_tokens(self, client: httpx.AsyncClient) -> None:
        given = await answer(client)
        said = item(given)["answer"]
        tokens = given["transcript"]["output_tokens"]
        params = Params(**given["transcript"]["params"])
        shorter, _ = Writing(ByteModel(), params, 3, 300).whole(tokens[:-1])
        prints = base64.b64decode(given["transcript"]["fingerprints"])[:-16]
        cut = {"output_tokens": tokens[:-1], "fingerprints": base64.b64encode(prints).decode()}
        found = await scores(
            client,
            item(given, answer=said | {"prompt_tokens": [256, *b"Ho"]}),
            item(given, answer=said | {"text": given["text"] + "!"}),
            item(given, answer=said | {"finish_reason": "eos"}),
            item(given, **cut, answer=said | {"text": shorter, "finish_reason": "eos"}),
            item(given, **cut, answer=said | {"text": shorter, "finish_reason": "length"}),
            item(given, **cut, answer=said | {"text": shorter + "!", "finish_reason": "length"}),
        )
        expected = ["prompt", "text", "end", "end", "context", "text"]
        assert [score.contradiction for score in found] == expected
        assert not any(any(score.margins or ()) for score in found)

    async def test_another_prompt_than_the_jobs_shows(self, client: httpx.AsyncClient) -> None:
        given = await answer(client, prompt="Something else")
        (score,) = await scores(client, item(given))
        assert score.contradiction == "prompt"
        assert score.distances is not None
        assert score.distances[0] > 0.3

    async def test_a_prompt_that_items_share_is_read_once(
        self, client: httpx.AsyncClient, model: ByteModel
    ) -> None:
        prompt = "x" * 200
        given = [await answer(client, prompt=prompt, seed=f"{seed:064x}") for seed in range(4)]
        before = model.fed
        found = await scores(
            client, *(item(each, prompt=prompt, seed=f"{seed:064x}") for seed, each in enumerate(given))
        )
        assert model.fed - before <= 4 * 20  # nothing of the prompt: a slot still holds it
        assert [score.contradiction for score in found] == [None] * 4


class TestClaims:
    @pytest.mark.parametrize(
        ("changes", "level"),
        [
            ({}, "likelihood"),
            ({"seed": SEED}, "seeded"),
            ({"params": {"temperature": 0.0}}, "greedy"),
            ({"text": None, "output_tokens": [72, 105]}, "likelihood"),
        ],
    )
    async def test_levels(self, client: httpx.AsyncClient, changes: dict[str, Any], level: str) -> None:
        asked = {key: value for key, value in claim(**changes).items() if value is not None}
        (score,) = await scores(client, asked)
        assert (score.level, score.subject, score.contradiction) == (level, SUBJECT, None)
        assert score.positions == len(asked.get("output_tokens") or "Hello")

    async def test_a_text_is_tokenised_anew(self, client: httpx.AsyncClient) -> None:
        given = await answer(client, params=PARAMS | {"max_tokens": 200})
        (score,) = await scores(client, claim(text=given["text"], seed=SEED, params=PARAMS))
        if "\ufffd" in given["text"]:
            assert score.ambiguous is not None
            assert given["text"].encode().index("\ufffd".encode()) - 2 <= score.ambiguous
        assert score.positions == len(given["text"].encode())

    async def test_prompts_may_be_tokens(self, client: httpx.AsyncClient) -> None:
        by_text, by_tokens = await scores(
            client, claim(), {**claim(prompt_tokens=[256, *b"Hi"]), "prompt": None}
        )
        assert by_text == by_tokens


class TestRefusals:
    async def test_another_model(self, client: httpx.AsyncClient) -> None:
        for name in ("other", "cd" * 32):
            response = await post(client, claim(), model=name)
            assert response.status_code == 404
            assert "this worker serves 'm.gguf'" in response.json()["message"]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"prompt": None}, "exactly one of prompt, messages and prompt_tokens"),
            ({"messages": CHAT}, "exactly one of prompt, messages and prompt_tokens"),
            ({"output_tokens": [1]}, "exactly one of output_tokens and text"),
            ({"text": None}, "exactly one of output_tokens and text"),
            ({"text": ""}, "text:"),
            ({"text": None, "output_tokens": []}, "output_tokens:"),
            (
                {"text": None, "output_tokens": [260]},
                "items.1.output_tokens: token 260 is not in this model's",
            ),
            ({"text": None, "output_tokens": [-1]}, "output_tokens.0:"),
            ({"text": None, "output_tokens": [1.0]}, "output_tokens.0:"),
            ({"prompt": None, "prompt_tokens": [260]}, "items.1.prompt_tokens: token 260 is not in"),
            ({"prompt": None, "prompt_tokens": []}, "prompt_tokens:"),
            (
                {"prompt": "x" * 295},
                "items.1: the prompt (296 tokens) and the output (5) exceed the context of 300",
            ),
            ({"text": "x" * 400}, "items.1: the prompt (3 tokens) and the output (400) exceed"),
            ({"fingerprints": "AA=="}, "fingerprints need output_tokens, seed and prover"),
            (
                {"answer": {"text": "", "finish_reason": "eos", "prompt_tokens": [1]}},
                "answer needs output_tokens",
            ),
            ({"seed": "zz"}, "seed:"),
            ({"subject": "no digest"}, "subject:"),
            ({"params": {"temperature": -1}}, "params.temperature:"),
            ({"extra": 1}, "extra:"),
        ],
    )
    async def test_wrong_items_are_named(
        self, client: httpx.AsyncClient, changes: dict[str, Any], said: str
    ) -> None:
        wrong = {key: value for key, value in claim(**changes).items() if value is not None}
        response = await post(client, claim(), wrong)
        assert response.status_code == 422
        assert said in response.json()["message"]
        assert "items.1" in response.json()["message"]

    @pytest.mark.parametrize(
        ("fingerprints", "said"),
        [
            ("!!!!", "no base64"),
            (base64.b64encode(bytes(16)).decode(), "fingerprints of 2 tokens"),
            (base64.b64encode(bytes(33)).decode(), "fingerprints of 2 tokens"),
            (base64.b64encode(b"\x00\x7e" * 16).decode(), "not finite"),
            (base64.b64encode(bytes(32)).decode().rstrip("="), "no base64"),
        ],
    )
    async def test_wrong_fingerprints(self, client: httpx.AsyncClient, fingerprints: str, said: str) -> None:
        wrong = {key: value for key, value in claim().items() if key != "text"}
        wrong |= {"output_tokens": [1, 2], "seed": SEED, "prover": PROVER, "fingerprints": fingerprints}
        response = await post(client, wrong)
        assert response.status_code == 422
        assert said.lower() in response.json()["message"].lower()

    async def test_more_or_fewer_items_than_allowed(self, client: httpx.AsyncClient) -> None:
        assert len(await scores(client, *[claim()] * 64)) == 64
        for items in ([claim()] * 65, []):
            response = await post(client, *items)
            assert response.status_code == 422
            assert response.json()["message"].startswith("items:")

    async def test_a_body_that_is_no_json(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/score", content=b'{"model": "m.gguf", "items": [NaN]}')
        assert response.status_code == 400

    async def test_a_body_beyond_the_limit(self, client: httpx.AsyncClient) -> None:
        response = await post(client, claim(text="x" * (16 * 2**20)))
        assert response.status_code == 413

    async def test_a_full_queue(self, client: httpx.AsyncClient, model: ByteModel) -> None:
        model.open.clear()
        crowd = [claim(prompt=f"prompt {number}") for number in range(6)]
        waiting = [asyncio.create_task(post(client, *crowd)) for _ in range(2)]
        while (await client.get("/healthz")).json()["queued"] < 8:
            await asyncio.sleep(0)
        response = await post(client, claim())
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        model.open.set()
        assert [response.status_code for response in await asyncio.gather(*waiting)] == [200, 200]
