"""Fields that OpenAI's clients know and that have no effect here: taken while they ask for nothing, else refused by name. No I/O."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.tables import JsonObject
from aos_protocol.canonical import JsonValue

NO_TOOLS: Final = "no model here is given tools"
_PENALTY = "the sampling rule, which verifiers repeat, has no such penalty"
_SAMPLER = "the sampling rule, which verifiers repeat, has temperature, top_p and nothing else"
_STORED = "nothing is stored but the job itself and its evidence; send id to continue a conversation"
_TEXT = "answers are text"

Neutral: TypeAlias = Mapping[str, tuple[tuple[JsonValue, ...], str]]

NEUTRAL: Final[Neutral] = {
    "audio": ((), _TEXT),
    "echo": ((False,), "an answer does not repeat its prompt"),
    "frequency_penalty": ((0,), _PENALTY),
    "function_call": (("none", "auto"), NO_TOOLS),
    "functions": (([],), NO_TOOLS),
    "logit_bias": (({},), "the sampling rule, which verifiers repeat, has no bias"),
    "metadata": (({},), _STORED),
    "min_p": ((0,), _SAMPLER),
    "modalities": ((["text"],), _TEXT),
    "moderation": ((), "nobody moderates answers"),
    "parallel_tool_calls": ((True, False), NO_TOOLS),
    "prediction": ((), "no draft of an answer is taken"),
    "presence_penalty": ((0,), _PENALTY),
    "reasoning_effort": (("none",), "models are run as they are"),
    "repetition_penalty": ((1,), _PENALTY),
    "repeat_penalty": ((1,), _PENALTY),
    "response_format": (({"type": "text"},), "the sampling rule, which verifiers repeat, has no grammar"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), _STORED),
    "tool_choice": (("none", "auto"), NO_TOOLS),
    "tools": (([],), NO_TOOLS),
    "top_k": ((0, -1), _SAMPLER),
    "verbosity": (("medium",), "models are run as they are"),
    "web_search_options": ((), "nothing is searched"),
}
"""For each of those fields, the values with which it asks for nothing, and why others are refused."""

HINTS: Final = frozenset({"keep_alive", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"})
"""Fields that say how to be quick at OpenAI or Ollama, and never change what is answered."""

TURN_NEUTRAL: Final[Neutral] = {
    "annotations": (([],), _TEXT),
    "audio": ((), _TEXT),
    "function_call": ((), NO_TOOLS),
    "name": ((), "templates of models have no names of participants"),
    "provider_specific_fields": (({}, {"refusal": None}), "put what the assistant said into content"),
    "refusal": ((), "put what the assistant said into content"),
    "tool_call_id": ((), NO_TOOLS),
    "tool_calls": (([],), NO_TOOLS),
}
"""The same of the fields of one message. LiteLLM sends back what an answer said with `provider_specific_fields`."""

OPTIONS_NEUTRAL: Final[Neutral] = {"include_obfuscation": ((False,), "nothing is padded")}
"""The same of the fields of `stream_options`."""

TOOL_ROLES: Final = ("tool", "function")
"""Roles of messages that only tools have."""


def without_neutral(
    body: JsonObject,
    known: frozenset[str],
    neutral: Neutral,
) -> JsonObject:
    """Return the fields in `known` that are there; null means absent. Raises `BadRequest` for any other that asks for something."""
    kept: JsonObject = {}
    for name, value in body.items():
        if value is None or name in HINTS:
            continue
        if name in known:
            kept[name] = value
        elif name not in neutral:
            raise BadRequest(f"{name} is no field that is known here", param=name, name="unknown_parameter")
        elif not _is_one_of(value, neutral[name][0]):
            raise _unsupported(name, *neutral[name])
    return kept


def _is_one_of(value: JsonValue, values: tuple[JsonValue, ...]) -> bool:
    """Whether a value is one of these; True is not 1, and 1.0 is."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


def _unsupported(name: str, values: tuple[JsonValue, ...], why: str) -> BadRequest:
    allowed = f" but {' or '.join(map(repr, values))}" if values else ""
    return BadRequest(
        f"{name} is not supported here{allowed}: {why}", param=name, name="unsupported_parameter"
    )
