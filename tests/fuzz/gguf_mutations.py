"""A GGUF file taken apart, and ways to put it together wrongly."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

Entry: TypeAlias = tuple[str, int, bytes]
"""Metadata: key, type, and the value's bytes."""
Tensor: TypeAlias = tuple[str, tuple[int, ...], int, int]
"""A tensor: name, shape, type, offset in the data."""

_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_HUGE = (
    0,
    1,
    2,
    3,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


@dataclass(frozen=True)
class Parts:
    """What a GGUF file consists of; the counts are those that the header states, if not the true ones."""

    metadata: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    data: bytes
    alignment: int = 32
    magic: bytes = b"GGUF"
    version: int = 3
    counts: tuple[int, int] | None = None

    def text(self) -> bytes:
        """The file's bytes."""
        counts = self.counts or (len(self.tensors), len(self.metadata))
        out = [self.magic, struct.pack("<IQQ", self.version & 0xFFFFFFFF, *counts)]
        for key, kind, value in self.metadata:
            out += [string(key), struct.pack("<I", kind & 0xFFFFFFFF), value]
        for name, shape, kind, offset in self.tensors:
            numbers = [*shape, kind & 0xFFFFFFFF, offset]
            out += [string(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *numbers)]
        head = b"".join(out)
        return head + bytes(-len(head) % self.alignment) + self.data


def string(text: str | bytes) -> bytes:
    """A string as GGUF has it."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def take_apart(content: bytes) -> Parts:
    """Take a good file apart."""
    tensors_count, entries_count = struct.unpack_from("<QQ", content, 8)
    at, metadata, tensors = 24, [], []
    for _ in range(entries_count):
        key, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        end = _value_end(content, at + 4, kind)
        metadata.append((key, kind, content[at + 4 : end]))
        at = end
    for _ in range(tensors_count):
        name, at = _string(content, at)
        (dimensions,) = struct.unpack_from("<I", content, at)
        *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", content, at + 4)
        tensors.append((name, tuple(shape), kind, offset))
        at += 4 + 8 * dimensions + 12
    return Parts(tuple(metadata), tuple(tensors), content[at + -at % 32 :])


def _string(content: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", content, at)
    return content[at + 8 : at + 8 + size].decode(), at + 8 + size


def _value_end(content: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", content, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, count = struct.unpack_from("<IQ", content, at)
    at += 12
    for _ in range(count):
        at = _value_end(content, at, inner)
    return at


Mutation: TypeAlias = Callable[[random.Random, Parts], Parts | bytes]


def _truncated(rng: random.Random, parts: Parts) -> bytes:
    content = parts.text()
    return content[: rng.choice((rng.randrange(len(content)), rng.randrange(4000), len(content) - 1))]


def _random(rng: random.Random, _parts: Parts) -> bytes:
    return rng.choice((b"", b"GGUF", b"GGUF\x03\0\0\0")) + rng.randbytes(rng.choice((0, 1, 24, 5000)))


def _flipped(rng: random.Random, parts: Parts) -> bytes:
    head = len(parts.text()) - len(parts.data)
    content = bytearray(parts.text())
    for _ in range(rng.choice((1, 1, 4, 30))):
        content[rng.randrange(head)] ^= 1 << rng.randrange(8)
    return bytes(content)


def _counts(rng: random.Random, parts: Parts) -> Parts:
    true = (len(parts.tensors), len(parts.metadata))
    chosen = rng.choice((*_HUGE, true[0] + 1, true[1] - 1))
    return replace(parts, counts=rng.choice(((chosen, true[1]), (true[0], chosen), (chosen, chosen))))


def _lost_entry(rng: random.Random, parts: Parts) -> Parts:
    kept = list(parts.metadata)
    for _ in range(rng.choice((1, 1, 3))):
        del kept[rng.randrange(len(kept))]
    return replace(parts, metadata=tuple(kept))


def _another_value(rng: random.Random, parts: Parts) -> Parts:
    """A number that is too small, too large or negative; another text; an array of another length."""
    at = rng.randrange(len(parts.metadata))
    key, kind, value = parts.metadata[at]
    if kind == _STRING:
        value = string(rng.choice((b"", b"\xff\xfe", b"x" * 70_000, b"llama", b"gpt2", b"{{ 1/0 }}", b"\0")))
    elif kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", value)
        value = struct.pack("<IQ", inner, rng.choice((0, 1, count - 1, count + 1, *_HUGE))) + value[12:]
        if rng.random() < 0.5:
            value = struct.pack("<IQ", inner, 0)
    else:
        whole = rng.choice(_HUGE) % (1 << 8 * len(value))
        value = rng.choice((whole.to_bytes(len(value), "little"), b"\0" * len(value), b"\xff" * len(value)))
    return _with_entry(parts, at, (key, kind, value))


def _another_kind(rng: random.Random, parts: Parts) -> Parts:
    at = rng.randrange(len(parts.metadata))
    key, _, value = parts.metadata[at]
    kind = rng.choice((*_SIZES, _STRING, _ARRAY, 13, 99, 2**31, 2**32 - 1))
    if rng.random() < 0.7 and kind in _SIZES:
        value = rng.choice((bytes(_SIZES[kind]), b"\x01" + bytes(_SIZES[kind] - 1)))
    elif rng.random() < 0.7 and kind == _STRING:
        value = string("no number")
    return _with_entry(parts, at, (key, kind, value))


def _long_string(rng: random.Random, parts: Parts) -> Parts:
    at = rng.randrange(len(parts.metadata))
    key, _, _ = parts.metadata[at]
    return _with_entry(parts, at, (key, _STRING, struct.pack("<Q", rng.choice(_HUGE)) + b"abc"))


def _nested(rng: random.Random, parts: Parts) -> Parts:
    deep = struct.pack("<IQ", _ARRAY, 1) * rng.choice((1, 2, 1000, 100_000)) + struct.pack("<IQ", 0, 0)
    return replace(parts, metadata=(*parts.metadata, ("deep", _ARRAY, deep)))


def _twice(rng: random.Random, parts: Parts) -> Parts:
    if rng.random() < 0.5:
        return replace(parts, metadata=(*parts.metadata, rng.choice(parts.metadata)))
    return replace(parts, tensors=(*parts.tensors, rng.choice(parts.tensors)))


def _lost_tensor(rng: random.Random, parts: Parts) -> Parts:
    kept = list(parts.tensors)
    del kept[rng.randrange(len(kept))]
    return replace(parts, tensors=tuple(kept))


def _another_tensor(rng: random.Random, parts: Parts) -> Parts:
    """A shape that does not fit, overlapping or outlying data, another type, a long name."""
    at = rng.randrange(len(parts.tensors))
    name, shape, kind, offset = parts.tensors[at]
    match rng.randrange(6):
        case 0:
            shape = tuple(rng.choice((side, *_HUGE)) for side in shape)
        case 1:
            shape = rng.choice(((), shape[:1], shape[::-1], (*shape, 1), (*shape, 2), shape * 3))
        case 2:
            offset = rng.choice((0, 1, offset + 32, offset - 32, len(parts.data), *_HUGE)) % 2**64
        case 3:
            kind = rng.choice((0, 1, 2, 3, 4, 5, 8, 12, 20, 24, 30, 36, 39, 40, 99, 2**31, 2**32 - 1))
        case 4:
            name = rng.choice(("", "x" * 63, "x" * 64, "x" * 5000, parts.tensors[at - 1][0]))
        case _:
            kind, shape = rng.choice((0, 1, 8)), tuple(2 * side for side in shape)
    changed = list(parts.tensors)
    changed[at] = (name, shape, kind, offset)
    return replace(parts, tensors=tuple(changed))


def _framing(rng: random.Random, parts: Parts) -> Parts:
    return rng.choice(
        (
            replace(parts, magic=rng.choice((b"GGUE", b"FUGG", b"\0\0\0\0", b"GGML", b"PK\x03\x04"))),
            replace(parts, version=rng.choice((0, 1, 2, 4, 0x03000000, 2**32 - 1))),
            replace(parts, metadata=(*parts.metadata, _alignment(rng))),
            replace(parts, tensors=()),
            replace(parts, data=b""),
            replace(parts, data=rng.randbytes(len(parts.data))),
        )
    )


def _alignment(rng: random.Random) -> Entry:
    if rng.random() < 0.5:
        return (
            "general.alignment",
            4,
            struct.pack("<I", rng.choice((0, 1, 3, 8, 33, 64, 2**16, 2**31, 2**32 - 1))),
        )
    other = (
        (_STRING, string("32")),
        (_STRING, string("none")),
        (6, struct.pack("<f", float("nan"))),
        (12, struct.pack("<d", float("inf"))),
        (5, struct.pack("<i", -32)),
        (7, b"\x01"),
    )
    return ("general.alignment", *rng.choice(other))


def _with_entry(parts: Parts, at: int, entry: Entry) -> Parts:
    changed = list(parts.metadata)
    changed[at] = entry
    return replace(parts, metadata=tuple(changed))


MUTATIONS: dict[Mutation, int] = {
    _truncated: 1,
    _random: 1,
    _flipped: 3,
    _counts: 1,
    _lost_entry: 2,
    _another_value: 6,
    _another_kind: 2,
    _long_string: 1,
    _nested: 1,
    _twice: 1,
    _lost_tensor: 1,
    _another_tensor: 5,
    _framing: 2,
}
"""What is done to a file, and how often."""


def mutant(parts: Parts, seed: str) -> tuple[str, bytes]:
    """Return the name and the bytes of a spoilt file, always the same for a seed."""
    rng = random.Random(seed)
    (mutation,) = rng.choices([*MUTATIONS], [*MUTATIONS.values()])
    made = mutation(rng, parts)
    return mutation.__name__.lstrip("_"), made.text() if isinstance(made, Parts) else made
