"""Fitting a calibration to numbers whose meaning is known."""

import math

import numpy as np
import pytest

from aos_inference.calibrate import ALPHA, Run, fit
from aos_inference.trials import Measures
from aos_protocol.calibration import Calibration
from aos_protocol.score_document import FORBIDDEN, Score
from aos_protocol.verdict import judge

MODEL, TOKENS = "ab" * 32, 200


def measures(seed: int, *, distance: float = 0.002, flips: float = 0.0, excess: float = 0.0) -> Measures:
    """One answer's numbers: distances about `distance`, a share `flips` of margins above 0, surprisals too high by `excess`."""
    random = np.random.default_rng(seed)
    entropies = random.uniform(0.5, 2.0, TOKENS)
    return Measures(
        distance * np.exp(random.normal(0, 0.3, TOKENS)),
        np.where(random.random(TOKENS) < flips, random.exponential(0.3, TOKENS), 0.0),
        entropies + excess + random.normal(0, 1, TOKENS),
        entropies,
        np.ones(TOKENS),
    )


def run(
    name: str, *, honest: bool = False, distance: float = 0.002, flips: float = 0.0, excess: float = 0.0
) -> Run:
    answers = [
        measures(place + len(name) * 1000, distance=distance, flips=flips, excess=excess)
        for place in range(30)
    ]
    return Run(name, honest, answers)


HONEST = [run("alone", honest=True), run("side by side", honest=True, distance=0.003, flips=0.0005)]


def score(one: Measures) -> Score:
    """What a verifier would sign of these numbers."""
    return Score(
        level="fingerprint",
        subject="cd" * 32,
        model=MODEL,
        engine="an engine",
        positions=TOKENS,
        distances=one.distances.tolist(),
        margins=one.margins.tolist(),
        surprisals=np.abs(one.surprisals).tolist(),
        winners=[0] * TOKENS,
        entropy=float(one.entropies.sum()),
        variance=float(one.variances.sum()),
    )


def fitted(*others: Run) -> Calibration:
    return fit(MODEL, "an engine", [*HONEST, *others])


def test_every_run_is_a_sample_with_all_its_tokens() -> None:
    calibration = fitted(run("coarser", distance=0.2, flips=0.02))
    assert [(one.name, one.honest, one.answers) for one in calibration.samples] == [
        ("alone", True, 30),
        ("side by side", True, 30),
        ("coarser", False, 30),
    ]
    assert {sum(one.distances) for one in calibration.samples} == {30 * TOKENS}
    assert {sum(one.margins) for one in calibration.samples} == {30 * TOKENS}
    assert calibration.model == MODEL


def test_what_it_was_fitted_to_is_judged_right() -> None:
    coarse, colder = run("coarser", distance=0.2, flips=0.02), run("colder", flips=0.1)
    calibration = fitted(coarse, colder)
    for honest in (*HONEST[0].measured, *HONEST[1].measured):
        assert judge(score(honest), calibration).outcome == "match"
    for cheat in (*coarse.measured, *colder.measured):
        assert judge(score(cheat), calibration).outcome == "mismatch"


def test_the_pool_looks_for_the_finest_alternative_that_many_answers_show() -> None:
    others = [
        run("coarse", flips=0.05),
        run("fine", flips=0.02),
        run("as good as the model itself", flips=0.0005),
    ]
    assert fitted(*others).pool == "fine"


def test_a_pool_that_can_see_nothing_looks_for_what_comes_nearest_to_it() -> None:
    others = [run("no margin at all", distance=0.5), run("one or two", distance=0.5, flips=0.0004)]
    assert fitted(*others).pool == "one or two"


def test_the_limit_of_likelihood_lies_beyond_chance_and_beyond_what_was_seen() -> None:
    calm = fitted(run("coarser", flips=0.02))
    assert calm.likelihood.limit == pytest.approx(
        4.89, abs=0.01
    )  # a normal deviate exceeds it with ALPHA's chance
    assert math.erfc(calm.likelihood.limit / math.sqrt(2)) == pytest.approx(ALPHA, rel=1e-3)
    strange = Run("strange", True, [measures(7, excess=0.5)])  # seven standard deviations
    assert fit(MODEL, "e", [*HONEST, strange, run("coarser", flips=0.02)]).likelihood.limit > 10


def test_the_least_excess_is_that_of_the_finest_alternative_that_an_answer_can_show() -> None:
    others = [run("far", excess=2.0), run("near", excess=0.6), run("too near", excess=0.01)]
    assert fitted(*others).likelihood.excess == pytest.approx(0.6, abs=0.05)


def test_tokens_that_are_forbidden_do_not_count_as_excess() -> None:
    whole = [measures(seed, excess=0.6) for seed in range(30)]
    for one in whole:
        one.surprisals[:3] = FORBIDDEN
    assert fitted(Run("cut off", False, whole)).likelihood.excess == pytest.approx(0.6, abs=0.05)
