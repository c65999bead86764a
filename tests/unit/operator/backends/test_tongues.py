"""Whatever lines a server sends, an adapter gives an answer that can be signed, or refuses with a reason."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.backends.chunks import Gathered
from aos_operator.backends.dialects import DIALECTS
from aos_operator.backends.llamacpp import LlamaCpp
from aos_operator.backends.ollama import Ollama
from aos_operator.backends.openai import OpenAi
from aos_operator.backends.tongue import Asked, Tongue
from aos_operator.backends.upstream import BrokenOff, Upstream
from aos_operator.errors import WorkerRefused
from aos_protocol.job import ChatMessage, Params

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip


def mostly(*right: Any) -> st.SearchStrategy[Any]:
    """Mostly one of these values, and sometimes anything."""
    return st.sampled_from(right) | st.sampled_from(right) | VALUES


LOGPROBS = mostly(
    None,
    {"content": [{"token": "a", "logprob": -1, "top_logprobs": []}]},
    {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]},
    [{"token": "a", "logprob": -1.5}],
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "text": mostly("a", ""),
        "delta": mostly({"content": "a"}, {"role": "assistant"}, {}),
        "logprobs": LOGPROBS,
        "token_ids": mostly([5], []),
        "finish_reason": mostly(None, "stop", "length"),
        "stop_reason": mostly(None, "x", 5),
    },
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(CHOICE, max_size=2) | VALUES,
        "usage": mostly(None, {"prompt_tokens": 3, "completion_tokens": 1}),
        "system_fingerprint": mostly("fp", None),
        "response": mostly("a", ""),
        "message": mostly({"role": "assistant", "content": "a"}),
        "done": mostly(True, False),
        "done_reason": mostly("stop", "length"),
        "eval_count": mostly(1, 2),
        "content": mostly("a", ""),
        "tokens": mostly([5], []),
        "tokens_predicted": mostly(1, 2),
        "stop": mostly(True, False),
        "stop_type": mostly("eos", "word", "limit"),
        "completion_probabilities": LOGPROBS,
        "logprobs": LOGPROBS,
    },
)
LINES = st.lists(
    MEMBERS.map(json.dumps)
    | MEMBERS.map(lambda said: f"data: {json.dumps(said)}")
    | st.sampled_from(["", "", "data: [DONE]", ": still there"])
    | st.text(max_size=9),
    max_size=9,
)
TONGUES: dict[str, Any] = {"openai": OpenAi, "ollama": Ollama, "llamacpp": LlamaCpp}


class Told(Upstream):
    """A server that sends these lines."""

    def __init__(self, lines: list[str]) -> None:
        self.base, self._key, self._told = (
            "http://nowhere",
            None,
            lines,
        )  # no client: each would read all authorities

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        json.dumps(body)  # it can be sent
        for line in self._told:
            yield line

    async def post(self, path: str, body: Mapping[str, Any], timeout: float | None = None) -> Any:  # noqa: ASYNC109 (its shape)
        return {"prompt": "a prompt"}

    async def get(self, path: str) -> Any:
        return json.loads(self._told[0])


async def gather(tongue: Tongue, asked: Asked) -> Gathered:
    gathered = Gathered()
    async for chunk in tongue.run(asked):
        gathered.add(chunk)
    return gathered


@pytest.mark.parametrize("name", TONGUES)
@given(lines=LINES, chat=st.booleans())
def test_an_answer_can_be_signed_or_is_refused(name: str, lines: list[str], chat: bool) -> None:
    prompt: dict[str, Any] = (
        {"messages": [ChatMessage(role="user", content="x")]} if chat else {"prompt": "x"}
    )
    tongue = TONGUES[name](Told(lines), DIALECTS[name])
    try:
        gathered = asyncio.run(gather(tongue, Asked("m", Params(), 1, **prompt)))
    except (WorkerRefused, BrokenOff):
        return
    "".join(gathered.texts).encode()
    assert "\0" not in "".join(gathered.texts)
    assert gathered.ended in {None, "eos", "stop", "length"}
    assert all(0 <= token < 2**24 for token in gathered.tokens or [])
    assert gathered.counted is None or gathered.counted >= 0
    if gathered.level == "token_ids":
        assert gathered.tokens is not None
        assert gathered.counted in {len(gathered.tokens), len(gathered.tokens) + 1}


NAMES = mostly([{"id": "a", "name": "a"}], [{"id": "a"}, {"name": "a"}], [])
LISTS = st.fixed_dictionaries({}, optional={"data": NAMES, "models": NAMES, "version": VALUES}) | VALUES


@pytest.mark.parametrize("name", TONGUES)
@given(listed=LISTS)
def test_a_list_of_models_is_one_of_texts_or_is_refused(name: str, listed: Any) -> None:
    tongue = TONGUES[name](Told([json.dumps(listed)]), DIALECTS[name])
    try:
        names = asyncio.run(tongue.names())
    except WorkerRefused:
        return
    assert all(isinstance(each, str) for each in names)
