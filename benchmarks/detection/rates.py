"""ROC areas, and rates with their confidence intervals."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def roc_area(honest: ArrayLike, cheats: ArrayLike) -> float:
    """The chance that a cheat's statistic exceeds an honest one's, equal ones counted half (Mann and Whitney)."""
    own, other = np.sort(np.asarray(honest)), np.asarray(cheats)
    below = np.searchsorted(own, other, side="left")
    upto = np.searchsorted(own, other, side="right")
    return float((below + upto).mean() / (2 * own.size))


def interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a rate."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _solve(lambda rate: 1 - _at_most(hits - 1, trials, rate), tail)
    high = 1.0 if hits == trials else _solve(lambda rate: -_at_most(hits, trials, rate), -tail)
    return low, high


def proportion(hits: int, trials: int) -> str:
    """A count as a rate, with its interval, for a table."""
    low, high = interval(hits, trials)
    return f"{hits} = {hits / trials:.2%} ({low:.2%} to {high:.2%})"


def _at_most(hits: int, trials: int, rate: float) -> float:
    """The chance of at most so many hits."""
    logs = math.log(rate), math.log1p(-rate)
    terms = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * logs[0]
        + (trials - k) * logs[1]
        for k in range(hits + 1)
    )
    return math.fsum(map(math.exp, terms))


def _solve(rising: Callable[[float], float], target: float) -> float:
    """Where a rising function of a rate reaches the target."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2
