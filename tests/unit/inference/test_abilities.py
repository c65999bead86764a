"""What the worker takes beside a plain prompt: a suffix to fill in before, and a wish for logprobs; over the application, with the stand-in model."""

import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from aos_inference.app import create_app
from aos_inference.engine import Engine
from aos_inference.filling import Gap, choose
from aos_inference.loading import abilities
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.testing import ByteModel
from aos_inference.worker import Worker
from aos_protocol import sampling
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import TokenLogprob
from aos_protocol.record import Record
from aos_protocol.shown import score_item
from aos_protocol.transcript import Transcript

CARD = ModelCard(
    name="m.gguf", sha256="ab" * 32, size=5, context=300, vocabulary=260, engine="stand-in", able=["fim", "logprobs"]
)  # fmt: skip
SEED = "0f" * 32
PROVER = "0x" + "ab" * 20


@pytest.fixture
def model() -> ByteModel:
    found = ByteModel()
    found.gap = Gap(258, 259, 257)
    return found


@pytest.fixture
async def client(model: ByteModel) -> AsyncIterator[httpx.AsyncClient]:
    engine = Engine(model, model, context=300, limits=Limits(2, requests=4, tokens=1000))
    engine.start()
    worker = Worker(CARD, engine, model, None, choose(model, None))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(worker)), base_url="http://worker"
    ) as client:
        yield client
    engine.stop()
    await engine.wait()


async def generate(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    base = {"model": "m.gguf", "prompt": "Hi", "seed": SEED, "prover": PROVER, "params": {"max_tokens": 9}}
    return await client.post("/v1/generate", json=base | changes)


async def answered(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await generate(client, **changes)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def streamed(client: httpx.AsyncClient, **changes: Any) -> list[dict[str, Any]]:
    response = await generate(client, stream=True, **changes)
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


@pytest.mark.parametrize(("prompt", "suffix"), [("Hi", " there"), ("", "end"), ("Hi", "")])
async def test_a_suffix_makes_a_prompt_with_a_gap(
    client: httpx.AsyncClient, prompt: str, suffix: str
) -> None:
    answer = await answered(client, prompt=prompt, suffix=suffix)
    assert answer["transcript"]["prompt_tokens"] == [256, 258, *prompt.encode(), 259, *suffix.encode(), 257]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prompt": "", "suffix": ""}, "give at least 1 character"),
        ({"prompt": ""}, "give at least 1 character"),
        ({"prompt": None, "suffix": "x"}, "exactly one of prompt and messages"),
        ({"prompt": None, "messages": [{"role": "user", "content": "Hi"}], "suffix": "x"}, "a suffix needs a prompt"),
        ({"suffix": 5}, "suffix: "), ({"logprobs": -1}, "logprobs: "), ({"logprobs": 21}, "logprobs: "),
        ({"logprobs": True}, "logprobs: "),
    ],
)  # fmt: skip
async def test_what_does_not_go_together_is_refused_by_name(
    client: httpx.AsyncClient, changes: dict[str, Any], why: str
) -> None:
    response = await generate(client, **changes)
    assert response.status_code == 422
    assert why in response.json()["message"]


async def test_a_model_that_does_not_fill_in_says_so(model: ByteModel) -> None:
    engine = Engine(model, model, context=300, limits=Limits(1, requests=1, tokens=1000))
    engine.start()
    app = create_app(Worker(CARD, engine, model, None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        response = await generate(client, suffix="x")
    assert (response.status_code, response.json()["message"][:40]) == (
        422,
        "suffix: this model does not fill in; sen",
    )
    engine.stop()
    await engine.wait()


async def test_a_verifier_makes_the_same_prompt(client: httpx.AsyncClient) -> None:
    job = JobSpec(tag="opml", prompt="Hi", suffix=" there", model="m.gguf")
    answer = await answered(client, suffix=" there", params=job.params.model_dump())
    transcript = Transcript.from_json(answer["transcript"])
    item = score_item(job, transcript.commitment(), answer["text"], transcript)
    other = score_item(
        job.model_copy(update={"suffix": " they"}), transcript.commitment(), answer["text"], transcript
    )
    response = await client.post("/v1/score", json={"model": "m.gguf", "items": [item, other]})
    honest, elsewhere = response.json()["scores"]
    assert (honest["contradiction"], set(honest["margins"])) == (None, {0.0})
    assert elsewhere["contradiction"] == "prompt"


async def test_logprobs_are_those_of_the_model_s_own_logits(client: httpx.AsyncClient) -> None:
    """Temperature and top-p change what is drawn, and not how likely the model finds it."""
    answer = await answered(client, logprobs=3, params={"max_tokens": 9, "temperature": 0.5, "top_p": 0.7})
    output = answer["transcript"]["output_tokens"]
    reference = ByteModel()
    reference.keep(0, 0)
    (logits,) = reference.decode([(0, 256, 0, False), (0, ord("H"), 1, False), (0, ord("i"), 2, True)])
    assert output[0] == sampling.sample(logits, sampling.sampling_seed(bytes.fromhex(SEED)), 0, 0.5, 0.7)
    exact = logits.astype(np.float64)
    exact -= math.log(np.exp(exact - exact.max()).sum()) + exact.max()
    first = answer["logprobs"][0]
    assert first["logprob"] == pytest.approx(exact[output[0]], abs=1e-5)
    assert [value for _, value in first["top"]] == pytest.approx(sorted(exact, reverse=True)[:3], abs=1e-5)


def _shown(output: Sequence[int], finish: str) -> int:
    """How many tokens an answer shows logprobs of: an end token is not written."""
    return len(output) - (finish == "eos")


@pytest.mark.parametrize("count", [0, 1, 20])
async def test_each_token_but_an_end_has_as_many_as_were_asked_for(
    client: httpx.AsyncClient, count: int
) -> None:
    answer = await answered(client, logprobs=count)
    shown = [parse_message(TokenLogprob, one) for one in answer["logprobs"]]
    assert len(shown) == _shown(answer["transcript"]["output_tokens"], answer["finish_reason"])
    assert {len(one.top) for one in shown} == {count}


async def test_what_ends_a_sequence_is_no_token_of_the_answer(client: httpx.AsyncClient) -> None:
    for number in range(64):
        answer = await answered(client, logprobs=0, params={"max_tokens": 250}, seed=f"{number:064x}")
        if answer["finish_reason"] == "eos":
            break
    assert len(answer["logprobs"]) == len(answer["transcript"]["output_tokens"]) - 1


async def test_an_answer_without_them_is_as_ever(client: httpx.AsyncClient) -> None:
    plain, likely = await answered(client), await answered(client, logprobs=2)
    assert "logprobs" not in plain
    likely.pop("logprobs")
    assert plain == likely


async def test_they_are_streamed_with_the_text(client: httpx.AsyncClient) -> None:
    *events, answer = await streamed(client, logprobs=2)
    assert answer == await answered(client, logprobs=2)
    assert "".join(event["text"] for event in events) == answer["text"]
    assert [one for event in events for one in event.get("logprobs", [])] == answer["logprobs"]
    assert all("logprobs" not in event for event in (await streamed(client))[:-1])


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, None), ("forged", "text"), ("cut", "text")],
)
async def test_an_answer_with_token_ids_alone_says_what_they_spell(
    client: httpx.AsyncClient, text: str | None, said: str | None
) -> None:
    job = JobSpec(tag="opml", prompt="Hi", model="m.gguf")
    answer = await answered(client, params=job.params.model_dump())
    tokens = [token for token in answer["transcript"]["output_tokens"] if token < 256]
    record = Record(level="token_ids", backend="llama.cpp", output_tokens=tokens)
    claimed = {"forged": answer["text"] + "!", "cut": answer["text"][:-5]}.get(text or "", answer["text"])
    item = score_item(job, record.digest(), claimed, record)
    (score,) = (await client.post("/v1/score", json={"model": "m.gguf", "items": [item]})).json()["scores"]
    assert (score["level"], score["contradiction"], score["subject"]) == ("likelihood", said, record.digest())
    assert score["positions"] == len(tokens)


async def test_half_a_character_at_an_answer_s_end_need_not_be_written(client: httpx.AsyncClient) -> None:
    job = JobSpec(tag="opml", prompt="Hi", model="m.gguf")
    record = Record(level="token_ids", backend="llama.cpp", output_tokens=[65, 66, 0xE2, 0x82])
    items = [score_item(job, record.digest(), text, record) for text in ("AB", "AB\ufffd", "AB€", "A")]
    found = (await client.post("/v1/score", json={"model": "m.gguf", "items": items})).json()["scores"]
    assert [score["contradiction"] for score in found] == [None, None, "text", "text"]


async def test_an_answer_says_both_how_it_ends_and_to_which_prompt_or_neither(
    client: httpx.AsyncClient,
) -> None:
    item = {
        "prompt": "Hi",
        "output_tokens": [65],
        "subject": "5e" * 32,
        "answer": {"text": "A", "finish_reason": "eos"},
    }
    response = await client.post("/v1/score", json={"model": "m.gguf", "items": [item]})
    assert response.status_code == 422
    assert "give both of finish_reason and prompt_tokens, or neither" in response.json()["message"]


async def test_the_model_card_says_what_it_can(client: httpx.AsyncClient) -> None:
    (card,) = (await client.get("/v1/models")).json()["models"]
    assert (card["evidence"], card["able"]) == ("fingerprints", ["fim", "logprobs"])


def test_what_was_found_of_a_model_is_what_it_can(model: ByteModel) -> None:
    assert abilities(None, None) == ["logprobs"]
    assert abilities(None, choose(model, None)) == ["fim", "logprobs"]
