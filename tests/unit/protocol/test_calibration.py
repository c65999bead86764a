"""Calibrations: a closed document, and likelihood ratios that hold what they promise about honest answers."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aos_protocol.calibration import (
    DISTANCE_EDGES,
    MARGIN_EDGES,
    Calibration,
    Ratio,
    Sample,
    distance_counts,
    margin_counts,
)
from aos_protocol.errors import InvalidMessage
from support.calibration import calibration

MODEL = "3d" * 32
CALIBRATION = calibration(MODEL)


def changed(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(CALIBRATION.to_json()))
    return document | changes


def sample(**changes: Any) -> dict[str, Any]:
    first: dict[str, Any] = changed()["samples"][0]
    return first | changes


def test_json_round_trip() -> None:
    again = Calibration.from_json(changed())
    assert again == CALIBRATION
    assert again.digest() == CALIBRATION.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "3e" * 32},
        {"engine": "another"},
        {"alpha": 2e-6},
        {"beta": 2e-3},
        {"pool": "other seed"},
        {"likelihood": {"limit": 6.0, "excess": 0.2}},
    ],
)
def test_the_digest_binds_every_member(change: dict[str, Any]) -> None:
    assert Calibration.from_json(changed(**change)).digest() != CALIBRATION.digest()


def test_the_digest_binds_every_count() -> None:
    counts = [*CALIBRATION.samples[0].distances]
    counts[3] += 1
    samples = [sample(distances=counts), *changed()["samples"][1:]]
    assert Calibration.from_json(changed(samples=samples)).digest() != CALIBRATION.digest()


HONEST_ONLY = [one.to_json() for one in CALIBRATION.samples if one.honest]
CHEATS_ONLY = [one.to_json() for one in CALIBRATION.samples if not one.honest]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "aos-calibration/2"}, "version: "),
        ({"model": "3D" * 32}, "model: "),
        ({"engine": ""}, "engine: "),
        ({"alpha": 0.0}, "alpha: "),
        ({"alpha": 1.0}, "alpha: "),
        ({"beta": math.nan}, "beta: "),
        ({"samples": []}, "honest samples and alternatives"),
        ({"samples": HONEST_ONLY}, "honest samples and alternatives"),
        ({"samples": CHEATS_ONLY}, "honest samples and alternatives"),
        ({"samples": [HONEST_ONLY[0], HONEST_ONLY[0], *CHEATS_ONLY]}, "one name"),
        ({"samples": [sample(distances=[1])]}, "does not have a count for each bin"),
        ({"samples": [sample(margins=[1] * 300)]}, "samples.0.margins: "),
        ({"samples": [sample(distances=[0] * (DISTANCE_EDGES.size + 1))]}, "is empty"),
        ({"samples": [sample(margins=[0] * (MARGIN_EDGES.size + 1))]}, "is empty"),
        ({"samples": [sample(distances=[-1] * (DISTANCE_EDGES.size + 1))]}, "samples.0.distances.0: "),
        ({"samples": [sample(margins=[2**53] * (MARGIN_EDGES.size + 1))]}, "samples.0.margins.0: "),
        ({"samples": [sample(answers=0)]}, "samples.0.answers: "),
        ({"pool": "nobody"}, "no alternative 'nobody'"),
        ({"pool": "alone"}, "no alternative 'alone'"),
        ({"likelihood": {"limit": 0.0, "excess": 0.2}}, "likelihood.limit: "),
        ({"likelihood": {"limit": 5.0, "excess": math.inf}}, "likelihood.excess: "),
        ({"more": 1}, "more: "),
    ],
)
def test_what_is_no_calibration_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        Calibration.from_json(changed(**change))
    assert said in str(caught.value)


@pytest.mark.parametrize("member", ["model", "engine", "alpha", "beta", "samples", "pool", "likelihood"])
def test_no_member_may_be_missing(member: str) -> None:
    value = {name: kept for name, kept in changed().items() if name != member}
    with pytest.raises(InvalidMessage, match=f"{member}: Field required"):
        Calibration.from_json(value)


@given(st.lists(st.floats(0, 100), max_size=50))
def test_every_number_is_counted_once_in_its_bin(values: list[float]) -> None:
    for counts, edges in ((distance_counts(values), DISTANCE_EDGES), (margin_counts(values), MARGIN_EDGES)):
        bounds = [-math.inf, *edges, math.inf]
        assert counts == [
            sum(low <= value < high for value in values) for low, high in itertools.pairwise(bounds)
        ]


def test_a_margin_of_0_has_a_bin_of_its_own() -> None:
    counts = margin_counts([0.0, 0.0, 1e-6])
    assert (counts[0], counts[1]) == (2, 1)


def drawn(one: Sample, what: str, count: int, answers: int) -> NDArray[np.float64]:
    """Numbers distributed as a sample's histogram, in the middle of its bins; shape (answers, count)."""
    counts, edges = (one.distances, DISTANCE_EDGES) if what == "distances" else (one.margins, MARGIN_EDGES)
    middles = np.concatenate(([0.0], np.sqrt(edges[:-1] * edges[1:]), [2 * edges[-1]]))
    return np.random.default_rng(3).choice(
        middles, (answers, count), p=np.array(counts, dtype=np.float64) / sum(counts)
    )


def ratio(what: str, of: Calibration = CALIBRATION) -> Ratio:
    return of.distances if what == "distances" else of.margins


@pytest.mark.parametrize("what", ["distances", "margins"])
@pytest.mark.parametrize("length", [1, 4, 30])
def test_honest_numbers_hardly_ever_speak_against_an_answer(what: str, length: int) -> None:
    """The ratio exceeds 1 / a with a chance of at most a; `_honest`'s best member only makes it rarer."""
    for one in CALIBRATION.samples:
        if one.honest:
            against = np.array(
                [ratio(what).against(values) for values in drawn(one, what, length, answers=1000)]
            )
            assert np.count_nonzero(against > math.log(100)) <= 25  # 10 expected at most, 4.7 sigma
            assert np.count_nonzero(against > math.log(20)) <= 85  # 50 expected at most, 5 sigma


@pytest.mark.parametrize(("what", "length"), [("distances", 2), ("margins", 64)])
def test_an_alternative_s_numbers_do(what: str, length: int) -> None:
    name = "coarser weights" if what == "distances" else "other seed"
    (one,) = (one for one in CALIBRATION.samples if one.name == name)
    answers = drawn(one, what, length, answers=200)
    for values in answers:
        assert ratio(what).against(values) > math.log(2 / CALIBRATION.alpha)
        assert ratio(what).excluded(values) < 0
    assert sum(ratio(what).nearest(values) == name for values in answers) >= 190


def test_honest_distances_exclude_the_alternatives_after_the_stated_number_of_tokens() -> None:
    (one,) = (one for one in CALIBRATION.samples if one.name == "alone")
    tokens = CALIBRATION.distances.tokens()
    excluded = [
        CALIBRATION.distances.excluded(values) for values in drawn(one, "distances", tokens, answers=500)
    ]
    assert np.mean(excluded) > 0.9 * math.log(1 / CALIBRATION.beta)
    assert tokens < 20


@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.randoms())
def test_the_order_of_the_numbers_does_not_matter(values: list[float], shuffle: Any) -> None:
    again = list(values)
    shuffle.shuffle(again)
    for what in ("distances", "margins"):
        assert ratio(what).against(values) == pytest.approx(ratio(what).against(again))
        assert ratio(what).excluded(values) == pytest.approx(ratio(what).excluded(again))


def test_nothing_says_nothing() -> None:
    for what in ("distances", "margins"):
        assert ratio(what).against([]) == pytest.approx(0)
        assert ratio(what).excluded([]) == pytest.approx(0)


@given(st.floats(0, 1e6))
def test_a_single_number_never_has_endless_weight(value: float) -> None:
    """An empty bin has at least half a count: nothing that was not seen is impossible."""
    for what in ("distances", "margins"):
        assert math.isfinite(ratio(what).against([value]))
        assert abs(ratio(what).against([value])) < 40


@pytest.mark.parametrize("what", ["distances", "margins"])
def test_what_lies_far_beyond_everything_honest_speaks_for_an_alternative_at_each_position(what: str) -> None:
    far, honest = ratio(what).by_position([9.0, 0.0])
    assert far > math.log(1000)
    assert honest < math.log(1000)


def test_pooled_weights_speak_for_the_alternative_where_it_is_likelier() -> None:
    weights = CALIBRATION.pooled
    assert weights.shape == (MARGIN_EDGES.size + 1,)
    assert weights[0] < 0 < weights[np.searchsorted(MARGIN_EDGES, 0.5)]
    own = np.array(next(one.margins for one in CALIBRATION.samples if one.name == "coarser weights"))
    assert own @ weights > 0
    for one in CALIBRATION.samples:
        if one.honest:
            assert np.array(one.margins) @ weights < 0
