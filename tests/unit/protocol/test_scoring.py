"""Scoring against a slow reference that follows the module's docstring, and what the numbers are worth."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aos_protocol import fingerprint, sampling
from aos_protocol.errors import InvalidSampling, InvalidTranscript
from aos_protocol.scoring import EPSILON, ETA, FORBIDDEN, Accumulator, TokenScore, score_token

SEED = sampling.sampling_seed(b"a job's seed")
JOB_SEED = hashlib.sha256(b"a job's seed").digest()
PROVER = "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf"
SUBJECT, MODEL = "5b" * 32, "3d" * 32

logit = st.floats(-30, 30, width=32) | st.sampled_from(
    [0.0, 0.05, 0.0999, 0.1, 0.11, 0.2, 1.0, -1.0, 3e38, -3e38]
)
# A few levels, so that many tokens tie or lie just within the tolerance of each other.
level_rows = st.lists(st.integers(0, 12).map(lambda n: n * 0.04), min_size=1, max_size=40)
logit_rows = st.lists(logit, min_size=1, max_size=40) | level_rows
temperatures = st.sampled_from([0.0, 1e-300, 1e-3, 0.3, 0.7, 1.0, 2.5, 5.0]) | st.floats(0, 5)
top_ps = st.sampled_from([1.0, 0.995, 0.99, 0.9, 0.5, 0.2, 0.02, 0.005, 1e-300]) | st.floats(
    0, 1, exclude_min=True
)
seeds = st.binary(min_size=32, max_size=32)
positions = st.integers(0, 2**20)


def slow_score(
    row: list[float], token: int, seed: bytes | None, position: int, temperature: float, top_p: float
) -> TokenScore:
    """The docstring of `aos_protocol.scoring` over Python lists: exact integer weights, sums without rounding."""
    everybody = range(len(row))
    best = min(everybody, key=lambda t: (-row[t], t))
    if temperature == 0:
        surprisal, entropy, variance = slow_likelihood(row, token, 1.0, list(everybody))
        return TokenScore(best, min(row[best] - row[token], FORBIDDEN), surprisal, entropy, variance)
    weights = slow_weights(row, temperature)
    total, before, members = sum(weights), 0, []
    for t in sorted(everybody, key=lambda t: (-weights[t], t)):
        if top_p == 1 or before < top_p * total:
            members.append(t)
        before += weights[t]
    winner, margin = best, None
    if seed is not None:
        noise = slow_noise(seed, position, len(row))
        scores = [scaled + noise[t] for t, scaled in enumerate(slow_scaled(row, temperature))]
        winner = min(members, key=lambda t: (-scores[t], t))
        ahead = sorted((t for t in everybody if scores[t] > scores[token]), key=lambda t: (-scores[t], t))
        rival = next((t for t in ahead if surely_in(row, weights, t, top_p)), None)
        margin = 0.0
        if rival is not None and winner != token:
            behind = row[rival] - row[token] + temperature * (noise[rival] - noise[token])
            margin = min(max(behind, 0.0), FORBIDDEN)
    surprisal, entropy, variance = slow_likelihood(row, token, temperature, members)
    if winner != token and not maybe_in(row, weights, token, top_p):
        return TokenScore(winner, None if seed is None else FORBIDDEN, FORBIDDEN, entropy, variance)
    return TokenScore(winner, margin, surprisal, entropy, variance)


def slow_scaled(row: list[float], temperature: float) -> list[float]:
    with np.errstate(over="ignore"):
        return [float(one) for one in (np.array(row) - max(row)) / temperature]


def slow_weights(row: list[float], temperature: float) -> list[int]:
    return [int(weight * 2**40) for weight in np.exp(slow_scaled(row, temperature)).tolist()]


def slow_noise(seed: bytes, position: int, size: int) -> list[float]:
    uniforms = sampling.uniforms(sampling.position_key(seed, position), np.arange(size))
    return [float(one) for one in -np.log(-np.log(uniforms))]


def maybe_in(row: list[float], weights: list[int], token: int, top_p: float) -> bool:
    before = sum(weights[t] for t in range(len(row)) if row[t] > row[token] + EPSILON)
    return before < (top_p + min(ETA, top_p / 2)) * sum(weights)


def surely_in(row: list[float], weights: list[int], token: int, top_p: float) -> bool:
    before = sum(weights[t] for t in range(len(row)) if row[t] > row[token] - EPSILON and t != token)
    return top_p == 1 or before < (top_p - min(ETA, top_p / 2)) * sum(weights)


def slow_likelihood(
    row: list[float], token: int, temperature: float, members: list[int]
) -> tuple[float, float, float]:
    tied = EPSILON / temperature
    scaled = [0.0 if one >= -tied else one for one in slow_scaled(row, temperature)]
    weights = slow_weights(row, temperature)
    heavy = [t for t in members if weights[t]]
    total = sum(weights[t] for t in heavy)
    mean = math.fsum(weights[t] / total * scaled[t] for t in heavy)
    variance = math.fsum(weights[t] / total * (scaled[t] - mean) ** 2 for t in heavy)
    log_total = math.log(total / 2**40)
    return min(max(log_total - scaled[token], 0.0), FORBIDDEN), log_total - mean, variance


def single(row: list[float]) -> NDArray[np.float32]:
    return np.array(row, dtype=np.float32)


def assert_same(found: TokenScore, expected: TokenScore) -> None:
    assert found.winner == expected.winner
    assert found.margin == (
        None if expected.margin is None else pytest.approx(expected.margin, rel=1e-9, abs=1e-9)
    )
    assert found.surprisal == pytest.approx(expected.surprisal, rel=1e-9, abs=1e-9)
    assert found.entropy == pytest.approx(expected.entropy, rel=1e-9, abs=1e-9)
    assert found.variance == pytest.approx(expected.variance, rel=1e-9, abs=1e-9)


@given(logit_rows, st.integers(0, 39), st.none() | seeds, positions, temperatures, top_ps)
@example([0.0, 0.1, 0.2], 0, SEED, 0, 1e-300, 0.5)
@example([0.0] * 40, 39, SEED, 1, 1.0, 0.5)
@example([0.0, -200.0], 1, SEED, 0, 1.0, 1.0)
def test_equals_the_definition(
    row: list[float], token: int, seed: bytes | None, position: int, temperature: float, top_p: float
) -> None:
    logits = single(row)
    claimed = token % len(row)
    found = score_token(logits, claimed, seed, position, temperature, top_p)
    assert_same(found, slow_score(logits.tolist(), claimed, seed, position, temperature, top_p))


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.05])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_equals_the_definition_on_a_whole_vocabulary(spread: float, top_p: float) -> None:
    logits = np.random.default_rng(3).normal(0, spread, 2000).astype(np.float32)
    likely = np.argsort(-logits)
    for position, rank in enumerate((0, 1, 20, 300, 1999)):
        token = int(likely[rank])
        found = score_token(logits, token, SEED, position, 0.8, top_p)
        assert_same(found, slow_score(logits.tolist(), token, SEED, position, 0.8, top_p))


@given(logit_rows, seeds, positions, temperatures, top_ps)
def test_a_true_draw_has_no_margin(
    row: list[float], seed: bytes, position: int, temperature: float, top_p: float
) -> None:
    logits = single(row)
    drawn = sampling.sample(logits, seed, position, temperature, top_p)
    score = score_token(logits, drawn, seed, position, temperature, top_p)
    assert (score.winner, score.margin) == (drawn, 0.0)
    assert score.surprisal < FORBIDDEN


@given(logit_rows, st.integers(0, 39), st.none() | seeds, temperatures, top_ps)
def test_no_number_is_negative_endless_or_beyond_the_bound(
    row: list[float], token: int, seed: bytes | None, temperature: float, top_p: float
) -> None:
    score = score_token(single(row), token % len(row), seed, 0, temperature, top_p)
    assert (score.margin is None) == (seed is None and temperature > 0)
    assert 0 <= (score.margin or 0.0) <= FORBIDDEN
    assert 0 <= score.surprisal <= FORBIDDEN
    assert 0 <= score.entropy <= math.log(len(row)) + 1e-9
    assert 0 <= score.variance < math.inf


@given(
    logit_rows.filter(lambda row: max(map(abs, row)) < 100),
    seeds,
    st.integers(0, 2**32),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.floats(0.02, 1),
)
def test_noise_in_the_logits_costs_an_honest_draw_no_more_than_the_noise(
    row: list[float], seed: bytes, noise: int, temperature: float, top_p: float
) -> None:
    """What the tolerances are for: whoever draws from logits that differ by up to d has a margin of at most 2 d."""
    logits, apart = single(row), 0.001
    moved = logits + np.random.default_rng(noise).uniform(-apart, apart, logits.size).astype(np.float32)
    drawn = sampling.sample(moved, seed, 7, temperature, top_p)
    margin = score_token(logits, drawn, seed, 7, temperature, top_p).margin
    assert margin is not None
    assert margin <= 2 * apart + 1e-5


def test_surprisals_of_true_draws_have_the_stated_mean_and_variance() -> None:
    rng = np.random.default_rng(11)
    scores = []
    for position in range(3000):
        logits = rng.normal(0, 2, 60).astype(np.float32)
        drawn = sampling.sample(logits, SEED, position, 0.9, 0.9)
        scores.append(score_token(logits, drawn, None, position, 0.9, 0.9))
    excess = [score.surprisal - score.entropy for score in scores]
    variance = math.fsum(score.variance for score in scores)
    assert abs(math.fsum(excess)) < 4 * math.sqrt(variance)
    assert 0.9 < math.fsum(one * one for one in excess) / variance < 1.1


def mean_margin(claims: list[tuple[NDArray[np.float32], int]], seed: bytes, temperature: float) -> float:
    scores = [
        score_token(row, token, seed, place, temperature, 0.95) for place, (row, token) in enumerate(claims)
    ]
    return math.fsum(min(score.margin or 0.0, 1.0) for score in scores) / len(scores)


def test_another_seed_or_temperature_shows_in_margins() -> None:
    rng = np.random.default_rng(2)
    rows = [rng.normal(0, 2, 500).astype(np.float32) for _ in range(200)]
    true = [(row, sampling.sample(row, SEED, place, 1.0, 0.95)) for place, row in enumerate(rows)]
    assert mean_margin(true, SEED, 1.0) == 0
    assert mean_margin(true, sampling.sampling_seed(b"another"), 1.0) > 0.5
    colder = [(row, sampling.sample(row, SEED, place, 0.8, 0.95)) for place, row in enumerate(rows)]
    assert mean_margin(colder, SEED, 1.0) > 0.01


def test_at_temperature_0_the_margin_is_the_distance_to_the_greatest_logit() -> None:
    row = single([1.0, 3.0, 2.5, -200.0])
    scores = [score_token(row, token, None, 0, 0.0, 0.5) for token in range(4)]
    assert [score.winner for score in scores] == [1] * 4
    assert [score.margin for score in scores] == [2.0, 0.0, 0.5, FORBIDDEN]
    # How hard a token is to guess: its probability at temperature 1.
    chances = np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum()
    assert [score.surprisal for score in scores[:3]] == pytest.approx(-np.log(chances[:3]))
    assert scores[3].surprisal == FORBIDDEN


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 0.001, 0.01])
def test_which_of_two_close_tokens_was_drawn_at_a_low_temperature_surprises_nobody(
    temperature: float,
) -> None:
    """The prover's logits lie a little apart from these, and a division by the temperature would blow that up."""
    row = single([2.0, 2.05, 1.0])
    for token in (0, 1):
        score = score_token(row, token, None, 0, temperature, 1.0)
        assert 0 <= score.surprisal <= math.log(2)
        assert abs(score.surprisal - score.entropy) < 1e-9
    assert score_token(row, 2, None, 0, temperature, 1.0).surprisal > 90


def test_a_token_outside_of_the_widened_nucleus_is_forbidden() -> None:
    row = single(list(np.log([0.5, 0.3, 0.15, 0.05])))
    for seed, margin in ((SEED, FORBIDDEN), (None, None)):
        score = score_token(row, 3, seed, 0, 1.0, 0.9)
        assert (score.margin, score.surprisal) == (margin, FORBIDDEN)
    # 0.94 and ETA reach the 0.95 that lie before it.
    assert score_token(row, 3, None, 0, 1.0, 0.945).surprisal < FORBIDDEN


def test_a_narrow_nucleus_is_not_widened_beyond_half_of_itself() -> None:
    """The first token has 1.8% of the mass: with a top_p of 1% it is the nucleus, and ETA would let in everybody."""
    row = single([1.0, *[0.0] * 150])
    assert score_token(row, 0, SEED, 0, 1.0, 0.01).margin == 0
    assert {score_token(row, token, SEED, 0, 1.0, 0.01).margin for token in range(1, 151)} == {FORBIDDEN}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0.0, math.nan], "greatest logit is nan"),
        ([0.0, math.inf], "greatest logit is inf"),
        ([0.0, -math.inf], "minus infinity"),
        ([], "one axis"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_refused(row: list[float], said: str, temperature: float) -> None:
    with pytest.raises(InvalidSampling, match=said):
        score_token(single(row), 0, SEED, 0, temperature, 1.0)


@pytest.mark.parametrize("token", [-1, 3, 2**24])
def test_a_token_outside_of_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(InvalidSampling, match="not in the vocabulary of 3"):
        score_token(single([0.0, 1.0, 2.0]), token, SEED, 0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("temperature", "top_p", "seed"), [(-1.0, 1.0, SEED), (1.0, 0.0, SEED), (1.0, 1.0, b"short")]
)
def test_parameters_out_of_range_are_refused(temperature: float, top_p: float, seed: bytes) -> None:
    with pytest.raises(InvalidSampling):
        score_token(single([0.0, 1.0]), 0, seed, 0, temperature, top_p)


VOCABULARY, LENGTH = 300, 9
LOGITS = np.random.default_rng(8).normal(0, 2, (LENGTH, VOCABULARY)).astype(np.float32)
ALONG = fingerprint.directions(JOB_SEED, PROVER, VOCABULARY)
DRAWN = [sampling.sample(row, SEED, place, 0.7, 0.9) for place, row in enumerate(LOGITS)]
CLAIMED = fingerprint.project(LOGITS + np.float32(0.01) * LOGITS[:, ::-1], ALONG)
WHOLE: dict[str, Any] = {"seed": SEED, "along": ALONG, "claimed": CLAIMED}


def summed(parts: list[int], tokens: list[int], temperature: float = 0.7, **given: Any) -> Any:
    """The score after logits came in parts of these sizes."""
    scored = Accumulator(tokens, temperature, 0.9, **given)
    first = 0
    for size in parts:
        assert not scored.done
        scored.add(LOGITS[first : first + size])
        first += size
    assert scored.done
    return scored.score(SUBJECT, MODEL, "an engine")


def cuts(total: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.booleans(), min_size=total - 1, max_size=total - 1).map(
        lambda ends: np.diff([0, *(i + 1 for i, end in enumerate(ends) if end), total]).tolist()
    )


@given(cuts(LENGTH))
def test_it_does_not_matter_how_the_logits_come_in(parts: list[int]) -> None:
    assert summed(parts, DRAWN, **WHOLE).to_json() == summed([LENGTH], DRAWN, **WHOLE).to_json()


def test_a_score_lists_what_each_position_gives() -> None:
    tokens = [*DRAWN[:4], (DRAWN[4] + 1) % VOCABULARY, *DRAWN[5:]]
    score = summed([LENGTH], tokens, **WHOLE)
    each = [
        slow_score(row, token, SEED, place, 0.7, 0.9)
        for place, (row, token) in enumerate(zip(LOGITS.tolist(), tokens, strict=True))
    ]
    own = fingerprint.project(LOGITS, ALONG).astype(np.float64)
    apart = [math.sqrt(math.fsum(one * one for one in row) / 8) for row in (CLAIMED - own).tolist()]
    assert (score.level, score.subject, score.model, score.engine) == (
        "fingerprint",
        SUBJECT,
        MODEL,
        "an engine",
    )
    assert (score.positions, score.ambiguous, score.contradiction) == (LENGTH, None, None)
    assert score.winners == DRAWN == [one.winner for one in each]
    assert score.distances == [round(distance, 6) for distance in apart]
    assert score.margins == [round(one.margin or 0.0, 6) for one in each]
    assert score.surprisals == [round(one.surprisal, 6) for one in each]
    assert score.entropy == round(math.fsum(one.entropy for one in each), 6)
    assert score.variance == round(math.fsum(one.variance for one in each), 6)
    assert [margin > 0 for margin in score.margins] == [place == 4 for place in range(LENGTH)]


@pytest.mark.parametrize(
    ("temperature", "given_", "level", "distances", "margins"),
    [
        (0.7, WHOLE, "fingerprint", True, True),
        (0.0, WHOLE, "fingerprint", True, True),
        (0.7, {"seed": SEED}, "seeded", False, True),
        (0.0, {"seed": SEED}, "greedy", False, True),
        (0.0, {}, "greedy", False, True),
        (0.7, {}, "likelihood", False, False),
    ],
)
def test_the_level_says_what_there_was_to_compare(
    temperature: float, given_: dict[str, Any], level: str, distances: bool, margins: bool
) -> None:
    score = summed([LENGTH], DRAWN, temperature, **given_)
    assert score.level == level
    assert (score.distances is not None, score.margins is not None) == (distances, margins)


def test_what_only_the_worker_knows_is_passed_on() -> None:
    scored = Accumulator(DRAWN[:1], 0.0, 1.0)
    scored.add(LOGITS[:1])
    score = scored.score(SUBJECT, MODEL, "an engine", ambiguous=0, contradiction="end")
    assert (score.ambiguous, score.contradiction) == (0, "end")


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_unusable_logits_are_named_by_their_position(wrong: float) -> None:
    scored = Accumulator(DRAWN, 0.7, 0.9, **WHOLE)
    scored.add(LOGITS[:3])
    logits = LOGITS[3:].copy()
    logits[2, 17] = wrong
    with pytest.raises(InvalidSampling, match="Output position 5: "):
        scored.add(logits)
    # What was refused has left no trace.
    scored.add(LOGITS[3:])
    assert scored.score(SUBJECT, MODEL, "an engine") == summed([LENGTH], DRAWN, **WHOLE)


def test_logits_too_large_for_a_fingerprint_are_named_by_their_position() -> None:
    scored = Accumulator(DRAWN, 0.7, 0.9, **WHOLE)
    logits = LOGITS.copy()
    logits[6] *= np.float32(1e30)
    with pytest.raises(InvalidSampling, match=r"Output position 6: .* too large for a fingerprint"):
        scored.add(logits)


def test_a_claimed_token_outside_of_the_vocabulary_is_named_by_its_position() -> None:
    with pytest.raises(InvalidSampling, match="Output position 1: Token 300 "):
        Accumulator([DRAWN[0], VOCABULARY], 0.7, 0.9).add(LOGITS[:2])


def test_more_logits_than_positions_are_refused() -> None:
    scored = Accumulator(DRAWN[:3], 0.7, 0.9)
    scored.add(LOGITS[:2])
    for wrong in (LOGITS[:2], LOGITS[0]):
        with pytest.raises(InvalidSampling, match="Logits of 1 positions are left"):
            scored.add(wrong)


def test_there_is_no_score_before_every_position_was_seen() -> None:
    scored = Accumulator(DRAWN, 0.7, 0.9)
    scored.add(LOGITS[:2])
    assert not scored.done
    assert scored.winners == LOGITS[:2].argmax(axis=1).tolist()
    with pytest.raises(InvalidSampling, match="2 of 9 positions"):
        scored.score(SUBJECT, MODEL, "an engine")


@pytest.mark.parametrize(
    "given_",
    [
        {"seed": SEED, "along": ALONG},
        {"seed": SEED, "claimed": CLAIMED},
        {"along": ALONG, "claimed": CLAIMED},
        {**WHOLE, "claimed": CLAIMED[:1]},
        {**WHOLE, "claimed": CLAIMED[:-1]},
        {**WHOLE, "claimed": CLAIMED[:, :7]},
    ],
)
def test_fingerprints_need_directions_a_seed_and_a_row_for_each_token(given_: dict[str, Any]) -> None:
    with pytest.raises(InvalidTranscript, match=r"Fingerprints|fingerprints"):
        Accumulator(DRAWN, 0.7, 0.9, **given_)
