"""The sampling rule against its definition written out slowly, and the answers that pin version 1."""

import hashlib
import math
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aos_protocol import sampling
from aos_protocol.errors import InvalidSampling

SEED = sampling.sampling_seed(b"a job's seed")
WORD = 2**64

logit = st.one_of(
    st.floats(-40, 40, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, -math.inf, 3.4e38, -3.4e38, 1e-40]),
)
logit_vectors = st.lists(logit, min_size=1, max_size=60).filter(lambda row: max(row) > -math.inf)
temperatures = st.one_of(st.just(0.0), st.floats(0, 5), st.sampled_from([1.0, 0.7, 5e-324, 1e-30, 1e300]))
top_ps = st.one_of(
    st.just(1.0), st.floats(0, 1, exclude_min=True), st.sampled_from([0.5, 0.3, 0.25, 1e-300, 1 - 2**-53])
)
seeds = st.binary(min_size=32, max_size=32)
positions = st.integers(0, WORD - 1)


def splitmix(key: int, index: int) -> float:
    """Output `index` of SplitMix64 from state `key`, in plain integers, as a uniform."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    z ^= z >> 31
    return ((z >> 12) + 0.5) / 2**52


def slow_nucleus(weights: list[int], top_p: float) -> list[int]:
    """Rule 3 as the module's docstring states it: sort and accumulate."""
    limit, before, members = top_p * sum(weights), 0, []
    for token in sorted(range(len(weights)), key=lambda token: (-weights[token], token)):
        if top_p == 1 or before < limit:
            members.append(token)
        before += weights[token]
    return sorted(members)


def slow_sample(
    logits: NDArray[np.float32], seed: bytes, position: int, temperature: float, top_p: float
) -> int:
    """The rule as the module's docstring states it, with noise for everybody."""
    row = logits.astype(np.float64)
    if temperature == 0:
        return min(range(row.size), key=lambda token: (-row[token], token))
    with np.errstate(over="ignore"):
        scaled = (row - row.max()) / temperature
    weights = [int(weight) for weight in np.floor(np.exp(scaled) * 2**40)]
    key = int.from_bytes(
        hashlib.blake2b(position.to_bytes(8, "little"), digest_size=8, key=seed).digest(), "little"
    )
    noise = np.log(-np.log(np.array([splitmix(key, token) for token in range(row.size)])))
    scores = scaled - noise
    return min(slow_nucleus(weights, top_p), key=lambda token: (-scores[token], token))


weight = st.integers(0, 2**40) | st.sampled_from([0, 1, 2, 2**40])


@given(st.lists(weight, max_size=60).map(lambda some: [2**40, *some]), top_ps, st.randoms())
@example([2**40] * 8, 0.5, random.Random(0))
@example([2**40, 0, 0], 1 - 2**-53, random.Random(0))
def test_the_nucleus_is_the_written_one(weights: list[int], top_p: float, shuffle: random.Random) -> None:
    shuffle.shuffle(weights)
    found = sampling.nucleus(np.array(weights, dtype=np.int64), top_p)
    assert found.tolist() == slow_nucleus(weights, top_p)


def test_the_nucleus_of_the_greatest_vocabulary_does_not_overflow() -> None:
    weights = np.full(2**22, 2**40, dtype=np.int64)
    assert sampling.nucleus(weights, 0.75).tolist() == list(range(3 * 2**20))


@given(logit_vectors, seeds, positions, temperatures, top_ps)
@example([0.0] * 10, SEED, 0, 1.0, 0.3)
@example([-math.inf, 0.0, -math.inf], SEED, 3, 1.0, 1 - 2**-53)
def test_equals_the_definition(
    row: list[float], seed: bytes, position: int, temperature: float, top_p: float
) -> None:
    logits = np.array(row, dtype=np.float32)
    drawn = sampling.sample(logits, seed, position, temperature, top_p)
    assert drawn == slow_sample(logits, seed, position, temperature, top_p)
    assert logits[drawn] > -math.inf


@pytest.mark.parametrize("top_p", [1.0, 0.97, 0.5, 0.01])
def test_equals_the_definition_on_a_whole_vocabulary(top_p: float) -> None:
    rng = np.random.default_rng(7)
    for position, spread in enumerate((0.0, 0.1, 1.0, 3.0, 8.0)):
        logits = rng.normal(0, spread, 5000).astype(np.float32)
        drawn = sampling.sample(logits, SEED, position, 1.0, top_p)
        assert drawn == slow_sample(logits, SEED, position, 1.0, top_p)


@given(seeds, positions, st.lists(st.integers(0, 2**22), min_size=1, max_size=8))
def test_uniforms_are_splitmix_outputs_at_the_tokens_ids(seed: bytes, position: int, ids: list[int]) -> None:
    key = sampling.position_key(seed, position)
    drawn = sampling.uniforms(key, np.array(ids))
    assert drawn.tolist() == [splitmix(key, token) for token in ids]
    assert ((drawn > 0) & (drawn < 1)).all()


def test_known_answers_pin_version_1() -> None:
    """Another implementation must give these; a change of any is a new rule version."""
    assert sampling.RULE_VERSION == 1
    assert hashlib.sha256(b"aos/sampling/1" + b"a job's seed").digest() == SEED
    # First SplitMix64 outputs from state 0, as published with the generator.
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [((word >> 12) + 0.5) / 2**52 for word in known]
    assert sampling.uniforms(0, np.arange(3)).tolist() == expected
    logits = np.linspace(-4, 4, 50, dtype=np.float32)
    tokens = [sampling.sample(logits, SEED, position, 1.0, 0.9) for position in range(12)]
    assert tokens == [43, 48, 49, 44, 45, 45, 45, 41, 42, 49, 46, 49]


def test_uniforms_stay_below_1_at_the_top_of_the_range() -> None:
    top = float((2**52 - 1 + 0.5) * 2.0**-52)
    assert top < 1
    assert math.isfinite(-math.log(-math.log(top)))


@given(logit_vectors, seeds, st.lists(st.integers(0, 20), min_size=2, max_size=6))
def test_a_position_needs_no_earlier_state(row: list[float], seed: bytes, order: list[int]) -> None:
    logits = np.array(row, dtype=np.float32)
    alone = {position: sampling.sample(logits, seed, position, 1.0, 0.9) for position in sorted(set(order))}
    assert [sampling.sample(logits, seed, position, 1.0, 0.9) for position in order] == [
        alone[p] for p in order
    ]


def test_ties_go_to_the_lowest_id_at_temperature_0() -> None:
    assert sampling.sample(np.array([1, 5, 5, 2], dtype=np.float32), SEED, 0, 0.0, 0.1) == 1


def test_equal_tokens_enter_the_nucleus_by_id() -> None:
    logits = np.zeros(8, dtype=np.float32)
    drawn = {sampling.sample(logits, SEED, position, 1.0, 0.5) for position in range(400)}
    assert drawn == {0, 1, 2, 3}


def test_a_small_nucleus_is_greedy() -> None:
    logits = np.array([0.1, 2.5, 2.4, -3], dtype=np.float32)
    assert {sampling.sample(logits, SEED, position, 1.0, 0.01) for position in range(50)} == {1}


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    draws = 4000
    counts = np.bincount([sampling.sample(logits, SEED, i, 1.0, 1.0) for i in range(draws)], minlength=4)
    expected = np.array([0.5, 0.3, 0.15, 0.05]) * draws
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_temperature_flattens() -> None:
    logits = np.array([2, 0], dtype=np.float32)
    hot, cold = (
        sum(sampling.sample(logits, SEED, i, temperature, 1.0) for i in range(500))
        for temperature in (5.0, 0.5)
    )
    assert cold < 30 < 150 < hot


@pytest.mark.parametrize(
    "row", [[0.0, math.nan], [math.nan] * 3, [-math.inf] * 3, [math.inf, 0.0], [-math.inf, math.nan], []]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_refused(row: list[float], temperature: float) -> None:
    with pytest.raises(InvalidSampling):
        sampling.sample(np.array(row, dtype=np.float32), SEED, 0, temperature, 0.9)


@pytest.mark.parametrize(
    ("temperature", "top_p", "said"),
    [
        (-0.1, 1.0, "temperature"),
        (math.nan, 1.0, "temperature"),
        (math.inf, 1.0, "temperature"),
        (1.0, 0.0, "top_p"),
        (1.0, 1.1, "top_p"),
        (1.0, math.nan, "top_p"),
    ],
)
def test_parameters_out_of_range_are_refused(temperature: float, top_p: float, said: str) -> None:
    with pytest.raises(InvalidSampling, match=said):
        sampling.sample(np.zeros(3, dtype=np.float32), SEED, 0, temperature, top_p)


@pytest.mark.parametrize(("seed", "position"), [(b"short", 0), (SEED, -1), (SEED, WORD)])
def test_bad_seeds_and_positions_are_refused(seed: bytes, position: int) -> None:
    with pytest.raises(InvalidSampling):
        sampling.position_key(seed, position)


def test_logits_of_two_axes_are_refused() -> None:
    with pytest.raises(InvalidSampling, match="one axis"):
        sampling.sample(np.zeros((2, 3), dtype=np.float32), SEED, 0, 1.0, 1.0)
