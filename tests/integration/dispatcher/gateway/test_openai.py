"""OpenAI's own client, unmodified, on the gateway."""

import asyncio
import re
from typing import Any

import openai
import pytest

from aos_dispatcher.aged import AgedCache
from aos_dispatcher.operators import pin_model
from aos_protocol.messages import ModelOffer
from integration.dispatcher.gateway.conftest import ANSWER, Door
from support.operators import MODEL, TOKENS

HELLO: Any = [{"role": "user", "content": "Hello!"}]
TEXT = "What is AI?"


async def chat(door: Door, **more: Any) -> Any:
    return await door.openai.chat.completions.create(model=door.model, messages=HELLO, **more)


async def test_a_chat_is_a_job_with_evidence(door: Door) -> None:
    door.operator.answer = ANSWER
    answer = await chat(door)
    [choice] = answer.choices
    assert (answer.object, answer.model) == ("chat.completion", door.model)
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", ANSWER)
    assert (choice.finish_reason, choice.stop_reason) == ("stop", TOKENS[-1])
    used = answer.usage
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (
        3,
        len(TOKENS),
        3 + len(TOKENS),
    )
    assert (answer.code, answer.message) == (0, "success")
    job_id = answer.id.removeprefix("chatcmpl-")
    assert answer.aos == {
        "job_id": job_id,
        "evidence": f"/api/job/evidence/{job_id}",
        "operator": door.operator.signer.address,
        "level": "fingerprints",
        "model_sha256": MODEL.sha256,
    }
    detail = await door.network.finished(job_id)
    assert detail["from"] == "shop"
    assert detail["user"] == door.network.token.split("_")[1]
    assert detail["job"]["messages"] == HELLO
    assert await door.network.unpassed(job_id) == [
        f"AOS-MATCH-1 SKIP the answer of {door.operator.signer.address}: nobody was asked to score it"
    ]


async def test_headers_name_the_job_its_evidence_and_the_rate(door: Door) -> None:
    door.operator.answer = ANSWER
    raw = await door.openai.chat.completions.with_raw_response.create(model=door.model, messages=HELLO)
    job_id = raw.parse().id.removeprefix("chatcmpl-")
    assert raw.headers["x-aos-job-id"] == raw.headers["x-request-id"] == job_id
    assert raw.headers["x-aos-evidence"] == f"/api/job/evidence/{job_id}"
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])
    assert raw.headers["content-type"] == "application/json"
    evidence = await door.network.client.get(raw.headers["x-aos-evidence"])
    assert evidence.json()["job"]["job_id"] == job_id


async def test_what_was_asked_for_is_what_the_operator_gets(door: Door) -> None:
    door.operator.answer = ANSWER
    await chat(
        door,
        temperature=0.5,
        top_p=0.25,
        max_completion_tokens=70,
        stop=["\n", "END"],
        seed=17,
        user="ann",
        presence_penalty=0,
        frequency_penalty=0.0,
        tools=[],
        response_format={"type": "text"},
    )
    [dispatch] = await door.asked()
    job = dispatch.job
    params = {"temperature": 0.5, "top_p": 0.25, "max_tokens": 70, "stop": ["\n", "END"]}
    assert job.params.model_dump() == params
    assert (job.seed, job.stream, job.tag, dispatch.user) == (17, None, "opml", "ann")
    assert dispatch.seed != f"{17:064x}"


async def test_a_stream_begins_with_the_role_and_ends_with_how_it_ended(door: Door) -> None:
    stream = asyncio.create_task(chat(door, stream=True))
    [dispatch] = await door.asked()
    assert dispatch.job.stream
    await door.tell(dispatch, start=0, text="one")
    chunks = aiter(await stream)
    first = await anext(chunks)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert (await anext(chunks)).choices[0].delta.content == "one"
    await door.tell(dispatch, start=3, text=" two")
    assert (await anext(chunks)).choices[0].delta.content == " two"
    await door.answer(dispatch)
    rest = [chunk async for chunk in chunks]
    assert [chunk.choices[0].delta.content for chunk in rest] == [" three", ""]
    last = rest[-1]
    assert (last.choices[0].finish_reason, last.choices[0].stop_reason) == ("stop", TOKENS[-1])
    assert last.usage.total_tokens == 3 + len(TOKENS)
    assert last.aos["job_id"] == dispatch.job_id == last.id.removeprefix("chatcmpl-")
    assert {chunk.object for chunk in rest} == {"chat.completion.chunk"}
    assert (await door.network.finished(dispatch.job_id))["status"] == "completed"
    metrics = (await door.network.client.get("/metrics")).text
    assert re.search(r"^aos_gateway_first_text_seconds_count [1-9]", metrics, re.MULTILINE)


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(door: Door) -> None:
    door.operator.answer = ANSWER
    stream = await chat(door, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(TOKENS)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_several_choices_are_several_jobs(door: Door) -> None:
    answering = asyncio.create_task(chat(door, n=3))
    dispatches = {each.job_id: each for each in await door.asked(3)}
    for number, dispatch in enumerate(dispatches.values()):
        await door.answer(dispatch, f"answer {number}")
    answer = await answering
    assert sorted(choice.message.content for choice in answer.choices) == ["answer 0", "answer 1", "answer 2"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {job["job_id"] for job in answer.aos["jobs"]} == set(dispatches)
    assert answer.usage.completion_tokens == 3 * len(TOKENS)
    assert len({each.seed for each in dispatches.values()}) == 3


async def test_streamed_choices_come_side_by_side_and_the_last_says_what_was_used(door: Door) -> None:
    stream = asyncio.create_task(chat(door, n=2, stream=True))
    dispatches = await door.asked(2)
    for number, dispatch in enumerate(dispatches):
        await door.answer(dispatch, f"answer {number}")
    chunks = [chunk async for chunk in await stream]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert sorted(texts.values()) == ["answer 0", "answer 1"]
    ends = [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    assert [getattr(chunk, "aos", None) is not None for chunk in ends] == [False, True]
    assert ends[0].usage is None
    assert ends[1].usage.completion_tokens == 2 * len(TOKENS)


async def test_a_completion_goes_on_with_its_prompt(door: Door) -> None:
    door.operator.answer = ANSWER
    answer = await door.openai.completions.create(model=door.model, prompt=TEXT)
    assert (answer.object, answer.choices[0].text) == ("text_completion", ANSWER)
    assert answer.id.startswith("cmpl-")
    [dispatch] = await door.asked()
    assert (dispatch.job.prompt, dispatch.job.params.max_tokens) == (TEXT, 16)


async def test_a_completion_streams(door: Door) -> None:
    door.operator.answer = ANSWER
    stream = await door.openai.completions.create(model=door.model, prompt=TEXT, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"text_completion"}


async def test_a_suffix_goes_to_the_operator(door: Door) -> None:
    door.operator.answer = ANSWER
    await door.openai.completions.create(model=door.model, prompt="def f(", suffix="return x")
    [dispatch] = await door.asked()
    assert (dispatch.job.prompt, dispatch.job.suffix) == ("def f(", "return x")


async def test_a_list_of_prompts_has_answers_in_its_order(door: Door) -> None:
    answering = asyncio.create_task(door.openai.completions.create(model=door.model, prompt=["a", "b"], n=2))
    for dispatch in await door.asked(4):
        await door.answer(dispatch, f"{dispatch.job.prompt}!")
    answer = await answering
    assert [choice.text for choice in answer.choices] == ["a!", "a!", "b!", "b!"]


async def test_logprobs_are_shown_as_openai_shows_them(door: Door) -> None:
    tokens = [
        {"token": "one", "logprob": -0.5, "top": [["one", -0.5], ["öne", -1.5]]},
        {"token": " two three", "logprob": -0.25, "top": [[" two three", -0.25]]},
    ]
    door.operator.bend_result = lambda result: result | {"logprobs": tokens}
    door.operator.answer = ANSWER
    answer = await chat(door, logprobs=True, top_logprobs=2)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("one", -0.5, list(b"one"))
    assert [each.token for each in first.top_logprobs] == ["one", "öne"]
    assert first.top_logprobs[1].bytes == list("öne".encode())
    assert second.logprob == -0.25
    whole = await door.openai.completions.create(model=door.model, prompt=TEXT, logprobs=2)
    shown = whole.choices[0].logprobs
    assert (shown.tokens, shown.token_logprobs) == (["one", " two three"], [-0.5, -0.25])
    assert shown.text_offset == [0, 3]
    assert shown.top_logprobs[0] == {"one": -0.5, "öne": -1.5}
    assert [each.job.logprobs for each in door.operator.dispatched] == [2, 2]


async def test_its_helper_for_streams_puts_the_answer_together(door: Door) -> None:
    door.operator.answer = ANSWER
    async with door.openai.chat.completions.stream(model=door.model, messages=HELLO) as stream:
        told = [event.delta async for event in stream if event.type == "content.delta"]
        whole = await stream.get_final_completion()
    assert "".join(told) == whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None


async def test_the_synchronous_client_sees_the_same(door: Door) -> None:
    door.operator.answer = ANSWER

    def ask() -> tuple[str | None, str, list[str]]:
        with openai.OpenAI(
            base_url=door.base, api_key=door.network.token, max_retries=0, timeout=60
        ) as client:
            whole = client.chat.completions.create(model=door.model, messages=HELLO)
            stream = client.chat.completions.create(model=door.model, messages=HELLO, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return whole.choices[0].message.content, streamed, [each.id for each in client.models.list()]

    assert await asyncio.to_thread(ask) == (ANSWER, ANSWER, [door.model])


async def test_models_are_those_that_are_served_now(door: Door) -> None:
    listed = await door.openai.models.list()
    [model] = listed.data
    assert (model.id, model.object, model.owned_by) == (door.model, "model", "aos")
    assert model.model == door.model
    assert model.url == f"{door.base}/chat/completions"
    assert (model.evidence, model.kinds, model.sha256) == ("fingerprints", [0], MODEL.sha256)
    assert model.able == ["chat", "fim", "logprobs"]
    assert (listed.project, listed.code, listed.message) == ("shop", 0, "success")
    assert (await door.openai.models.retrieve(door.model)).sha256 == MODEL.sha256
    await door.operator.close()
    while len(door.network.dispatcher.hub):
        await asyncio.sleep(0.01)
    assert (await door.openai.models.list()).data == []
    with pytest.raises(openai.InternalServerError) as away:
        await chat(door)
    assert (away.value.status_code, away.value.code) == (503, "model_unavailable")
    assert int(away.value.response.headers["retry-after"]) > 0


async def test_what_a_name_stands_for_is_looked_up_once_a_second_and_a_new_name_at_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators, asked = door.network.dispatcher.operators, []
    read = operators.models

    async def models() -> list[tuple[str, str, str]]:
        asked.append(1)
        return await read()

    now = 0.0
    monkeypatch.setattr(operators, "models", models)
    monkeypatch.setattr(operators, "_pins", AgedCache(1.0, 10, lambda: now))
    assert [await operators.pins(MODEL.name) for _ in range(3)] == [{"opml": MODEL.sha256}] * 3
    assert len(asked) == 1
    now = 1.0
    assert await operators.pins(MODEL.name) == {"opml": MODEL.sha256}
    assert len(asked) == 2
    assert await operators.pins("new") == {}
    await pin_model(door.network.dispatcher.database, "tee", ModelOffer(name="new", sha256="ab" * 32))
    assert await operators.pins("new") == {"tee": "ab" * 32}
