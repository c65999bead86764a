"""Ways to spoil a document: its bytes, the lengths that it announces, and its structure where that is CBOR."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import cbor2

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""Makes a mutant of a document; the others of its kind are given for splices."""

_LENGTHS = (0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x30, 0x5F, 0x9F, 0xBF, 0xD2)


def flip_bits(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    spoilt = bytearray(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def set_bytes(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    start, size = rng.randrange(len(document)), rng.choice((1, 2, 4, 32, 256))
    spoilt = document[:start] + bytes([rng.choice(_BYTES)]) * size + document[start + size :]
    return spoilt[: len(document)]


def insert_bytes(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(document))
    return document[:start] + rng.randbytes(rng.choice((1, 1, 2, 8, 100))) + document[start:]


def delete_bytes(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(document))
    return document[:start] + document[start + rng.choice((1, 1, 2, 8, 100)) :]


def truncate(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    return document[: rng.randrange(len(document))]


def repeat(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(document))
    part = document[start : start + rng.choice((1, 8, 64, 1000))]
    return document[: start + len(part)] + part * rng.randint(1, 3) + document[start + len(part) :]


def splice(rng: random.Random, document: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    here = rng.randrange(len(document))
    there = rng.choice((here, rng.randrange(len(other))))
    return document[:here] + other[there:]


def lie_about_length(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    """Write another length where one may stand: behind a CBOR head, or as a little-endian number as quotes have them."""
    start, length = rng.randrange(len(document)), rng.choice(_LENGTHS)
    size = rng.choice([each for each in (1, 2, 4, 8) if length < 1 << 8 * each])
    if rng.random() < 0.5:
        head = bytes([rng.choice((0x40, 0x60, 0x80, 0xA0)) | (23 + size.bit_length())])
        return document[:start] + head + length.to_bytes(size, "big") + document[start + 1 + size :]
    return document[:start] + length.to_bytes(size, "little") + document[start + size :]


def _payload(document: bytes) -> dict[str, Any]:
    payload: dict[str, Any] = cbor2.loads(cbor2.loads(document)[2])
    return payload


def _with_payload(document: bytes, encoded: bytes) -> bytes:
    protected, unprotected, _, signature = cbor2.loads(document)
    return cbor2.dumps([protected, unprotected, encoded, signature])


def change_field(rng: random.Random, document: bytes, others: Sequence[bytes]) -> bytes:
    """Take one field of the payload from another document, leave it out, or put a thing of another type in its place."""
    payload = _payload(document)
    name = rng.choice([*payload, "extra"])
    strange = [None, True, -1, 2**64 - 1, 1.5, "", b"", [], {}, [[[[]]]], {1: {2: {3: 4}}}, b"\0" * 2000]
    match rng.randrange(3):
        case 0:
            payload[name] = _payload(rng.choice(others)).get(name)
        case 1:
            payload.pop(name, None)
        case _:
            payload[name] = rng.choice(
                [*strange, cbor2.CBORTag(rng.choice((0, 2, 4, 5, 18, 24, 28, 35, 258)), "1")]
            )
    return _with_payload(document, cbor2.dumps(payload))


def change_registers(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    payload = _payload(document)
    registers = payload["pcrs"]
    index = rng.choice((0, 1, 2, 3, 8, 31, 32, -1, 2**32, "0"))
    registers[index] = rng.randbytes(rng.choice((0, 32, 47, 48, 48, 48, 64)))
    if rng.random() < 0.3:
        registers = dict(reversed(registers.items()))
    return _with_payload(document, cbor2.dumps(payload | {"pcrs": registers}))


def change_chain(rng: random.Random, document: bytes, others: Sequence[bytes]) -> bytes:
    """Reorder, drop, repeat, exchange or damage certificates, in CBOR that stays well-formed."""
    payload = _payload(document)
    chain = [*payload["cabundle"], payload["certificate"]]
    foreign = _payload(rng.choice(others))
    place = rng.randrange(len(chain))
    match rng.randrange(5):
        case 0:
            rng.shuffle(chain)
        case 1:
            del chain[place]
        case 2:
            chain.insert(place, chain[rng.randrange(len(chain))])
        case 3:
            chain[place] = rng.choice([*foreign["cabundle"], foreign["certificate"]])
        case _:
            spoil = rng.choice((flip_bits, flip_bits, set_bytes, delete_bytes, lie_about_length))
            chain[place] = spoil(rng, chain[place], [])
    payload |= {"cabundle": chain[:-1], "certificate": chain[-1]}
    return _with_payload(document, cbor2.dumps(payload))


def reencode(rng: random.Random, document: bytes, _others: Sequence[bytes]) -> bytes:
    """Say the same in other CBOR: other lengths, indefinite ones, a key twice, other headers."""
    protected, unprotected, payload, signature = cbor2.loads(document)
    match rng.randrange(6):
        case 0:
            return cbor2.dumps([protected, unprotected, payload, signature], indefinite_containers=True)
        case 1:
            return _with_payload(
                document, cbor2.dumps(cbor2.loads(payload), indefinite_containers=True) + b"\0"
            )
        case 2:
            return _with_payload(
                document, bytes([payload[0] ^ 1]) + payload[1:] + cbor2.dumps("nonce") + b"\xf6"
            )
        case 3:
            return cbor2.dumps([protected, {rng.choice((1, 4, "x")): -35}, payload, signature])
        case 4:
            return cbor2.dumps([cbor2.dumps({1: rng.randint(-40, 10)}), {}, payload, signature[::-1]])
        case _:
            return b"\x84\x58" + bytes([len(protected)]) + document[2:]


BYTES: dict[Mutation, int] = {
    flip_bits: 6,
    set_bytes: 3,
    insert_bytes: 1,
    delete_bytes: 1,
    truncate: 1,
    repeat: 1,
    splice: 2,
    lie_about_length: 2,
}
"""Mutations of any document, and how often each comes among them: what leaves the form alone gets furthest."""

STRUCTURE: tuple[Mutation, ...] = (change_field, change_registers, change_chain, reencode)
"""Mutations of Nitro documents, to be made first, while there is a structure."""


def mutate(
    rng: random.Random, document: bytes, others: Sequence[bytes], *, structured: bool
) -> tuple[bytes, list[str]]:
    """Make a mutant by one to three mutations; return it, never empty, and their names."""
    chosen = [rng.choice(STRUCTURE)] if structured and rng.random() < 0.6 else []
    further = rng.choice((0, 0, 0, 1)) if chosen else rng.choice((1, 1, 1, 2, 3))
    chosen += rng.choices([*BYTES], [*BYTES.values()], k=further)
    for mutation in chosen:
        document = mutation(rng, document, others) or b"\0"
    return document, [mutation.__name__ for mutation in chosen]
