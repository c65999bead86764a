"""Verdicts: each outcome at each level, why, and that what cannot be decided says so."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from aos_protocol.score_document import FORBIDDEN, Level, Score
from aos_protocol.verdict import Outcome, Verdict, first_divergence, judge, overall
from support.calibration import calibration

MODEL = "3d" * 32
CALIBRATION = calibration(MODEL)
LEVELS: list[Level] = ["fingerprint", "seeded", "greedy", "likelihood"]
BY_MARGINS: list[Level] = ["seeded", "greedy"]
HONEST, COARSER = 0.001, 0.3
"""Distances, by the calibration's samples."""


def score(level: Level, positions: int, **changes: Any) -> Score:
    """A score in which everything is as an honest answer's, but for the changes; a list's number stands at every position."""
    members: dict[str, Any] = {
        "distances": HONEST if level == "fingerprint" else None,
        "margins": None if level == "likelihood" else 0.0,
        "surprisals": 1.0,
        "winners": 7,
        "entropy": float(positions),
        "variance": float(positions),
        **changes,
    }
    for name in ("distances", "margins", "surprisals", "winners"):
        if isinstance(members[name], int | float):
            members[name] = [members[name]] * positions
    return Score(
        level=level, subject="5b" * 32, model=MODEL, engine="made up", positions=positions, **members
    )


def once(positions: int, place: int, number: float, otherwise: float = 0.0) -> list[float]:
    """A list with one number at one place."""
    return [number if position == place else otherwise for position in range(positions)]


@pytest.mark.parametrize("level", LEVELS)
def test_without_the_model_s_calibration_nothing_is_decided(level: Level) -> None:
    for given in (None, calibration("3e" * 32)):
        verdict = judge(score(level, 3), given)
        assert (verdict.outcome, verdict.level, verdict.tokens_needed) == ("inconclusive", level, None)
        assert f"no calibration of model {MODEL}" in verdict.reason
        assert first_divergence(score(level, 3), given) is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("what", "said"), [("prompt", "prompt"), ("text", "text"), ("end", "reason")])
def test_a_contradiction_decides_whatever_the_numbers(level: Level, what: Any, said: str) -> None:
    for given in (None, CALIBRATION):
        verdict = judge(score(level, 300, contradiction=what), given)
        assert (verdict.outcome, verdict.level) == ("mismatch", level)
        assert said in verdict.reason


@pytest.mark.parametrize(("distances", "outcome"), [(HONEST, "inconclusive"), (5.0, "mismatch")])
def test_an_answer_cut_short_by_a_smaller_context_is_never_a_match(
    distances: float, outcome: Outcome
) -> None:
    verdict = judge(score("fingerprint", 300, contradiction="context", distances=distances), CALIBRATION)
    assert (verdict.outcome, "cut short" in verdict.reason) == (outcome, outcome == "inconclusive")


@pytest.mark.parametrize(
    ("level", "positions", "reason"),
    [
        (
            "fingerprint",
            20,
            "20 fingerprints are this model's, and its tokens are drawn as the seed prescribes",
        ),
        ("seeded", 20, "20 tokens are those that the seed prescribes"),
        ("greedy", 20, "20 tokens are the likeliest ones"),
        ("likelihood", 2000, "2000 tokens are as likely as the model's own"),
    ],
)
def test_a_long_honest_answer_matches(level: Level, positions: int, reason: str) -> None:
    verdict = judge(score(level, positions), CALIBRATION)
    assert (verdict.outcome, verdict.level, verdict.reason) == ("match", level, reason)
    assert verdict.tokens_needed is None


@pytest.mark.parametrize("level", LEVELS)
def test_a_short_honest_answer_says_how_many_tokens_would_do(level: Level) -> None:
    verdict = judge(score(level, 1), CALIBRATION)
    assert (verdict.outcome, verdict.level) == ("inconclusive", level)
    needed = verdict.tokens_needed
    assert needed is not None
    assert needed > 1
    assert verdict.reason == f"1 tokens cannot decide; about {needed} would"
    assert judge(score(level, needed), CALIBRATION).outcome == "match"


@pytest.mark.parametrize("positions", [1, 2, 30, 300])
def test_a_coarser_model_s_fingerprints_mismatch(positions: int) -> None:
    verdict = judge(score("fingerprint", positions, distances=COARSER), CALIBRATION)
    assert verdict.outcome == "mismatch"
    assert verdict.reason.endswith("they are likest to: coarser weights")
    assert verdict.statistics["mean_distance"] == pytest.approx(COARSER)
    assert verdict.statistics["distance_evidence"] > math.log(2 / CALIBRATION.alpha)


@pytest.mark.parametrize("level", ["fingerprint", *BY_MARGINS])
def test_an_edited_token_mismatches_and_is_named(level: Level) -> None:
    verdict = judge(score(level, 40, margins=once(40, 17, FORBIDDEN), winners=5), CALIBRATION)
    assert verdict.outcome == "mismatch"
    assert verdict.reason.startswith("token 17 is not ")
    assert "(100 logits behind, 5 wins)" in verdict.reason
    assert verdict.statistics["mean_margin"] == pytest.approx(1 / 40)


@pytest.mark.parametrize("level", ["fingerprint", *BY_MARGINS])
def test_another_seed_mismatches_from_margins_alone(level: Level) -> None:
    margins = [0.0, 0.7, 0.3, 0.0, 1.1] * 4
    verdict = judge(score(level, 20, margins=margins), CALIBRATION)
    assert verdict.outcome == "mismatch"
    assert verdict.reason.endswith("the margins are likest to: other seed")
    rule = "is not the likeliest one" if level == "greedy" else "is not what the seed prescribes"
    assert rule in verdict.reason


def test_numbers_between_honest_and_cheating_are_inconclusive() -> None:
    verdict = judge(score("fingerprint", 1, distances=0.02), CALIBRATION)
    assert verdict.outcome == "inconclusive"
    assert verdict.tokens_needed is not None


@pytest.mark.parametrize("level", BY_MARGINS)
def test_tokens_that_anybody_would_guess_prove_nothing(level: Level) -> None:
    assert judge(score(level, 60, surprisals=0.1), CALIBRATION).outcome == "inconclusive"
    # ln(1/beta) = 6.9 nats in all.
    assert judge(score(level, 60, surprisals=0.12), CALIBRATION).outcome == "match"


@pytest.mark.parametrize(("surprisal", "than"), [(1.5, "less"), (0.5, "more")])
def test_tokens_less_or_more_likely_than_the_model_s_own_mismatch(surprisal: float, than: str) -> None:
    verdict = judge(score("likelihood", 400, surprisals=surprisal), CALIBRATION)
    assert verdict.outcome == "mismatch"
    assert verdict.reason == f"the tokens are {than} likely than the model's own by 10.0 standard deviations"
    assert abs(verdict.statistics["z"]) == pytest.approx(10)


def test_a_token_that_cannot_be_drawn_mismatches_without_a_seed_too() -> None:
    verdict = judge(score("likelihood", 30, surprisals=once(30, 4, FORBIDDEN, 1.0)), CALIBRATION)
    assert verdict.outcome == "mismatch"
    assert verdict.reason.startswith("token 4 is one that the model cannot draw")


def test_an_answer_without_any_choice_says_nothing_by_likelihood() -> None:
    """Where every nucleus has one token, there is no spread to measure against."""
    verdict = judge(score("likelihood", 500, surprisals=0.0, entropy=0.0, variance=0.0), CALIBRATION)
    assert verdict.outcome == "inconclusive"
    assert verdict.statistics["z"] == 0


@pytest.mark.parametrize(
    ("ambiguous", "outcome"), [(9, "inconclusive"), (10, "inconclusive"), (11, "mismatch")]
)
def test_a_text_that_may_be_other_tokens_before_its_first_fault_is_inconclusive(
    ambiguous: int, outcome: str
) -> None:
    claimed = score("seeded", 30, margins=once(30, 10, FORBIDDEN), ambiguous=ambiguous)
    verdict = judge(claimed, CALIBRATION)
    assert verdict.outcome == outcome
    assert (f"can be tokenised otherwise from token {ambiguous} on" in verdict.reason) == (
        outcome == "inconclusive"
    )


def test_a_text_that_may_be_other_tokens_still_matches_when_it_is_right() -> None:
    assert judge(score("seeded", 30, ambiguous=0), CALIBRATION).outcome == "match"


def test_the_first_position_that_diverges_by_itself_is_named() -> None:
    several = [HONEST if place not in {6, 9} else 2.0 if place == 6 else 9.0 for place in range(12)]
    assert first_divergence(score("fingerprint", 12, distances=several), CALIBRATION) == 6
    assert first_divergence(score("seeded", 12, margins=once(12, 3, FORBIDDEN)), CALIBRATION) == 3
    both = score("fingerprint", 12, distances=several, margins=once(12, 2, 5.0))
    assert first_divergence(both, CALIBRATION) == 2
    forbidden = score("likelihood", 12, surprisals=once(12, 8, FORBIDDEN))
    assert first_divergence(forbidden, CALIBRATION) == 8


def test_if_no_position_diverges_by_itself_the_worst_one_is_named() -> None:
    assert first_divergence(score("seeded", 12, margins=once(12, 5, 0.02)), CALIBRATION) == 5


@pytest.mark.parametrize("level", LEVELS)
def test_statistics_are_finite_numbers(level: Level) -> None:
    for positions, changes in itertools.product((1, 300), ({}, {"surprisals": FORBIDDEN}, {"variance": 0.0})):
        for number in judge(score(level, positions, **changes), CALIBRATION).statistics.values():
            assert math.isfinite(number)


def verdicts(*outcomes: Outcome) -> list[Verdict]:
    return [Verdict(outcome, "seeded", f"reason {place}") for place, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        (["match"], "match"),
        (["mismatch"], "mismatch"),
        (["inconclusive"], "inconclusive"),
        (["match", "inconclusive", "inconclusive"], "match"),
        (["inconclusive", "mismatch", "inconclusive"], "mismatch"),
        (["match", "mismatch"], "inconclusive"),
        (["match", "mismatch", "inconclusive"], "inconclusive"),
        (["match", "mismatch", "match"], "match"),
        (["mismatch", "match", "mismatch", "inconclusive"], "mismatch"),
        (["match", "match", "mismatch", "mismatch"], "inconclusive"),
        (["inconclusive", "inconclusive"], "inconclusive"),
        ([], "inconclusive"),
    ],
)
def test_the_majority_of_those_that_decide_wins_and_a_tie_decides_nothing(
    outcomes: list[Outcome], outcome: str
) -> None:
    for order in itertools.permutations(outcomes):
        assert overall(verdicts(*order)).outcome == outcome


def test_an_overall_verdict_says_how_it_was_reached() -> None:
    assert overall([]) == Verdict("inconclusive", None, "nobody has scored")
    alone = verdicts("match")
    assert overall(alone) == alone[0]
    assert overall(verdicts("inconclusive", "match", "match")).reason == "2 of 3 verifiers: reason 1"
    tie = overall(verdicts("match", "mismatch", "inconclusive"))
    assert tie.reason == "1 of 3 verifiers found a match, and as many a mismatch"


@pytest.mark.parametrize("level", ["fingerprint", *BY_MARGINS])
def test_honest_answers_are_not_accused_and_long_ones_mostly_match(level: Level) -> None:
    """500 answers distributed as the honest sample that is farther off, of 1 to 200 tokens."""
    random = np.random.default_rng(4)
    outcomes = []
    for positions in random.integers(1, 201, 500).tolist():
        distances = (0.0015 * np.exp(random.normal(0, 0.4, positions))).tolist()
        wrong = random.random(positions) < 0.002
        margins = np.where(wrong, random.exponential(0.005, positions), 0.0).tolist()
        own = {"distances": distances} if level == "fingerprint" else {}
        outcomes.append(
            (positions, judge(score(level, positions, margins=margins, **own), CALIBRATION).outcome)
        )
    assert "mismatch" not in {outcome for _, outcome in outcomes}
    long = [outcome for positions, outcome in outcomes if positions >= 50]
    assert long.count("match") > 0.95 * len(long)


@pytest.mark.parametrize("distance", [0.05, 0.3, 5.0])
def test_one_fingerprint_of_another_model_among_many_is_no_match(distance: float) -> None:
    mixed = score("fingerprint", 20).model_copy(update={"distances": [0.001] * 19 + [distance]})
    assert judge(mixed, CALIBRATION).outcome != "match"


def test_one_made_up_fingerprint_among_many_is_a_mismatch() -> None:
    mixed = score("fingerprint", 20).model_copy(update={"distances": [0.001] * 10 + [5.0] + [0.001] * 9})
    assert judge(mixed, CALIBRATION).outcome == "mismatch"
    assert first_divergence(mixed, CALIBRATION) == 10


@pytest.mark.parametrize("level", ["greedy", "seeded", "likelihood"])
def test_tokens_that_anybody_would_guess_are_inconclusive_at_any_length(level: Level) -> None:
    easy = score(level, 50).model_copy(update={"surprisals": [0.0] * 50, "entropy": 0.0, "variance": 0.0})
    verdict = judge(easy, CALIBRATION)
    assert (verdict.outcome, verdict.tokens_needed) == ("inconclusive", None)


def test_a_close_call_that_many_fingerprints_do_not_outweigh_needs_more_tokens() -> None:
    close = score("fingerprint", 60).model_copy(update={"margins": once(60, 9, 0.2)})
    verdict = judge(close, CALIBRATION)
    assert verdict.statistics["margin_evidence"] > 0
    assert verdict.outcome == "inconclusive"
    assert verdict.tokens_needed == 60 + CALIBRATION.margins.tokens()


def test_one_odd_token_is_told_from_many() -> None:
    one = judge(score("fingerprint", 60, margins=once(60, 9, 9.0)), CALIBRATION)
    many = judge(score("fingerprint", 60, margins=9.0), CALIBRATION)
    assert one.reason.startswith(
        "token 9 is not what the seed prescribes (9 logits behind, 7 wins), and all others are"
    )
    assert "the margins are likest to: " in many.reason


def stretched(within: float, beyond: float, more: int = 400) -> list[float]:
    """One number within the calibration's reach, and another one beyond it."""
    return [within] * CALIBRATION.reach + [beyond] * more


def test_a_calibration_reaches_as_far_as_it_was_measured_and_512_tokens_at_least() -> None:
    assert CALIBRATION.reach == 512
    longer = [
        sample.model_copy(update={"answers": 10}) if sample.honest else sample
        for sample in CALIBRATION.samples
    ]
    assert CALIBRATION.model_copy(update={"samples": longer}).reach == 2000


def test_noise_that_grows_beyond_the_reach_accuses_nobody() -> None:
    near = judge(score("fingerprint", 400, distances=10 * HONEST), CALIBRATION)
    assert near.outcome == "mismatch"
    far = stretched(HONEST, 10 * HONEST)
    verdict = judge(score("fingerprint", len(far), distances=far), CALIBRATION)
    assert verdict.outcome == "inconclusive"
    assert "rests on tokens beyond the first 512" in verdict.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"distances": stretched(HONEST, COARSER)},
        {"distances": stretched(COARSER, HONEST)},
        {"margins": once(912, 700, FORBIDDEN)},
        {"margins": once(912, 100, FORBIDDEN)},
    ],
    ids=["coarser later", "coarser first", "an edit later", "an edit first"],
)
def test_what_no_noise_explains_is_a_mismatch_wherever_it_stands(changes: dict[str, Any]) -> None:
    assert judge(score("fingerprint", 912, **changes), CALIBRATION).outcome == "mismatch"


def test_a_long_honest_answer_is_a_match() -> None:
    assert judge(score("fingerprint", 912), CALIBRATION).outcome == "match"
