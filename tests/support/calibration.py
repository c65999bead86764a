"""A calibration of made-up numbers, for scores of made-up numbers: honest distances about 0.001, others about 0.3."""

from functools import cache

import numpy as np

from aos_protocol.calibration import Calibration, Likelihood, Sample, distance_counts, margin_counts

_COUNT = 20_000


@cache
def _sample(name: str, *, honest: bool, distance: float, wrong: float) -> Sample:
    """Distances spread about `distance` by a factor of 1.5; a share `wrong` of the margins is above 0, half a logit or so."""
    random = np.random.default_rng(len(name))
    margins = np.where(
        random.random(_COUNT) < wrong, random.exponential(0.5 if wrong > 0.01 else 0.005, _COUNT), 0.0
    )
    return Sample(
        name=name,
        honest=honest,
        answers=100,
        distances=distance_counts(distance * np.exp(random.normal(0, 0.4, _COUNT))),
        margins=margin_counts(margins),
    )


def calibration(model: str, *, alpha: float = 1e-6, beta: float = 1e-3) -> Calibration:
    """The calibration of the model with this SHA-256."""
    return Calibration(
        model=model,
        engine="made up",
        alpha=alpha,
        beta=beta,
        samples=[
            _sample("alone", honest=True, distance=0.001, wrong=0.001),
            _sample("batched", honest=True, distance=0.0015, wrong=0.002),
            _sample("coarser weights", honest=False, distance=0.3, wrong=0.03),
            _sample("other seed", honest=False, distance=0.001, wrong=0.6),
        ],
        pool="coarser weights",
        likelihood=Likelihood(limit=5.0, excess=0.2),
    )
