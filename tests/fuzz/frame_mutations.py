"""Ways to spoil a frame: its text, what it says before it is signed, and the WebSocket bytes that carry it."""

import copy
import random
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

Said: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[Any, Any]

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**300, -0.0, 1.5, 1e308),
    *(
        "",
        " ",
        "\0",
        "0",
        "-1",
        "1e5",
        "é",
        "\u202e",
        "\U0010ffff",
        "9" * 19,
        "9" * 400,
        "0x" + "0" * 40,
        "x" * 5000,
    ),
    *("0" * 64, "f" * 64, "0" * 130, "f" * 130, "03" + "f" * 64, "AAAA", "none", "opml", "__proto__"),
    *(
        [],
        {},
        [[]],
        [None],
        [0] * 300,
        {"": {}},
        {"1": "1"},
        {"2": "9" * 19},
        {"2": "-1"},
        {"x": {"y": {"z": []}}},
    ),
)
"""Values that belong nowhere, or only just."""

JUNK: tuple[str | bytes, ...] = (
    *(
        "",
        "null",
        "[]",
        "{}",
        "0",
        '"',
        "\0",
        "{" * 3000,
        "[" * 3000,
        '{"a":' * 2000,
        "9" * 5000,
        "NaN",
        "1e999",
    ),
    *(
        '{"id":1}',
        '{"id":"1","id":"2"}',
        '"\\ud800"',
        "\ufeff{}",
        "{}{}",
        "x" * 70_000,
        b"",
        b"\xff\xfe",
        b"\0" * 1000,
    ),
    '{"id":"1","method":"job_result","params":[],"result":null,"address":"","hash":"","signature":""}',
    '{"id":"1","result":{},"address":"0x0000000000000000000000000000000000000000","hash":"","signature":""}',
)
"""Messages that are no frames."""


def places(value: Any) -> list[Place]:
    """Every place in a JSON value that holds a value: the container and the key or index."""
    found: list[Place] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def bent(rng: random.Random, said: Said) -> Said:
    """A copy with one to three of its values exchanged, left out or added to; sometimes it is as before."""
    changed = copy.deepcopy(said)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = places(changed)
        if not known:
            break
        container, key = rng.choice(known)
        match rng.randrange(6):
            case 0 | 1:
                container[key] = copy.deepcopy(rng.choice(STRANGE))
            case 2:
                other, there = rng.choice(known)
                container[key] = copy.deepcopy(other[there])
            case 3:
                del container[key]
            case 4:
                container[key] = _near(rng, container[key])
            case _:
                changed[rng.choice(("extra", "", "job_id", "1" * 300))] = copy.deepcopy(rng.choice(STRANGE))
    return changed


def _near(rng: random.Random, value: Any) -> Any:
    """Nearly the same: a digit changed, one more or less, the same in another type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return rng.choice((value + 1, -value, str(value), [value]))
        case str() if value:
            at = rng.randrange(len(value))
            return rng.choice(
                (value[:at] + rng.choice("0f \0é") + value[at + 1 :], value[:-1], value * 2, value.upper())
            )
        case list():
            return value * 2
        case _:
            return {"value": value}


def garbled(rng: random.Random, text: str) -> str | bytes:
    """The text of a frame, spoilt as text."""
    at = rng.randrange(len(text))
    match rng.randrange(8):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + chr(rng.choice((0, 9, 34, 92, 123, 233, 0x10FFFF))) + text[at + 1 :]
        case 2:
            return text[:at] + text[at + rng.choice((1, 10, 100)) :]
        case 3:
            return text[:at] + text[rng.randrange(len(text)) :]
        case 4:
            return text.encode()[:at] + rng.randbytes(rng.choice((1, 4, 64))) + text.encode()[at:]
        case 5:
            depth = rng.choice((10, 63, 64, 1000))
            return text[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}"
        case 6:
            return text.replace('"', rng.choice(("'", "", '\\"')), rng.choice((1, 2, -1)))
        case _:
            return text[:-1] + ',"id":"again"}'


def pieces(rng: random.Random, text: str) -> list[str]:
    """The text in up to eight parts, some of them empty, to be sent as fragments of one message."""
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randint(1, 7)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _frame(head: int, payload: bytes, *, masked: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame (RFC 6455, section 5.2) with this first byte, and this length whatever the payload has."""
    size = len(payload) if length is None else length
    mask = 0x80 if masked else 0
    if size < 126:
        start = bytes([head, mask | size])
    elif size < 1 << 16:
        start = bytes([head, mask | 126]) + struct.pack(">H", size)
    else:
        start = bytes([head, mask | 127]) + struct.pack(">Q", size)
    return start + (b"\0" * 4 if masked else b"") + payload


def wire(rng: random.Random, text: str, *, masked: bool = True) -> bytes:
    """WebSocket bytes that break RFC 6455, or stretch it; `masked` as the sender's side must be."""
    data = text.encode()
    return rng.choice(_WIRE)(rng, data, masked)


_WIRE: tuple[Callable[[random.Random, bytes, bool], bytes], ...] = (
    lambda _, data, masked: _frame(0x81, data, masked=not masked),
    lambda rng, data, masked: _frame(0x81 | rng.choice((0x10, 0x20, 0x40)), data, masked=masked),
    lambda rng, data, masked: _frame(0x80 | rng.choice((3, 7, 11, 15)), data, masked=masked),
    lambda _, data, masked: _frame(0x80, data, masked=masked),
    lambda _, data, masked: _frame(0x01, data, masked=masked) + _frame(0x81, data, masked=masked),
    lambda rng, data, masked: _frame(0x89, rng.randbytes(126), masked=masked),
    lambda _, data, masked: _frame(0x09, b"ping", masked=masked),
    lambda _, data, masked: _frame(0x89, b"ping", masked=masked) * 200,
    lambda _, data, masked: _frame(0x88, b"\x03", masked=masked),
    lambda rng, data, masked: _frame(
        0x88, struct.pack(">H", rng.choice((0, 999, 1005, 5000))) + b"\xff", masked=masked
    ),
    lambda _, data, masked: _frame(0x81, data, masked=masked, length=2**63 - 1),
    lambda _, data, masked: _frame(0x81, data, masked=masked, length=2**63 + 5),
    lambda _, data, masked: _frame(0x81, data[: len(data) // 2], masked=masked, length=len(data)),
    lambda _, data, masked: _frame(0x81, b"\xc3\x28" + data, masked=masked),
    lambda _, data, masked: _frame(0x01, b"", masked=masked) + _frame(0x00, b"", masked=masked) * 300,
    lambda rng, _, __: rng.randbytes(rng.choice((1, 2, 10, 1000))),
)
