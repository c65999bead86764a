"""What the gateway takes, what it refuses by name, and which jobs come of it."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.requests import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    Wanted,
    parse,
    wanted_chat,
    wanted_completion,
)
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec

HELLO = [{"role": "user", "content": "Hello!"}]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
short = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


def chat(**more: Any) -> Wanted:
    return wanted_chat(parse(ChatRequest, {"model": "m", "messages": HELLO} | more))


def completion(**more: Any) -> Wanted:
    return wanted_completion(parse(CompletionRequest, {"model": "m", "prompt": "p"} | more))


def refused(ask: Any, **body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        ask(**body)
    assert str(error.value)
    return error.value


def test_a_chat_without_anything_else_has_openai_s_defaults() -> None:
    wanted = chat()
    [job] = wanted.jobs
    assert job == {
        "model": "m",
        "messages": HELLO,
        "params": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 1024},
    }
    assert (wanted.needs, wanted.stream, wanted.user) == ({"chat": "messages"}, False, None)
    assert completion().jobs[0]["params"]["max_tokens"] == 16


def test_null_means_absent() -> None:
    names = set(ChatRequest.model_fields) - {"model", "messages"}
    assert chat(**dict.fromkeys(names)) == chat()
    assert refused(chat, messages=None).param == "messages"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0),
        ("frequency_penalty", 0.0),
        ("logit_bias", {}),
        ("tools", []),
        ("tool_choice", "none"),
        ("parallel_tool_calls", False),
        ("response_format", {"type": "text"}),
        ("store", False),
        ("metadata", {}),
        ("modalities", ["text"]),
        ("service_tier", "auto"),
        ("prompt_cache_key", "anything"),
        ("top_k", -1),
    ],
)
def test_fields_that_ask_for_nothing_change_nothing(name: str, value: Any) -> None:
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("frequency_penalty", False),
        ("logit_bias", {"5": 3}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("modalities", ["text", "audio"]),
        ("audio", {}),
        ("echo", True),
        ("top_k", 40),
        ("min_p", 0.05),
        ("web_search_options", {}),
        ("prediction", {"type": "content", "content": "x"}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: Any) -> None:
    error = refused(chat, **{name: value})
    assert (error.status, error.param, error.name) == (400, name, "unsupported_parameter")
    assert str(error).startswith(f"{name} is not supported here")


@given(name=short.filter(lambda name: name.isidentifier()))
def test_what_nobody_knows_is_refused_by_name(name: str) -> None:
    unknown = f"x_{name}"
    error = refused(completion, **{unknown: 1})
    assert (error.param, error.name) == (unknown, "unknown_parameter")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x", 1]}, "stop[1]"),
        ({"stop": ""}, "stop[0]"),
        ({"seed": 2**53}, "seed"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"model": ""}, "model"),
        ({"user": "\0"}, "user"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]},
            "messages[0].content",
        ),
        ({"messages": ["Hello!"]}, "messages[0]"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"id": ""}, "id"),
        ({"id": ".."}, "id"),
        ({"id": "monday\n"}, "id"),
        ({"id": "mon\x7fday"}, "id"),
    ],
)
def test_a_wrong_value_is_refused_by_where_it_is(body: dict[str, Any], param: str) -> None:
    assert refused(chat, **body).param == param


@pytest.mark.parametrize(
    ("body", "param", "name"),
    [
        ({"messages": [HELLO[0] | {"tool_calls": [{}]}]}, "messages[0].tool_calls", "unsupported_parameter"),
        ({"messages": [*HELLO, HELLO[0] | {"name": "ann"}]}, "messages[1].name", "unsupported_parameter"),
        ({"messages": [HELLO[0] | {"mood": "glad"}]}, "messages[0].mood", "unknown_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_parameter"),
        ({"messages": [{"role": "function", "name": "f"}]}, "messages[0].role", "unsupported_parameter"),
        ({"messages": [HELLO[0] | {"content": [{"type": "image_url"}]}]}, "messages[0].content", "unsupported_parameter"),
        ({"messages": [HELLO[0] | {"content": ["x"]}]}, "messages[0].content", "unsupported_parameter"),
        ({"stream": True, "stream_options": {"mood": "glad"}}, "stream_options.mood", "unknown_parameter"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "unsupported_parameter"),
    ],
)  # fmt: skip
def test_what_is_not_supported_inside_of_a_field_is_refused_by_name(
    body: dict[str, Any], param: str, name: str
) -> None:
    error = refused(chat, **body)
    assert (error.status, error.param, error.name) == (400, param, name)


def test_inside_of_a_field_null_means_absent_too() -> None:
    options = {"include_usage": None, "include_obfuscation": False}
    assert chat(stream=True, stream_options=options) == chat(stream=True)
    part = {"type": "text", "text": "Hello!", "cache_control": None}
    assert chat(messages=[{"role": "user", "content": [part]}]) == chat()


@pytest.mark.parametrize(
    ("ask", "body", "param"),
    [
        (chat, {"stream_options": {"include_usage": True}}, "stream_options"),
        (chat, {"top_logprobs": 3}, "top_logprobs"),
        (chat, {"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        (chat, {"id": "c", "n": 2}, "n"),
        (completion, {"best_of": 3}, "best_of"),
        (completion, {"prompt": ["a", "b", "c"], "n": 3}, "n"),
    ],
)
def test_of_fields_that_do_not_go_together_one_is_named(ask: Any, body: Any, param: str) -> None:
    assert refused(ask, **body).param == param


def test_a_conversation_may_have_any_other_name() -> None:
    for name in ("monday", "a/b", "...", "Grüße ☃ ?#%", "x" * 128):
        assert chat(id=name).conversation == name


def test_an_empty_prompt_goes_with_a_suffix_only() -> None:
    for body in ({"prompt": ""}, {"prompt": ["a", ""]}, {"prompt": "", "suffix": ""}):
        assert refused(completion, **body).param == "prompt"
    assert completion(prompt="", suffix="b").jobs[0]["prompt"] == ""


def test_what_does_not_go_together_is_refused() -> None:
    assert "stream: true" in str(refused(chat, stream_options={"include_usage": True}))
    assert "top_logprobs" in str(refused(chat, top_logprobs=3))
    assert "max_tokens and max_completion_tokens" in str(refused(chat, max_tokens=3, max_completion_tokens=4))
    assert "id or n" in str(refused(chat, id="c", n=2))
    assert "best_of" in str(refused(completion, best_of=3, n=2))
    assert "9 answers" not in str(refused(completion, prompt=["a", "b", "c"], n=3))
    assert chat(max_tokens=3, max_completion_tokens=3).jobs[0]["params"]["max_tokens"] == 3
    assert completion(best_of=2, n=2) == completion(n=2)


def test_token_ids_are_refused_as_prompts() -> None:
    for prompt in ([1, 2], [[1, 2]], ["a", 1]):
        error = refused(completion, prompt=prompt)
        assert (error.param, "token ids are not taken" in str(error)) == ("prompt", True)
    assert refused(completion, prompt=[]).param == "prompt"


def test_parts_of_text_are_joined_and_developers_are_systems() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    wanted = chat(
        messages=[{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    )
    assert wanted.jobs[0]["messages"] == [{"role": "system", "content": "Be short."}, *HELLO]


@pytest.mark.parametrize(
    "also",
    [
        {"refusal": None, "annotations": [], "tool_calls": None},
        {"provider_specific_fields": {"refusal": None}},
        {"provider_specific_fields": {}},
    ],
    ids=["OpenAI", "LiteLLM", "LiteLLM, of a stream"],
)
def test_what_an_answer_said_can_be_sent_back_as_it_came(also: dict[str, Any]) -> None:
    said = {"role": "assistant", "content": "Hi"} | also
    assert chat(messages=[*HELLO, said, *HELLO]).jobs[0]["messages"][1] == {
        "role": "assistant",
        "content": "Hi",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True, "max_tokens": 512, "temperature": 0.2, "tools": None},
        {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 4096, "top_p": 0.9,
         "frequency_penalty": 0, "presence_penalty": 0, "stop": ["</s>"], "parallel_tool_calls": False},
        {"stream": False, "max_completion_tokens": 1000},
        {"n": 1, "stream": False, "temperature": 0.7, "user": "ann", "logit_bias": {}},
        {"safety_identifier": "ann", "store": False, "service_tier": "auto", "prompt_cache_key": "x"},
    ],
    ids=["Twinny", "Continue", "Open WebUI", "LangChain", "OpenAI"],
)  # fmt: skip
def test_what_clients_of_chats_send_is_taken(body: Any) -> None:
    assert chat(**body).stream is bool(body.get("stream"))


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True, "temperature": 0.2, "max_tokens": 512},
        {"stream": True, "temperature": 0.2, "n_predict": 512},
        {"stream": True, "keep_alive": -1, "options": {"temperature": 0.2, "num_predict": 512}},
        {"stream": True, "max_tokens": 512, "stop": ["\n\n", "<EOT>"], "temperature": 0.2, "suffix": "}"},
    ],
    ids=["Twinny for LM Studio", "Twinny for llama.cpp", "Twinny for Ollama", "Continue"],
)
def test_what_clients_of_completions_send_is_taken(body: Any) -> None:
    params = completion(**body).jobs[0]["params"]
    assert (params["temperature"], params["max_tokens"]) == (0.2, 512)


def test_other_servers_names_are_understood() -> None:
    assert completion(n_predict=7) == completion(max_tokens=7)
    options = {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "seed": 3, "top_p": None}
    told = completion(temperature=0.5, max_tokens=7, stop=["x"], seed=3)
    assert completion(options=options, keep_alive="5m") == told
    assert completion(options=options, max_tokens=7) == told
    assert completion(options=None, n_predict=None) == completion()
    for unbounded in ({"n_predict": -1}, {"options": {"num_predict": -1}}):
        assert completion(**unbounded) == completion(max_tokens=65_536)
    assert refused(completion, max_tokens=-1).param == "max_tokens"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"options": {"num_ctx": 5}}, "options.num_ctx"),
        ({"options": []}, "options"),
        ({"options": {"num_predict": 5}, "max_tokens": 6}, "options.num_predict"),
        ({"n_predict": 5, "max_tokens": 6}, "n_predict"),
        ({"n_predict": -3}, "max_tokens"),
    ],
)
def test_other_servers_names_are_refused_where_they_say_something_else(body: Any, param: str) -> None:
    assert refused(completion, **body).param == param


def test_abilities_follow_from_fields() -> None:
    assert chat(logprobs=True).needs == {"chat": "messages", "logprobs": "logprobs"}
    assert chat(logprobs=False).needs == {"chat": "messages"}
    assert completion(suffix="").needs == {"fim": "suffix"}
    assert completion(logprobs=0).needs == {"logprobs": "logprobs"}
    assert completion().needs == {}


@given(
    temperature=st.floats(0, 2) | st.integers(0, 2),
    top_p=st.floats(0.001, 1),
    most=st.integers(1, 65_536),
    stop=st.none() | short | st.lists(short, max_size=16),
    seed=st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
    n=st.integers(1, MAX_CHOICES),
    stream=st.booleans(),
    turns=st.lists(
        st.tuples(st.sampled_from(["system", "developer", "user", "assistant"]), texts),
        min_size=1,
        max_size=4,
    ),
    logprobs=st.none() | st.integers(0, 20),
)
def test_every_chat_that_is_taken_is_a_job_that_says_the_same(
    temperature: float,
    top_p: float,
    most: int,
    stop: Any,
    seed: int | None,
    n: int,
    stream: bool,
    turns: list[tuple[str, str]],
    logprobs: int | None,
) -> None:
    shown = {} if logprobs is None else {"logprobs": True, "top_logprobs": logprobs}
    wanted = chat(
        temperature=temperature,
        top_p=top_p,
        max_tokens=most,
        stop=stop,
        seed=seed,
        n=n,
        stream=stream,
        messages=[{"role": role, "content": text} for role, text in turns],
        **shown,
    )
    assert len(wanted.jobs) == n
    for each in wanted.jobs:
        job = parse_message(JobSpec, {"tag": "opml"} | each)
        assert job.params.temperature == temperature
        assert (job.params.top_p, job.params.max_tokens) == (top_p, most)
        assert job.params.stop == ([stop] if isinstance(stop, str) else stop or [])
        assert (job.seed, job.logprobs, bool(job.stream)) == (seed, logprobs, stream)
        assert [turn.content for turn in job.messages or []] == [text for _, text in turns]


@given(prompts=st.lists(texts, min_size=1, max_size=4), n=st.integers(1, 2), suffix=st.none() | texts)
def test_every_completion_that_is_taken_is_a_job_for_each_choice(
    prompts: list[str], n: int, suffix: str | None
) -> None:
    assume(suffix or all(prompts))
    wanted = completion(prompt=prompts, n=n, suffix=suffix)
    jobs = [parse_message(JobSpec, {"tag": "opml"} | each) for each in wanted.jobs]
    assert [job.prompt for job in jobs] == [prompt for prompt in prompts for _ in range(n)]
    assert {job.suffix for job in jobs} == {suffix}
