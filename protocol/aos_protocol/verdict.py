"""Verdicts: what follows from scores and the model's calibration. Nobody signs a verdict; whoever has both computes it.

A score's numbers are weighed by likelihood ratios (`aos_protocol.calibration`):

    fingerprint   distances decide whether the model was run as pinned, margins whether its tokens were drawn as the seed prescribes
    seeded        margins decide. A token that anybody would guess proves nothing, so a `match` also needs surprisal:
    greedy        the tokens must have been unlikely enough together to guess
    likelihood    no seed, so nothing to repeat: the surprisal must be what the model's own answers have

`mismatch` says that honest operators do this with a chance below the calibration's alpha, `match` that an alternative
which was measured does it with one below beta. Everything between is `inconclusive`, and so is an accusation that falls once tokens beyond
the calibration's reach are taken for noisier than those that were measured.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from aos_protocol.calibration import Calibration
from aos_protocol.score_document import Level, Score
from aos_protocol.scoring import FORBIDDEN

Outcome = Literal["match", "mismatch", "inconclusive"]

_CONTRADICTIONS: Final[dict[str | None, str]] = {
    "prompt": "the transcript's prompt is not the job's",
    "text": "the answer's text is not what its tokens spell",
    "end": "the answer does not end for the reason that it gives",
}
_MORE_NOISE: Final = 8.0
"""How many times as noisy tokens beyond a calibration's reach may be: twice what the demo model shows where its context ends."""

_STEP: Final = math.log(1000)
"""A position diverges by itself if an alternative makes its numbers this much likelier (in nats)."""


@dataclass(frozen=True)
class Verdict:
    """What a score says of its subject, or several scores together.

    `tokens_needed`: for `inconclusive`, how long an honest answer must be, on average, to be decided; None if length would not help.
    """

    outcome: Outcome
    level: Level | None
    reason: str
    statistics: dict[str, float] = field(default_factory=dict)
    tokens_needed: int | None = None


def judge(score: Score, calibration: Calibration | None) -> Verdict:
    """Weigh one verifier's score. Without a calibration of the score's model only a contradiction decides."""
    if score.contradiction in _CONTRADICTIONS:
        return Verdict("mismatch", score.level, _CONTRADICTIONS[score.contradiction])
    if calibration is None or calibration.model != score.model:
        return Verdict("inconclusive", score.level, f"there is no calibration of model {score.model}")
    verdict = _RULES[score.level](score, calibration)
    if verdict.outcome == "mismatch" and _only_beyond_reach(score, calibration):
        reason = f"{verdict.reason}; but this rests on tokens beyond the first {calibration.reach}, whose noise the calibration did not measure"
        return replace(verdict, outcome="inconclusive", reason=reason)
    if verdict.outcome == "mismatch" and _may_be_other_tokens(score, calibration):
        return replace(
            verdict,
            outcome="inconclusive",
            reason=f"{verdict.reason}; but the text can be tokenised otherwise from token {score.ambiguous} on",
        )
    if verdict.outcome == "match" and score.contradiction == "context":
        reason = f"{verdict.reason}; but it was cut short for want of room that its verifier would have had"
        return replace(verdict, outcome="inconclusive", reason=reason)
    return verdict


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """What several verifiers' verdicts on one subject say together: the majority of those that decide."""
    votes = Counter(verdict.outcome for verdict in verdicts if verdict.outcome != "inconclusive")
    if not votes:
        return verdicts[0] if verdicts else Verdict("inconclusive", None, "nobody has scored")
    if votes["match"] == votes["mismatch"]:
        reason = f"{votes['match']} of {len(verdicts)} verifiers found a match, and as many a mismatch"
        return Verdict("inconclusive", verdicts[0].level, reason)
    outcome = votes.most_common(1)[0][0]
    first = next(verdict for verdict in verdicts if verdict.outcome == outcome)
    if len(verdicts) == 1:
        return first
    return replace(first, reason=f"{votes[outcome]} of {len(verdicts)} verifiers: {first.reason}")


def first_divergence(score: Score, calibration: Calibration | None) -> int | None:
    """The first position that diverges by itself, else the one that speaks most against the answer; None without a calibration."""
    if calibration is None or calibration.model != score.model:
        return None
    against = _by_position(score, calibration)
    alone = np.flatnonzero(against >= _STEP)
    return int(alone[0]) if alone.size else int(against.argmax())


def _by_position(score: Score, calibration: Calibration) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    against = np.zeros(score.positions)
    if score.distances is not None:
        against = np.maximum(against, calibration.distances.by_position(score.distances))
    if score.margins is not None:
        return np.asarray(np.maximum(against, calibration.margins.by_position(score.margins)))
    return np.asarray(np.maximum(against, score.surprisals))


def _only_beyond_reach(score: Score, calibration: Calibration) -> bool:
    """Whether an accusation rests on tokens beyond the calibration's reach, and falls once their noise is allowed for."""
    reach = calibration.reach
    if score.level == "likelihood" or score.positions <= reach:
        return False
    allowed = {
        name: [*numbers[:reach], *(number / _MORE_NOISE for number in numbers[reach:])]
        for name in ("distances", "margins")
        if (numbers := getattr(score, name)) is not None
    }
    return _RULES[score.level](score.model_copy(update=allowed), calibration).outcome != "mismatch"


def _may_be_other_tokens(score: Score, calibration: Calibration) -> bool:
    """Whether a text claim may have gone wrong only because its text was cut into other tokens than were drawn."""
    if score.ambiguous is None:
        return False
    bad = first_divergence(score, calibration)
    return bad is not None and bad >= score.ambiguous


def _by_fingerprints(score: Score, calibration: Calibration) -> Verdict:
    distances, margins = score.distances or [], score.margins or []
    apart = calibration.distances.against(distances)
    tokens = calibration.margins.against(margins)
    excluded = calibration.distances.excluded(distances)
    statistics = {
        "mean_distance": _mean(distances),
        "mean_margin": _mean([min(margin, 1.0) for margin in margins]),
        "distance_evidence": apart,
        "margin_evidence": tokens,
        "honest_evidence": excluded,
    }
    limit, enough = math.log(2 / calibration.alpha), math.log(1 / calibration.beta)
    if apart >= limit:
        like = calibration.distances.nearest(distances)
        reason = f"the fingerprints are not those of this model run as pinned; they are likest to: {like}"
        return Verdict("mismatch", "fingerprint", reason, statistics)
    if tokens >= limit:
        return Verdict("mismatch", "fingerprint", _badly_drawn(score, calibration), statistics)
    if excluded >= enough and tokens <= 0 and apart <= 0:
        reason = f"{score.positions} fingerprints are this model's, and its tokens are drawn as the seed prescribes"
        return Verdict("match", "fingerprint", reason, statistics)
    if excluded >= enough:  # a number that an alternative makes a little likelier; only others outweigh it
        return _undecided(score, statistics, score.positions + calibration.margins.tokens())
    return _undecided(score, statistics, _longer(score.positions, enough - excluded, calibration))


def _longer(positions: int, missing: float, calibration: Calibration) -> int:
    """How many tokens would bring the evidence that is missing, in nats; at least one more."""
    rate = math.log(1 / calibration.beta) / calibration.distances.tokens()
    return positions + max(math.ceil(missing / rate), 1)


def _by_margins(score: Score, calibration: Calibration) -> Verdict:
    margins = score.margins or []
    against, surprisal = calibration.margins.against(margins), math.fsum(score.surprisals)
    statistics = {
        "mean_margin": _mean([min(margin, 1.0) for margin in margins]),
        "margin_evidence": against,
        "surprisal": surprisal,
    }
    enough = math.log(1 / calibration.beta)
    if against >= math.log(1 / calibration.alpha):
        return Verdict("mismatch", score.level, _badly_drawn(score, calibration), statistics)
    if surprisal >= enough and against <= 0:
        drawn = "the likeliest ones" if score.level == "greedy" else "those that the seed prescribes"
        return Verdict("match", score.level, f"{score.positions} tokens are {drawn}", statistics)
    if surprisal == 0:
        return Verdict(
            "inconclusive", score.level, "no token was hard to guess, so this proves nothing", statistics
        )
    needed = math.ceil(score.positions * enough / surprisal)
    return _undecided(score, statistics, max(needed, score.positions + 1))


def _by_likelihood(score: Score, calibration: Calibration) -> Verdict:
    excess = math.fsum(score.surprisals) - score.entropy
    spread = math.sqrt(score.variance)
    z = excess / spread if spread > 0 else 0.0
    statistics = {"surprisal": excess + score.entropy, "entropy": score.entropy, "z": z}
    rule = calibration.likelihood
    if max(score.surprisals) >= FORBIDDEN:
        where = score.surprisals.index(max(score.surprisals))
        reason = f"token {where} is one that the model cannot draw with these parameters"
        return Verdict("mismatch", "likelihood", reason, statistics)
    # A surprisal has an exponential tail: one rare token among few exceeds a normal deviate by that much (Bernstein's inequality).
    if abs(excess) > rule.limit * (spread + rule.limit / 2):
        than = "less" if excess > 0 else "more"
        reason = f"the tokens are {than} likely than the model's own by {abs(z):.1f} standard deviations"
        return Verdict("mismatch", "likelihood", reason, statistics)
    if spread == 0:
        reason = "every token was the only one that the model could draw, so this proves nothing"
        return Verdict("inconclusive", "likelihood", reason, statistics)
    power = (rule.limit + NormalDist().inv_cdf(1 - calibration.beta)) * spread / math.sqrt(score.positions)
    # The length n at which n * rule.excess first exceeds power * sqrt(n) and the bound's own limit**2 / 2.
    root = (power + math.sqrt(power * power + 2 * rule.excess * rule.limit**2)) / (2 * rule.excess)
    needed = math.ceil(root * root)
    if score.positions >= needed:
        return Verdict(
            "match", "likelihood", f"{score.positions} tokens are as likely as the model's own", statistics
        )
    return _undecided(score, statistics, max(needed, score.positions + 1))


_RULES: Final = {
    "fingerprint": _by_fingerprints,
    "seeded": _by_margins,
    "greedy": _by_margins,
    "likelihood": _by_likelihood,
}


def _badly_drawn(score: Score, calibration: Calibration) -> str:
    margins = score.margins or []
    bad = int(calibration.margins.by_position(margins).argmax())
    rule = "is not the likeliest one" if score.level == "greedy" else "is not what the seed prescribes"
    said = f"token {bad} {rule} ({margins[bad]:.3g} logits behind, {score.winners[bad]} wins)"
    if sum(margin > 0 for margin in margins) == 1:
        return f"{said}, and all others are"
    return f"{said}; the margins are likest to: {calibration.margins.nearest(margins)}"


def _undecided(score: Score, statistics: dict[str, float], needed: int) -> Verdict:
    reason = f"{score.positions} tokens cannot decide; about {needed} would"
    return Verdict("inconclusive", score.level, reason, statistics, needed)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers) if numbers else 0.0
