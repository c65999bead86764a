"""The sequential test over an operator's answers: its bookkeeping, and its error rates by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aos_protocol.calibration import MARGIN_EDGES, margin_counts
from aos_protocol.pool import Decision, Pool
from support.calibration import calibration

MODEL = "3d" * 32
STRICT = calibration(MODEL)
LOOSE = calibration(MODEL, alpha=0.05, beta=0.1)
"""So wrong that a simulation sees its errors."""

OPERATORS, ANSWER = 1500, 10


def drawn(name: str, answers: int, seed: int) -> NDArray[np.float64]:
    """Margins distributed as a sample's histogram, in the middle of its bins; shape (OPERATORS, answers, ANSWER)."""
    counts = np.array(next(one.margins for one in LOOSE.samples if one.name == name), dtype=np.float64)
    middles = np.concatenate(([0.0], np.sqrt(MARGIN_EDGES[:-1] * MARGIN_EDGES[1:]), [20.0]))
    return np.random.default_rng(seed).choice(middles, (OPERATORS, answers, ANSWER), p=counts / counts.sum())


def decided(answers: NDArray[np.float64]) -> Pool:
    """The pool when it decides first."""
    pool = Pool()
    for margins in answers:
        pool = pool.add(margins.tolist(), LOOSE)
        if pool.decision != "open":
            break
    return pool


def share(pools: list[Pool], decision: Decision) -> float:
    return sum(pool.decision == decision for pool in pools) / len(pools)


@pytest.mark.parametrize("name", ["alone", "batched"])
def test_an_honest_operator_is_hardly_ever_accused(name: str) -> None:
    pools = [decided(answers) for answers in drawn(name, 60, seed=1)]
    bound = LOOSE.alpha / (1 - LOOSE.beta)  # Wald's
    assert share(pools, "cheating") <= bound + 4 * math.sqrt(bound / OPERATORS)
    assert share(pools, "honest") > 0.9


def test_the_pooled_alternative_hardly_ever_passes() -> None:
    pools = [decided(answers) for answers in drawn("coarser weights", 60, seed=2)]
    bound = LOOSE.beta / (1 - LOOSE.alpha)
    assert share(pools, "honest") <= bound + 4 * math.sqrt(bound / OPERATORS)
    assert share(pools, "cheating") > 0.8


def test_strict_rates_need_more_tokens_but_end_rightly() -> None:
    honest, cheating = Pool(), Pool()
    for good, bad in zip(drawn("alone", 200, 3)[0], drawn("coarser weights", 200, 3)[0], strict=True):
        honest, cheating = honest.add(good.tolist(), STRICT), cheating.add(bad.tolist(), STRICT)
        assert honest.decision != "cheating"
        assert cheating.decision != "honest"
    assert cheating.decision == "cheating"


@given(st.lists(st.lists(st.floats(0, 20), max_size=5), max_size=6))
def test_evidence_adds_up_over_answers(answers: list[list[float]]) -> None:
    pool, llr = Pool(), 0.0
    for margins in answers:
        if pool.decision == "cheating":
            break
        before = 0.0 if pool.decision == "honest" else llr
        weights = np.array(margin_counts(margins)) @ STRICT.pooled
        llr = before + float(weights)
        pool = pool.add(margins, STRICT)
        assert pool.llr == pytest.approx(llr)
    assert pool.tokens <= sum(map(len, answers))


def test_an_answer_without_tokens_changes_nothing() -> None:
    assert Pool().add([], STRICT) == Pool()


def test_who_was_found_cheating_stays_so() -> None:
    pool = Pool().add([2.0] * 20, STRICT)
    assert pool.decision == "cheating"
    later = pool.add([0.0] * 10_000, STRICT)
    assert (later.decision, later.llr, later.tokens) == ("cheating", pool.llr, 10_020)


def test_who_was_found_honest_is_tested_anew() -> None:
    """Else an operator could save up trust by thousands of honest answers, and spend it."""
    trusted = Pool().add([0.0] * 10_000, STRICT)
    assert trusted.decision == "honest"
    anew = trusted.add([2.0] * 20, STRICT)
    assert (anew.decision, anew.tokens) == ("cheating", 10_020)
    assert anew.llr == pytest.approx(Pool().add([2.0] * 20, STRICT).llr)


def test_a_few_tokens_leave_it_open() -> None:
    pool = Pool().add([0.0, 0.0, 0.4], STRICT)
    assert (pool.decision, pool.tokens) == ("open", 3)


def test_tokens_beyond_the_calibration_s_reach_are_no_evidence() -> None:
    within = Pool().add([0.0] * STRICT.reach, STRICT)
    longer = Pool().add([0.0] * STRICT.reach + [5.0] * 300, STRICT)
    assert (longer.llr, longer.decision) == (within.llr, within.decision)
    assert longer.tokens == within.tokens + 300
