"""What goes wrong, as clients of the gateway are told: refusals, failed jobs, broken streams, and clients that leave themselves."""

import asyncio
import json
from typing import Any

import openai
import pytest
from structlog.testing import capture_logs

from aos_dispatcher.errors import Unavailable
from aos_dispatcher.gateway import responses
from aos_dispatcher.limits import set_quota
from aos_dispatcher.projects import create_project
from aos_dispatcher.tokens import Grant, create_token
from aos_protocol.messages import Dispatch, ServedModel
from integration.dispatcher.conftest import Network
from integration.dispatcher.gateway.conftest import ANSWER, Door, serving
from support.operators import MODEL

HELLO: Any = [{"role": "user", "content": "Hello!"}]


async def chat(door: Door, **more: Any) -> Any:
    return await door.openai.chat.completions.create(**({"model": door.model, "messages": HELLO} | more))


async def leave(door: Door, **more: Any) -> Dispatch:
    """Leave in the middle of a request, once its job is with the operator."""
    before = len(door.operator.dispatched)
    asked = asyncio.create_task(chat(door, **more))
    dispatch = (await door.asked(before + 1))[-1]
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    return dispatch


async def chunks_of(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


async def test_an_unknown_model_is_not_found(door: Door) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        await chat(door, model="gpt-17")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert error.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        await door.openai.models.retrieve("a/b")


async def test_errors_have_both_forms(door: Door) -> None:
    answer = await door.post("chat/completions", model=door.model, messages=HELLO, tools=[{}])
    body = answer.json()
    assert answer.status_code == body["code"] == 400
    assert body["message"] == body["error"]["message"]
    assert (body["error"]["param"], body["error"]["code"]) == ("tools", "unsupported_parameter")
    client = door.network.client
    for path, status in (("/v1/nowhere", 404), ("/v1/chat/completions", 405)):
        said = (await client.get(path, headers=door.bearer)).json()
        assert said["code"] == status
        assert said["error"]["type"] == "invalid_request_error"
    assert (await client.get("/nowhere")).json() == {"code": 404, "message": "Not Found"}


@pytest.mark.parametrize("key", ["wrong", ""])
async def test_a_wrong_key_is_refused(door: Door, key: str) -> None:
    client = door.openai.with_options(api_key=key or "none")
    with pytest.raises(openai.AuthenticationError) as error:
        await client.models.list()
    assert error.value.code == "invalid_api_key"
    without = await door.network.client.get("/v1/models")
    assert (without.status_code, without.json()["error"]["type"]) == (401, "authentication_error")


async def test_a_token_that_may_not_submit_is_told_so(door: Door) -> None:
    await create_project(door.network.dispatcher.database, "readers", private=False)
    token = await create_token(door.network.dispatcher.database, Grant("readers", {"read"}))
    client = door.openai.with_options(api_key=token)
    with pytest.raises(openai.PermissionDeniedError):
        await client.chat.completions.create(model=door.model, messages=HELLO)
    assert door.operator.dispatched == []


async def test_what_the_model_cannot_do_is_refused_by_name(network: Network) -> None:
    await network.restart(least_evidence="text")
    plain = ServedModel(name="plain", sha256="ab" * 32, able=[], evidence="text")
    painter = ServedModel(name="painter", sha256="cd" * 32, kinds=[1, 2], able=[])
    door = Door(network, await serving(network, plain, painter))
    complete = door.openai.completions.create
    for field, asked in (
        ("messages", chat(door, model="plain")),
        ("suffix", complete(model="plain", prompt="a", suffix="b")),
        ("logprobs", complete(model="plain", prompt="a", logprobs=1)),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            await asked
        assert (error.value.param, error.value.code) == (field, "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as error:
        await chat(door, model="painter")
    assert "/v1/images/generations" in str(error.value)
    listed = {each.id: each for each in (await door.openai.models.list()).data}
    await door.openai.close()
    assert listed["plain"].evidence == "text"
    assert listed["plain"].url == f"{door.base}/completions"
    assert listed["painter"].url == f"{door.base}/images/generations"


async def test_a_job_that_nobody_can_answer_is_an_error_with_its_id(door: Door) -> None:
    door.operator.answer, door.operator.reason = "", "the model is broken"
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as error:
            await chat(door, stream=stream)
        assert (error.value.status_code, error.value.code) == (502, "job_failed")
        body = error.value.response.json()
        assert "the model is broken" in body["message"]
        assert error.value.response.headers["x-aos-job-id"] == body["job_id"]
        assert (await door.network.finished(body["job_id"]))["status"] == "failed"


async def test_nobody_waits_longer_than_the_job_may_take(new_database: Any) -> None:
    network = Network(await new_database("dispatcher"), job_timeout=1)
    await network.start()
    await network.project()
    door = Door(network, await serving(network, ServedModel(name=MODEL.name, sha256=MODEL.sha256)))
    with pytest.raises(openai.InternalServerError) as error:
        await chat(door)
    assert error.value.status_code == 502
    # Or its time was over before anybody had it.
    assert any(said in str(error.value) for said in ("no answer by the deadline", "took the job in time"))
    await door.openai.close()
    await door.operator.close()
    await network.stop()


async def test_a_stream_that_breaks_ends_with_an_error_and_the_job_fails(door: Door) -> None:
    stream = asyncio.create_task(chat(door, stream=True))
    [dispatch] = await door.asked()
    await door.tell(dispatch, start=0, text="one")
    chunks = aiter(await stream)
    assert (await anext(chunks)).choices[0].delta.role == "assistant"
    assert (await anext(chunks)).choices[0].delta.content == "one"
    await door.answer(dispatch, "another answer")
    with pytest.raises(openai.APIError, match="streamed") as error:
        await chunks_of(chunks)
    assert error.value.code == "job_failed"
    detail = await door.network.finished(dispatch.job_id)
    assert detail["status"] == "failed"
    assert "streamed" in detail["reason"]


async def test_a_broken_stream_has_no_done(door: Door) -> None:
    asked = asyncio.create_task(door.post("chat/completions", model=door.model, messages=HELLO, stream=True))
    [dispatch] = await door.asked()
    await door.tell(dispatch, start=0, text="one")
    await door.answer(dispatch, "another answer")
    lines = [line for line in (await asked).text.split("\n\n") if line and not line.startswith(":")]
    assert "[DONE]" not in lines[-1]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert (last["code"], last["job_id"]) == (502, dispatch.job_id)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_job_at_the_operator(door: Door, stream: bool) -> None:
    if stream:
        asked = asyncio.create_task(chat(door, stream=True))
        [dispatch] = await door.asked()
        await door.tell(dispatch, start=0, text="one")
        response = (await asked).response
        await response.aclose()
    else:
        dispatch = await leave(door)
    detail = await door.cancelled(dispatch.job_id)
    assert (detail["status"], "client left" in detail["reason"]) == ("cancelled", True)


async def test_a_client_that_runs_out_of_patience_leaves_too(door: Door) -> None:
    patience = 0.25
    while not door.operator.dispatched:  # with none, it leaves before its job is with the operator
        patience *= 2
        client = door.openai.with_options(timeout=patience)
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model=door.model, messages=HELLO)
    for dispatch in door.operator.dispatched:
        assert (await door.cancelled(dispatch.job_id))["status"] == "cancelled"


async def test_a_job_that_cannot_be_cancelled_is_no_secret(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> bool:
        tried.set()
        raise Unavailable

    tried = asyncio.Event()
    monkeypatch.setattr(type(door.network.dispatcher.following), "abandon", fail)
    with capture_logs() as logs:
        dispatch = await leave(door)
        await tried.wait()
    assert [line["job_id"] for line in logs if line["log_level"] == "error"] == [dispatch.job_id]


async def test_one_choice_that_fails_ends_the_others(door: Door) -> None:
    asked = asyncio.create_task(chat(door, n=2))
    first, second = await door.asked(2)
    door.operator.reason = "the model is broken"
    await door.answer(first)
    with pytest.raises(openai.InternalServerError):
        await asked
    assert (await door.cancelled(second.job_id))["reason"].startswith("its request failed")


async def test_a_waiting_stream_says_so_and_the_place_in_the_queue(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "KEEP_ALIVE_S", 0.05)
    stream = door.network.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": door.model, "messages": HELLO, "stream": True},
        headers=door.bearer,
    )
    async with stream as answer:
        blocks = answer.aiter_lines()
        [dispatch] = await door.asked()
        while await anext(blocks) != ": waiting":
            pass
        await door.tell(dispatch, position=3)
        while await anext(blocks) != ": queued 3":
            pass
        assert answer.headers["x-aos-job-id"] == dispatch.job_id
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        await door.answer(dispatch)
        rest = [line async for line in blocks]
    assert rest[-2:] == ["data: [DONE]", ""]


async def test_a_quota_counts_every_choice_and_takes_all_or_none(door: Door) -> None:
    door.operator.answer = ANSWER
    await set_quota(door.network.dispatcher.database, "shop", {"daily": 2})
    with pytest.raises(openai.RateLimitError) as error:
        await chat(door, n=3)
    assert error.value.response.json()["limit"] == "daily"


async def test_an_idempotency_key_replays_the_first_answer(door: Door) -> None:
    door.operator.answer = ANSWER
    key = {"Idempotency-Key": "order 17"}
    first = await chat(door, extra_headers=key, n=2)
    again = await chat(door, extra_headers=key, n=2)
    assert again.aos == first.aos
    assert len(door.operator.dispatched) == 2
    with pytest.raises(openai.ConflictError):
        await chat(door, extra_headers=key, n=2, seed=1)


async def test_a_conversation_goes_on_and_belongs_to_its_project(door: Door) -> None:
    door.operator.answer = ANSWER
    talk = {"extra_body": {"id": "talk"}}
    await chat(door, **talk)
    await chat(door, messages=[{"role": "user", "content": "And then?"}], **talk)
    said = [[turn.content for turn in each.job.messages or []] for each in door.operator.dispatched]
    assert said == [["Hello!"], ["Hello!", ANSWER, "And then?"]]
    other = await create_project(door.network.dispatcher.database, "other", private=False)
    await door.openai.with_options(api_key=other).chat.completions.create(
        model=door.model, messages=HELLO, **talk
    )
    assert len(door.operator.dispatched[-1].job.messages or []) == 1


async def test_an_answer_that_failed_or_was_left_adds_nothing_to_its_conversation(door: Door) -> None:
    talk = {"extra_body": {"id": "talk"}}
    door.operator.answer, door.operator.reason = "", "the model is broken"
    with pytest.raises(openai.InternalServerError):
        await chat(door, **talk)
    door.operator.answer, door.operator.reason = None, ""
    await door.cancelled((await leave(door, **talk)).job_id)
    door.operator.answer = ANSWER
    stream = await chat(door, stream=True, **talk)
    await chunks_of(stream)
    assert [len(each.job.messages or []) for each in door.operator.dispatched] == [1, 1, 1]
    await chat(door, **talk)
    assert len(door.operator.dispatched[-1].job.messages or []) == 3


async def test_openapi_describes_it(door: Door) -> None:
    document = (await door.network.client.get("/openapi.json")).json()
    paths = document["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}"} <= set(paths)
    posted = paths["/v1/chat/completions"]["post"]
    assert set(posted["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert posted["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("ChatRequest")
    schemas = document["components"]["schemas"]
    assert {"ChatRequest", "CompletionRequest", "Turn", "StreamOptions", "GatewayFailure"} <= set(schemas)
