"""Canonical JSON (RFC 8785) for everything that is hashed, and the strict reader for everything received."""

from __future__ import annotations

import json
import math
import re
from hashlib import sha256
from itertools import accumulate
from typing import Any, NoReturn, TypeAlias, cast

import rfc8785

from aos_protocol.errors import NotCanonical

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

_PLAIN = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
_MOST_INT = 2**53 - 1


class _Beyond(Exception):
    """A value that only the library of record writes, or refuses, as RFC 8785 says."""


def canonical(value: JsonValue) -> bytes:
    """Serialise a JSON value as RFC 8785 prescribes (UTF-8).

    Raises NotCanonical for what has no such form: integers beyond 2^53 - 1, NaN and infinities,
    lone surrogates, keys that are not strings, nesting too deep, and types that are not JSON.
    """
    try:
        return _PLAIN.encode(_plain(value)).encode()
    except _Beyond:
        return _by_the_library(value)
    except UnicodeEncodeError as error:
        raise NotCanonical("no RFC 8785 form: a text holds a lone surrogate; send valid Unicode") from error
    except RecursionError as error:
        raise NotCanonical("no RFC 8785 form: the value is nested too deeply; flatten it") from error


def _by_the_library(value: JsonValue) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise NotCanonical(f"no RFC 8785 form: {error}; change the value or send it as a string") from error
    except UnicodeEncodeError as error:
        raise NotCanonical("no RFC 8785 form: a key holds a lone surrogate; send valid Unicode") from error
    except RecursionError as error:
        raise NotCanonical("no RFC 8785 form: the value is nested too deeply; flatten it") from error


def _plain(value: JsonValue) -> JsonValue:
    """Return what the standard library's encoder writes as RFC 8785 wants `value`, some three times faster than `rfc8785`.

    It differs in how it writes whole, small and large floats, in its order of keys beyond ASCII, and in what it takes without
    complaint. Raises `_Beyond` where that cannot be mended.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return _in_range(cast("int", value))
    if kind is float:
        return _as_ecmascript(cast("float", value))
    if kind is dict:
        members = cast("JsonObject", value)
        if set(map(type, members)) <= {str} and "".join(members).isascii():
            return dict(zip(members, map(_plain, members.values()), strict=True))
    elif kind is list:
        items = cast("list[Any]", value)
        if set(map(type, items)) == {int}:  # token ids, by the thousand
            _in_range(min(items))
            _in_range(max(items))
            return items
        return [*map(_plain, items)]
    raise _Beyond


def _in_range(number: int) -> int:
    if -_MOST_INT <= number <= _MOST_INT:
        return number
    raise _Beyond


def _as_ecmascript(number: float) -> int | float:
    """A number that Python prints as ECMAScript prints `number`: neither a whole one with a fraction of 0, nor one with an exponent."""
    if number.is_integer() and abs(number) <= _MOST_INT:
        return int(number)
    if 1e-4 <= abs(number) < 2**52:
        return number
    raise _Beyond


def digest(value: JsonValue) -> str:
    """SHA-256 of the canonical form, as 64 hex digits. Raises NotCanonical."""
    return sha256(canonical(value)).hexdigest()


def parse(text: str | bytes, *, max_depth: int = 64) -> JsonValue:
    """Read one strict JSON text (RFC 8259) whose meaning no two readers can disagree about.

    Raises NotCanonical for bad UTF-8, duplicate keys at any level, NaN and infinities (also numbers
    that overflow to one), lone surrogates, anything after the value, and more than `max_depth` levels
    of arrays and objects.
    """
    source = _decode(text)
    _check_depth(source, max_depth)
    try:
        value = _DECODER.decode(source)
    except json.JSONDecodeError as error:
        raise NotCanonical(f"not JSON: {error.msg} at character {error.pos}; send one JSON value") from error
    except ValueError as error:
        raise NotCanonical("a JSON integer has too many digits; send it as a string") from error
    _check_surrogates(value, source)
    return cast("JsonValue", value)


def _decode(text: str | bytes) -> str:
    try:
        if isinstance(text, bytes):
            return text.decode()
        text.encode()
    except UnicodeError as error:
        raise NotCanonical("the text is not UTF-8 (or holds a lone surrogate); send JSON in UTF-8") from error
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotCanonical(f"duplicate key {twice!r:.80}; name every key once")
    return members


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise NotCanonical(f"number {number:.40} is beyond double precision; send a smaller one")
    return value


def _no_constant(name: str) -> NoReturn:
    raise NotCanonical(f"{name} is not JSON; send null or a finite number")


def _check_depth(source: str, max_depth: int) -> None:
    """Refuse too deep nesting before the decoder sees it.

    The decoder recurses on the C stack, and a library that raises the recursion limit far enough (py_ecc
    does, on import) turns `[[[[...` into a segmentation fault.
    """
    if source.count("[") + source.count("{") <= max_depth:
        return
    brackets = _NOT_BRACKET.sub("", _STRING.sub("", source))
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > max_depth:
        raise NotCanonical(f"JSON is nested deeper than {max_depth} levels; flatten it")


def _check_surrogates(value: object, source: str) -> None:
    if "\\u" not in source:
        return  # the text itself is valid Unicode, so only an escape can bring one in
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotCanonical("a JSON string holds a lone surrogate; send valid Unicode") from error


# The closing quote is optional so that an unterminated string, too, is matched once: linear time.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?')
_NOT_BRACKET = re.compile(r"[^\[\]{}]+")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
