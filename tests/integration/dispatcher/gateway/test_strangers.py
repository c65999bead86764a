"""Clients that come to a wrong door, or by a way of their own: what they are told."""

from typing import Any

import openai
import pytest

from aos_protocol.messages import ServedModel
from integration.dispatcher.conftest import Network
from integration.dispatcher.gateway.conftest import ANSWER, Door, serving

HELLO: Any = [{"role": "user", "content": "Hello!"}]


async def test_what_is_not_there_is_told_what_is(door: Door) -> None:
    with pytest.raises(openai.NotFoundError, match="no /v1/responses here, but /v1/chat/completions"):
        await door.openai.responses.create(model=door.model, input="Hello!")
    with pytest.raises(openai.NotFoundError, match="no /v1/embeddings here"):
        await door.openai.embeddings.create(model=door.model, input="Hello!")


async def test_a_wrong_method_is_told_the_right_one(door: Door) -> None:
    for path, allowed in (("/v1/chat/completions", "POST"), ("/api/job/submit", "POST")):
        answer = await door.network.client.get(path, headers=door.bearer)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer none"}, {"Authorization": "Basic bm9uZQ=="}])
async def test_who_has_no_key_is_told_which_kind(door: Door, key: dict[str, str]) -> None:
    answer = await door.network.client.get("/v1/models", headers=key)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_a_slash_behind_a_path_makes_no_difference(door: Door) -> None:
    listed = [
        (await door.network.client.get(f"/v1/models{end}", headers=door.bearer)).json() for end in ("", "/")
    ]
    assert listed[0] == listed[1]
    door.operator.answer = ANSWER
    answer = await door.network.client.post(
        "/v1/chat/completions/",
        json={"model": door.model, "messages": HELLO},
        headers=door.bearer,
        follow_redirects=True,
    )
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER


async def test_a_prompt_that_says_nothing_becomes_no_job(door: Door) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await door.openai.completions.create(model=door.model, prompt="")
    assert error.value.param == "prompt"
    assert door.operator.dispatched == []


async def test_an_answer_can_be_appended_to_what_was_said(door: Door) -> None:
    door.operator.answer = ANSWER
    first = await door.openai.chat.completions.create(model=door.model, messages=HELLO)
    said: Any = [*HELLO, first.choices[0].message, *HELLO]
    await door.openai.chat.completions.create(model=door.model, messages=said)
    turns = door.operator.dispatched[-1].job.messages or []
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "Hello!"),
        ("assistant", ANSWER),
        ("user", "Hello!"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("chat/completions", {"messages": HELLO}, 404),
        ("completions", {"prompt": "Hello!"}, 404),
        ("images/generations", {"prompt": "Hello!"}, 404),
        ("images/edits", {"prompt": "Hello!", "image": "http://example.org/x.png"}, 404),
    ],
)
async def test_a_refusal_says_too_where_a_client_stands_with_its_limit(
    door: Door, path: str, body: Any, status: int
) -> None:
    answer = await door.post(path, model="nowhere", **body)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (status, "99")


async def test_an_image_that_nobody_makes_is_an_error_with_its_job(network: Network) -> None:
    await network.restart(least_evidence="text")
    painter = ServedModel(name="painter", sha256="cd" * 32, kinds=[1], able=[], evidence="text")
    door = Door(network, await serving(network, painter))
    door.operator.answer, door.operator.reason = "", "the brush is broken"
    answer = await door.post("images/generations", model="painter", prompt="x", size="64x64")
    await door.openai.close()
    assert (answer.status_code, "the brush is broken" in answer.json()["message"]) == (502, True)
    assert answer.headers["x-aos-job-id"] == answer.json()["job_id"]
    assert answer.headers["x-ratelimit-remaining-requests"] == "99"
