"""A model's calibration: which numbers honest operators were measured to give, and which ones every cheat that was tried gave.

Scores are judged by likelihood ratios, so a calibration is a set of histograms. Each `Sample` is one way to run, or to cheat on, the model: how
often its distances and margins (see `aos_protocol.scoring`) fell into each bin. Bins are spaced evenly in the logarithm; the first holds everything
below, the last everything above; a margin of 0 has a bin of its own.

Two things keep the ratios honest. One answer's numbers are not independent: a prompt with flat logits has small distances throughout, one with
many close calls many margins. So every sample stands for a family: its histogram with the distances scaled (`_SCALES`), or the rate of margins above 0
multiplied (`_RATES`), and the member that suits an answer best speaks for it. And where nothing was seen, nothing is concluded too fast: an empty
bin has at least half a count, and beyond the greatest number seen honestly, chances fall with the cube of the ratio to it and no faster.
"""

import math
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from aos_protocol.canonical import JsonObject, digest
from aos_protocol.fields import Hex32, Message, ShortText, parse_message

VERSION: Final = "aos-calibration/1"

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = Annotated[list[Annotated[int, Field(ge=0, le=2**53 - 1)]], Field(max_length=256)]

_DISTANCES_A_DECADE: Final = 16
_MARGINS_A_DECADE: Final = 8
DISTANCE_EDGES: Final = 10.0 ** np.arange(-3.0, 1.0 + 1e-9, 1 / _DISTANCES_A_DECADE)
"""Edges of the bins of distances: 16 a decade from 0.001 to 10."""
MARGIN_EDGES: Final = np.concatenate(([1e-9], 10.0 ** np.arange(-3.0, 1.0 + 1e-9, 1 / _MARGINS_A_DECADE)))
"""Edges of the bins of margins: 0 by itself, then 8 a decade from 0.001 to 10."""

_EDITED: Final = [98_000, *([2_000 // MARGIN_EDGES.size] * MARGIN_EDGES.size)]
"""Margins of an honest answer in which one token in fifty was exchanged for any other."""
_SCALES: Final = (-3, -2, -1, 0, 1, 2, 3)
_RATES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)


def distance_counts(values: ArrayLike) -> list[int]:
    """How many of these distances fall into each bin."""
    return _counts(values, DISTANCE_EDGES)


def margin_counts(values: ArrayLike) -> list[int]:
    """How many of these margins, in logits, fall into each bin."""
    return _counts(values, MARGIN_EDGES)


def _counts(values: ArrayLike, edges: Floats) -> list[int]:
    bins = np.searchsorted(edges, np.asarray(values, dtype=np.float64), side="right")
    return [int(count) for count in np.bincount(bins, minlength=edges.size + 1)]


class Sample(Message):
    """What one way of running the model (`honest`), or of cheating on it, measured over `answers` answers."""

    name: ShortText
    honest: bool
    answers: int = Field(ge=1)
    distances: Counts
    margins: Counts

    @model_validator(mode="after")
    def _has_every_bin(self) -> Self:
        if (len(self.distances), len(self.margins)) != (DISTANCE_EDGES.size + 1, MARGIN_EDGES.size + 1):
            raise ValueError(f"sample {self.name!r} does not have a count for each bin")
        if not (sum(self.distances) and sum(self.margins)):
            raise ValueError(f"sample {self.name!r} is empty")
        return self


class Likelihood(Message):
    """For claims without a seed: how far an honest answer's surprisal may lie from its expectation, in standard deviations, and
    the least excess, in nats a token, of the alternatives that are to be told apart."""

    limit: float = Field(gt=0, allow_inf_nan=False)
    excess: float = Field(gt=0, allow_inf_nan=False)


class Calibration(Message):
    """The document beside a model's file; `model` is the file's SHA-256, and nothing else is judged by it.

    `alpha` is the chance to call an honest answer a `mismatch`, `beta` that to call one of the alternatives a `match`. `pool` names the
    alternative that an operator's answers are tested for together (`aos_protocol.pool`).
    """

    version: Literal["aos-calibration/1"] = VERSION
    model: Hex32
    engine: ShortText
    alpha: float = Field(gt=0, lt=1)
    beta: float = Field(gt=0, lt=1)
    samples: Annotated[list[Sample], Field(max_length=256)]
    pool: ShortText
    likelihood: Likelihood

    @model_validator(mode="after")
    def _can_decide(self) -> Self:
        names = [sample.name for sample in self.samples]
        if len(set(names)) != len(names):
            raise ValueError("two samples have one name")
        if {sample.honest for sample in self.samples} != {True, False}:
            raise ValueError("a calibration needs honest samples and alternatives")
        if self.pool not in {sample.name for sample in self.samples if not sample.honest}:
            raise ValueError(f"there is no alternative {self.pool!r} to pool answers for")
        return self

    @classmethod
    def from_json(cls, document: JsonObject) -> Self:
        """Raises InvalidMessage for anything but a calibration."""
        return parse_message(cls, document)

    def digest(self) -> str:
        """SHA-256 hex of the canonical JSON."""
        return digest(self.to_json())

    @cached_property
    def distances(self) -> "Ratio":
        """The likelihood ratios of distances."""
        honest = [(s.name, _scaled(s.distances, self._seen_distances)) for s in self.samples if s.honest]
        others = [(s.name, _scaled(s.distances, self._seen_distances)) for s in self.samples if not s.honest]
        return Ratio(DISTANCE_EDGES, honest, others, self.beta)

    @cached_property
    def margins(self) -> "Ratio":
        """The likelihood ratios of margins."""
        honest = [(s.name, _rated(s.margins, self._seen_margins)) for s in self.samples if s.honest]
        others = [(s.name, _rated(s.margins, self._seen_margins)) for s in self.samples if not s.honest]
        others.append(("edited tokens", _rated(_EDITED, self._seen_margins)))
        return Ratio(MARGIN_EDGES, honest, others, self.beta)

    @cached_property
    def pooled(self) -> Floats:
        """For each bin of margins, how much likelier (in nats) the alternative `pool` fills it than the honest sample most like it."""
        base = {
            s.name: np.log(_rated(s.margins, self._seen_margins)[_RATES.index(1.0)]) for s in self.samples
        }
        other = base[self.pool]
        likest = min(
            (base[s.name] for s in self.samples if s.honest),
            key=lambda own: float(np.exp(own) @ (own - other)),
        )
        return np.asarray(other - likest, dtype=np.float64)

    @property
    def reach(self) -> int:
        """How many of an answer's tokens these numbers speak for: as many as the honest answers that were measured have, MOST_TOKENS at least.

        Noise grows with a token's place, most where a model goes beyond the lengths that it was trained on.
        """
        measured = min(sum(s.distances) // s.answers for s in self.samples if s.honest)
        return max(measured, MOST_TOKENS)

    @property
    def _seen_distances(self) -> int:
        return max(int(np.flatnonzero(sample.distances)[-1]) for sample in self.samples if sample.honest)

    @property
    def _seen_margins(self) -> int:
        return max(int(np.flatnonzero(sample.margins)[-1]) for sample in self.samples if sample.honest)


class Ratio:
    """Tells one kind of number's honest samples from its alternatives.

    Every alternative is joined by `anything`, which spreads over all bins alike and stands for what was not tried.
    """

    def __init__(
        self,
        edges: Floats,
        honest: list[tuple[str, Floats]],
        others: list[tuple[str, Floats]],
        beta: float,
    ) -> None:
        self._edges = edges
        bins = edges.size + 1
        self._honest = np.log(np.concatenate([family for _, family in honest]))
        self._others = [(name, np.log(family)) for name, family in others]
        self._others.append(("anything", np.full((1, bins), -math.log(bins))))
        together = [_log_mean(family) for _, family in self._others]
        self._alone: Floats = _log_mean(together) - self._honest.max(axis=0)
        self._rates = {name: self._rate(family) for name, family in self._others}
        self._needed = math.log(1 / beta)

    def against(self, values: ArrayLike) -> float:
        """Logarithm of how much likelier the alternatives, taken together, make these numbers than the honest sample that suits them best.

        Half of the weight is theirs throughout, the other half on a single position, any of them, in an otherwise honest answer. Under
        any one honest sample the ratio's mean is at most 1 after any count of numbers, so it exceeds 1 / alpha with
        a chance of at most alpha (Ville's inequality), whenever one looks.
        """
        counts = self._counted(values)
        if not counts.any():
            return 0.0
        throughout = _log_mean([_log_mean(family @ counts) for _, family in self._others])
        once = _log_mean(self.by_position(values))
        return float(_log_mean([throughout - self._best_honest(counts), once]))

    def excluded(self, values: ArrayLike) -> float:
        """Logarithm of how much likelier the best honest sample makes these numbers than any alternative that can be told apart."""
        counts = self._counted(values)
        best = max(float((family @ counts).max()) for name, family in self._others if self._told_apart(name))
        return self._best_honest(counts) - best

    def nearest(self, values: ArrayLike) -> str:
        """The alternative under which these numbers are likeliest."""
        counts = self._counted(values)
        return max(self._others, key=lambda named: float((named[1] @ counts).max()))[0]

    def by_position(self, values: ArrayLike) -> Floats:
        """Position by position, the logarithm of how much likelier the alternatives make the number than any honest sample."""
        return self._alone[np.searchsorted(self._edges, np.asarray(values, dtype=np.float64), side="right")]

    def tokens(self) -> int:
        """How many tokens an honest answer needs, on average, to exclude every alternative that can be told apart."""
        return math.ceil(
            self._needed / min(rate for name, rate in self._rates.items() if self._told_apart(name))
        )

    def _told_apart(self, name: str) -> bool:
        """Whether an answer of MOST_TOKENS would do; `anything` always counts."""
        return name == "anything" or self._rates[name] * MOST_TOKENS >= self._needed

    def _rate(self, family: Floats) -> float:
        """Nats a token that an honest answer gives against the family: Kullback and Leibler's divergence, the least of all pairs."""
        chances = np.exp(self._honest)
        own = np.sum(chances * self._honest, axis=1, keepdims=True)
        return max(float((own - chances @ family.T).min()), 0.0)

    def _counted(self, values: ArrayLike) -> Floats:
        return np.asarray(_counts(values, self._edges), dtype=np.float64)

    def _best_honest(self, counts: Floats) -> float:
        return float((self._honest @ counts).max())


def _log_mean(logarithms: ArrayLike) -> Any:  # noqa: ANN401 (as many dimensions less one)
    """The logarithm of the mean, along the first axis, of numbers given by their logarithms."""
    values = np.asarray(logarithms, dtype=np.float64)
    return np.logaddexp.reduce(values, axis=0) - math.log(len(values))


MOST_TOKENS: Final = 512
"""An alternative that an answer of this length cannot be told from is left to the pool of an operator's answers."""


def _smooth(counts: list[int], seen: int, a_decade: int) -> Floats:
    """Chances from counts; `seen` is the last bin in which an honest number was found."""
    raw = np.asarray(counts, dtype=np.float64)
    blurred = np.convolve(raw, [0.1, 0.8, 0.1], mode="same")
    beyond = np.maximum(np.arange(raw.size) - seen, 0)
    return np.asarray(blurred + 0.5 * 10.0 ** (-3 * beyond / a_decade), dtype=np.float64)


def _scaled(counts: list[int], seen: int) -> Floats:
    """The family of a sample's distances: shape (members, bins)."""
    chances = _smooth(counts, seen, _DISTANCES_A_DECADE)
    members = [np.roll(np.pad(chances, 4, mode="edge"), shift)[4:-4] for shift in _SCALES]
    return np.asarray([member / member.sum() for member in members], dtype=np.float64)


def _rated(counts: list[int], seen: int) -> Floats:
    """The family of a sample's margins: shape (members, bins)."""
    above = _smooth(counts[1:], seen - 1, _MARGINS_A_DECADE)
    share = (sum(counts[1:]) + 1) / (sum(counts) + 1)
    rates = np.minimum(share * np.asarray(_RATES), 0.95)[:, None]
    return np.concatenate([1 - rates, rates * above / above.sum()], axis=1)
