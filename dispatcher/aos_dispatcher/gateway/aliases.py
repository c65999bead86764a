"""Other servers' names for what OpenAI's API has, too: editors send them to whatever they take for a llama.cpp or an Ollama. No I/O."""

from typing import Final

from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.tables import JsonObject
from aos_protocol.canonical import JsonValue

MOST_TOKENS: Final = 65_536
"""The longest answer that can be asked for, in tokens."""

_UNBOUNDED: Final = -1
"""What llama.cpp and Ollama call an answer that may be as long as the context allows."""

_NAMES: Final = {"n_predict": "max_tokens"}
"""llama.cpp's."""

_OPTIONS: Final = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
"""Ollama's, in an object `options`."""


def by_openai_s_names(body: JsonObject) -> JsonObject:
    """Return a body with OpenAI's names only. Raises `BadRequest` for an option that has no such name, and where two names of one thing differ."""
    named = {name: value for name, value in body.items() if name not in {*_NAMES, "options"}}
    for name, other in _NAMES.items():
        _put(named, other, name, body.get(name))
    options = body.get("options")
    if options is None:
        return named
    if not isinstance(options, dict):
        raise BadRequest("options must be an object", param="options")
    for name, value in options.items():
        if name not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise BadRequest(
                f"options.{name} is not supported here, but {known}",
                param=f"options.{name}",
                name="unsupported_parameter",
            )
        _put(named, _OPTIONS[name], f"options.{name}", value)
    return named


def _put(body: JsonObject, name: str, alias: str, value: JsonValue) -> None:
    if value is None:
        return
    if name == "max_tokens" and value == _UNBOUNDED:
        value = MOST_TOKENS
    if body.get(name) is not None and body[name] != value:
        raise BadRequest(f"{name} and {alias} mean the same, and differ: send one", param=alias)
    body[name] = value
