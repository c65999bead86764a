"""Chunks and whole answers: the framing of events, and what each of them says."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from aos_dispatcher.errors import TooMany
from aos_dispatcher.gateway.chunks import (
    DONE,
    Ending,
    Rendering,
    comment,
    ending,
    event,
    failure,
    text_logprobs,
    usage,
)
from aos_dispatcher.gateway.errors import JobFailed
from aos_protocol.messages import JobResult, ModelOffer, TokenLogprob

JOB, OTHER, SHA = "ab" * 32, "cd" * 32, "ef" * 32
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def events_of(stream: bytes) -> list[Any]:
    """What a client by the standard reads (WHATWG HTML, 9.2.6), which must be the same to one that splits lines where Python does."""
    blocks = [block for block in stream.split(b"\n\n") if block]
    lines = [line for block in blocks for line in block.decode().splitlines()]
    assert lines == [line for block in blocks for line in block.decode().split("\n")]
    data = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def end(text: str = "abc", job: str = JOB, **more: Any) -> Ending:
    common = {"finish_reason": "stop", "stop_reason": 2, "prompt_tokens": 3, "completion_tokens": 4}
    return Ending(**({"text": text, "logprobs": (), "aos": {"job_id": job}} | common | more))


def rendering(chat: bool = True, jobs: list[str] | None = None, **more: Any) -> Rendering:
    return Rendering(chat=chat, model="m", created=7, jobs=jobs or [JOB], **more)


def result(**more: Any) -> JobResult:
    return JobResult.model_construct(
        result="text", job_id=JOB, operator="0x1", model=ModelOffer(name="m", sha256=SHA), **more
    )


@given(pieces=st.lists(texts), chat=st.booleans())
def test_whatever_the_pieces_are_a_client_puts_the_text_together_again(pieces: list[str], chat: bool) -> None:
    told = rendering(chat)
    stream = b"".join(
        [
            *told.opening(),
            comment("waiting"),
            *(told.piece(0, piece, ()) for piece in pieces),
            told.closing(0, end(), [end()]),
            *told.trailer([end()]),
        ]
    )
    *chunks, done = events_of(stream)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    said = [choice["delta"]["content"] if chat else choice["text"] for choice in choices]
    assert "".join(said) == "".join(pieces)
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(chunks) - 1) + ["stop"]


@given(values=st.lists(st.dictionaries(texts, texts | st.none() | st.integers())), cut=st.integers(1, 7))
def test_openai_s_decoder_reads_every_event_however_the_network_cuts_it(values: list[Any], cut: int) -> None:
    stream = b"".join(event(value) + comment("x") for value in values)

    def cuts() -> Iterator[bytes]:
        for start in range(0, len(stream), cut):
            yield stream[start : start + cut]

    read = [json.loads(each.data) for each in SSEDecoder().iter_bytes(cuts()) if each.data]
    assert read == values


def test_a_stream_is_what_the_document_of_dbc_shows() -> None:
    told = rendering()
    stream = b"".join(
        [*told.opening(), told.piece(0, "Hello", ()), told.closing(0, end(), [end()]), *told.trailer([end()])]
    )
    first, second, last, done = events_of(stream)
    common = {
        "id": f"chatcmpl-{JOB}",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
    }
    plain = {"index": 0, "logprobs": None, "finish_reason": None}
    role = {"role": "assistant", "content": ""}
    assert first == common | {"choices": [plain | {"delta": role}]}
    assert second == common | {"choices": [plain | {"delta": {"content": "Hello"}}]}
    ended = plain | {"delta": {"content": ""}, "finish_reason": "stop", "stop_reason": 2}
    used = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert last == common | {"choices": [ended], "usage": used, "aos": {"job_id": JOB}}
    assert done == "[DONE]"
    assert stream.endswith(DONE)


def test_the_chunk_of_usage_is_openai_s() -> None:
    told = rendering(include_usage=True)
    stream = b"".join([told.closing(0, end(), [end()]), *told.trailer([end()])])
    closing, used, _done = events_of(stream)
    assert closing["usage"] is None
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 7


def test_a_whole_answer_has_both_forms() -> None:
    tokens = [TokenLogprob(token="a", logprob=-1.0, top=[("a", -1.0)])]
    whole = rendering(jobs=[JOB, OTHER]).whole([end("abc", logprobs=tokens), end("d", OTHER)])
    assert (whole["code"], whole["message"], whole["object"]) == (0, "success", "chat.completion")
    first, second = whole["choices"]
    assert first["message"] == {"role": "assistant", "content": "abc", "refusal": None}
    token = {"token": "a", "logprob": -1.0, "bytes": [97]}
    assert first["logprobs"] == {"content": [token | {"top_logprobs": [token]}], "refusal": None}
    assert (second["index"], second["logprobs"], second["stop_reason"]) == (1, None, 2)
    assert whole["aos"] == {"jobs": [{"job_id": JOB}, {"job_id": OTHER}]}
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": 8, "total_tokens": 14}
    text = rendering(chat=False).whole([end()])
    assert (text["object"], text["id"], text["choices"][0]["text"]) == (
        "text_completion",
        f"cmpl-{JOB}",
        "abc",
    )


@given(tokens=st.lists(st.text(min_size=1, max_size=4), min_size=1), cut=st.integers(1, 4))
def test_offsets_go_on_through_a_stream(tokens: list[str], cut: int) -> None:
    told = rendering(chat=False, logprobs=True)
    lists = [
        [TokenLogprob.model_construct(token=token, logprob=-1.0, top=[]) for token in tokens[at : at + cut]]
        for at in range(0, len(tokens), cut)
    ]
    chunks = [told.piece(0, "".join(each.token for each in part), part) for part in lists]
    shown = [chunk["choices"][0]["logprobs"] for chunk in events_of(b"".join(chunks))]
    whole = text_logprobs([token for part in lists for token in part], 0)
    assert whole is not None
    assert [start for each in shown for start in each["text_offset"]] == whole["text_offset"]
    assert whole["text_offset"] == [len("".join(tokens[:at])) for at in range(len(tokens))]


@pytest.mark.parametrize(
    ("run", "stop", "finish", "reason"),
    [
        ({"finish_reason": "eos", "output_tokens": [5, 2], "prompt_tokens": [1]}, [], "stop", 2),
        ({"finish_reason": "stop", "output_tokens": [5], "prompt_tokens": [1]}, ["END"], "stop", "END"),
        ({"finish_reason": "stop", "output_tokens": [5], "prompt_tokens": [1]}, ["a", "b"], "stop", None),
        ({"finish_reason": "length", "output_tokens": [5], "prompt_tokens": [1]}, ["a"], "length", None),
    ],
)
def test_how_an_answer_ended(run: dict[str, Any], stop: list[str], finish: str, reason: Any) -> None:
    told = ending(result(transcript=run, record=None, logprobs=None), stop)
    assert (told.finish_reason, told.stop_reason) == (finish, reason)
    assert (told.prompt_tokens, told.completion_tokens) == (1, len(run["output_tokens"]))
    assert told.aos["level"] == "fingerprints"


def test_an_answer_with_a_record_says_what_its_backend_told() -> None:
    record = {"level": "text", "finish_reason": "length", "prompt_tokens": 9, "completion_tokens": 4}
    told = ending(result(transcript=None, record=record, logprobs=None), [])
    assert (told.prompt_tokens, told.completion_tokens, told.aos["level"]) == (9, 4, "text")
    silent = ending(result(transcript=None, record={"level": "text"}, logprobs=None), [])
    assert (silent.prompt_tokens, silent.finish_reason, silent.stop_reason) == (None, "stop", None)
    assert usage([told, silent]) is None
    assert usage([told]) == {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def test_a_failure_is_what_openai_s_client_raises() -> None:
    [said] = events_of(failure(JobFailed("the operator is gone", job_id=JOB, status=502)))
    assert said == {
        "error": {
            "message": "the operator is gone",
            "type": "server_error",
            "param": None,
            "code": "job_failed",
        },
        "code": 502,
        "message": "the operator is gone",
        "job_id": JOB,
    }
    [refused] = events_of(failure(TooMany("too fast", "token", 3)))
    assert refused["error"]["type"] == "rate_limit_error"
    assert refused["limit"] == "token"
