"""Fitting a calibration: from what runs measured to the document that verdicts follow from (`aos_protocol.calibration`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from aos_inference.trials import Measures
from aos_protocol.calibration import (
    MOST_TOKENS,
    Calibration,
    Likelihood,
    Sample,
    distance_counts,
    margin_counts,
)
from aos_protocol.scoring import FORBIDDEN

ALPHA: Final = 1e-6
BETA: Final = 1e-3
"""Of verdicts: the chance to accuse an honest answer, and to pass a measured alternative."""

POOL_TOKENS: Final = 1024
"""The pooled test looks for the finest alternative that shows within so many tokens: finer ones resemble noise that was not measured."""

_FEW: Final = 1.5
"""Honest surprisals may deviate by this times the most that was seen: few answers do not show the greatest deviation there is."""
_NO_EXCESS: Final = 1e-4
_ENOUGH: Final = 10
"""An alternative that showed in fewer margins than this is not known well enough to be looked for in a pool."""


@dataclass(frozen=True)
class Run:
    """Answers of one way to run the model, `honest` or not, as the verifier measured them."""

    name: str
    honest: bool
    measured: Sequence[Measures]

    def sample(self) -> Sample:
        """The run's histograms."""
        return Sample(
            name=self.name,
            honest=self.honest,
            answers=len(self.measured),
            distances=distance_counts(np.concatenate([one.distances for one in self.measured])),
            margins=margin_counts(np.concatenate([one.margins for one in self.measured])),
        )


def fit(model: str, engine: str, runs: Sequence[Run]) -> Calibration:
    """The calibration of the model with this SHA-256, from honest runs and alternatives, at least one of each."""
    samples = [run.sample() for run in runs]
    drawn = Calibration(
        model=model,
        engine=engine,
        alpha=ALPHA,
        beta=BETA,
        samples=samples,
        pool=next(sample.name for sample in samples if not sample.honest),
        likelihood=_likelihood(runs),
    )
    rates = {sample.name: _pool_rate(drawn, sample) for sample in samples if not sample.honest}
    known = {sample.name for sample in samples if sum(sample.margins[1:]) >= _ENOUGH}
    shown = [name for name in known if rates.get(name, 0.0) * POOL_TOKENS >= math.log(1 / ALPHA)]
    chosen = min(shown, key=rates.__getitem__) if shown else max(rates, key=rates.__getitem__)
    return drawn.model_copy(update={"pool": chosen})


def _pool_rate(calibration: Calibration, sample: Sample) -> float:
    """Nats a token by which a cheat with this sample's margins gives itself away in a pool that looks for it."""
    counts = np.asarray(sample.margins, dtype=np.float64)
    ratios = calibration.model_copy(update={"pool": sample.name}).pooled
    return float(counts @ ratios / counts.sum())


def _likelihood(runs: Sequence[Run]) -> Likelihood:
    """The limit from honest answers, the excess from the alternative hardest to see of those that MOST_TOKENS would show."""
    deviations = [_deviation(one) for run in runs if run.honest for one in run.measured]
    limit = max(NormalDist().inv_cdf(1 - ALPHA / 2), _FEW * max(map(abs, deviations)))
    variance = float(np.mean([one.variances.mean() for run in runs if run.honest for one in run.measured]))
    power = limit + NormalDist().inv_cdf(1 - BETA)
    least = max(power * math.sqrt(variance / MOST_TOKENS), _NO_EXCESS)
    found = [excess for run in runs if not run.honest if (excess := _excess(run)) >= least]
    return Likelihood(limit=limit, excess=min(found, default=least))


def _deviation(one: Measures) -> float:
    """By how many standard deviations an answer's surprisal exceeds its expectation."""
    spread = math.sqrt(float(one.variances.sum()))
    return float((one.surprisals - one.entropies).sum()) / spread if spread > 0 else 0.0


def _excess(run: Run) -> float:
    """Nats a token, without tokens that are forbidden: those show by themselves."""
    tokens = np.concatenate([one.surprisals - one.entropies for one in run.measured])
    drawn = np.concatenate([one.surprisals for one in run.measured]) < FORBIDDEN
    return abs(float(tokens[drawn].mean())) if drawn.any() else 0.0
