"""Fingerprints: their written definition, what they tell apart, and their one text form."""

import base64
import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from aos_protocol import fingerprint
from aos_protocol.errors import InvalidTranscript

SEED = bytes(range(32))
PROVER = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
WORD = 2**64

halves = npst.from_dtype(np.dtype(np.float16), allow_nan=False, allow_infinity=False)
prints = npst.arrays(np.float16, st.tuples(st.integers(0, 6), st.just(8)), elements=halves)
rows = npst.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-50, 50, width=32)
)


def slow_signs(seed: bytes, prover: str, vocabulary: int) -> list[list[int]]:
    """The module's docstring in plain integers: +-1 of each token and direction."""
    key = hashlib.blake2b(prover.encode(), digest_size=8, key=seed, person=b"aos/fingerprint1").digest()
    signs = []
    for token in range(vocabulary):
        z = (int.from_bytes(key, "little") + (token + 1) * 0x9E3779B97F4A7C15) % WORD
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        z ^= z >> 31
        signs.append([1 if z >> direction & 1 else -1 for direction in range(8)])
    return signs


def slow_project(logits: list[float], signs: list[list[int]]) -> list[float]:
    """The eight projections of one row, in double precision without rounding between the terms."""
    mean = math.fsum(logits) / len(logits)
    root = math.sqrt(len(logits))
    return [
        math.fsum((logit - mean) * sign[direction] for logit, sign in zip(logits, signs, strict=True)) / root
        for direction in range(8)
    ]


def random_logits(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 3, shape).astype(np.float32)


@given(st.binary(min_size=32, max_size=32), st.text(max_size=64).filter(str.isascii), st.integers(1, 200))
def test_directions_are_the_written_ones(seed: bytes, prover: str, vocabulary: int) -> None:
    along = fingerprint.directions(seed, prover, vocabulary)
    assert along.shape == (vocabulary, 8)
    assert (np.sign(along) == slow_signs(seed, prover, vocabulary)).all()
    assert np.allclose(np.abs(along), 1 / math.sqrt(vocabulary), rtol=1e-6)


def test_known_answers_pin_the_definition() -> None:
    """Another implementation must give these signs: token by token, direction 0 in the lowest bit."""
    along = fingerprint.directions(SEED, PROVER, 12)
    bits = [sum(1 << direction for direction in range(8) if row[direction] > 0) for row in along]
    assert bits == [251, 224, 194, 245, 140, 234, 98, 226, 168, 144, 4, 124]
    logits = np.linspace(-4, 4, 12, dtype=np.float32) ** 3
    (projected,) = fingerprint.project(logits[None], along)
    assert projected.tolist() == [
        -40.40625,
        -45.71875,
        52.96875,
        2.693359375,
        6.05078125,
        -19.484375,
        -32.46875,
        -57.21875,
    ]


@given(rows)
def test_projections_are_the_written_ones(logits: NDArray[np.float32]) -> None:
    signs = slow_signs(SEED, PROVER, logits.shape[1])
    projected = fingerprint.project(logits, fingerprint.directions(SEED, PROVER, logits.shape[1]))
    assert projected.dtype == np.float16
    expected = [slow_project(row, signs) for row in logits.tolist()]
    # Half precision keeps 11 bits; single precision sums lose a few of 24 on numbers up to 50 * sqrt(40).
    np.testing.assert_allclose(projected.astype(np.float64), expected, rtol=2**-10, atol=1e-4)


def test_a_row_s_fingerprint_does_not_depend_on_its_neighbours() -> None:
    logits = random_logits(9, 5000)
    along = fingerprint.directions(SEED, PROVER, 5000)
    together = fingerprint.project(logits, along)
    alone = [fingerprint.project(row[None], along)[0] for row in logits]
    assert fingerprint.pack(together) == fingerprint.pack(np.stack(alone))


def test_adding_a_number_to_all_logits_changes_nothing() -> None:
    """Probabilities do not see it either, so no fingerprint may."""
    logits = random_logits(1, 4096)
    along = fingerprint.directions(SEED, PROVER, 4096)
    moved = fingerprint.project(logits + np.float32(8), along)
    assert fingerprint.distances(fingerprint.project(logits, along), moved).max() < 2e-3


def test_logits_beyond_half_precision_have_an_infinite_fingerprint() -> None:
    along = fingerprint.directions(SEED, PROVER, 4)
    huge = np.array([[3e38, -3e38, 3e38, 0]], dtype=np.float32)
    assert not np.isfinite(fingerprint.project(huge, along)).any()


@pytest.mark.parametrize(
    ("seed", "prover"),
    [
        (SEED, "0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF"),
        (SEED, PROVER.lower()),
        (bytes(32), PROVER),
        (SEED[:-1] + b"\0", PROVER),
    ],
)
def test_another_prover_or_seed_has_other_fingerprints(seed: bytes, prover: str) -> None:
    """A copied fingerprint is as far from one's own as two unrelated ones: about sqrt(2) of the logits' spread."""
    logits = random_logits(20, 2000)
    own = fingerprint.project(logits, fingerprint.directions(SEED, PROVER, 2000))
    copied = fingerprint.project(logits, fingerprint.directions(seed, prover, 2000))
    apart = fingerprint.distances(copied, own)
    assert apart.shape == (20,)
    assert apart.min() > 1
    assert 0.8 < apart.mean() / (3 * math.sqrt(2)) < 1.2


def test_distances_are_root_mean_squares_of_each_row() -> None:
    zeros = np.zeros((3, 8), dtype=np.float16)
    other = zeros.copy()
    other[1] = 2
    other[2, 0] = 4
    assert fingerprint.distances(other, zeros).tolist() == [0, 2, math.sqrt(2)]


def test_distances_of_the_greatest_numbers_do_not_overflow() -> None:
    most = np.full((1, 8), 65504, dtype=np.float16)
    assert fingerprint.distances(most, -most).tolist() == [2 * 65504]


@pytest.mark.parametrize("shape", [(1, 8), (3, 8), (2, 7), (0, 8)])
def test_distances_of_another_number_of_tokens_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InvalidTranscript, match="do not compare"):
        fingerprint.distances(np.zeros(shape, np.float16), np.zeros((2, 8), np.float16))


@given(prints)
def test_packed_they_are_little_endian_halves(values: NDArray[np.float16]) -> None:
    data = fingerprint.pack(values)
    assert data == b"".join(struct.pack("<8e", *row) for row in values.tolist())
    assert fingerprint.unpack(data).tolist() == values.tolist()
    assert fingerprint.from_text(fingerprint.to_text(data), len(values)) == data


@pytest.mark.parametrize("size", [1, 15, 17])
def test_half_a_row_is_refused(size: int) -> None:
    with pytest.raises(InvalidTranscript, match="no whole number"):
        fingerprint.unpack(bytes(size))


@pytest.mark.parametrize("half", [0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF])
@pytest.mark.parametrize("place", [0, 11, 15])
def test_what_is_not_finite_is_refused(half: int, place: int) -> None:
    data = bytes(2 * place) + half.to_bytes(2, "little") + bytes(30 - 2 * place)
    with pytest.raises(InvalidTranscript, match="not finite"):
        fingerprint.unpack(data)
    with pytest.raises(InvalidTranscript, match="not finite"):
        fingerprint.from_text(base64.b64encode(data).decode(), 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A" * 21 + "B==", "unused bits"),
        ("A" * 22, "no base64"),
        ("A" * 22 + "=", "no base64"),
        ("A" * 10 + "\n" + "A" * 12 + "==", "no base64"),
        ("_" * 22 + "==", "no base64"),
        ("é" * 24, "no base64"),
        ("", "16 bytes, not of 0"),
        ("A" * 20, "16 bytes, not of 15"),
        ("A" * 43 + "=", "16 bytes, not of 32"),
    ],
)
def test_texts_have_one_form(text: str, said: str) -> None:
    with pytest.raises(InvalidTranscript, match=said):
        fingerprint.from_text(text, 1)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(InvalidTranscript, match="32 bytes"):
        fingerprint.directions(bytes(size), PROVER, 4)
