"""What a verifier reads off the logits of one step: how well a claimed token fits them.

A verifier's logits differ a little from those that the token was drawn from (another batch, another machine), so the sampling rule is applied
with tolerances: EPSILON in logits, ETA in probability mass. Of a claimed token it gives, in the terms of `aos_protocol.sampling`,

    margin     the best rival's Gumbel score less the token's own, times the temperature (so in logits), 0 if the token wins.
               Rivals are the tokens that stay in the nucleus when weights heavier by EPSILON count as before them and top_p is less by ETA;
               a token that is outside even of the nucleus widened likewise is FORBIDDEN. At temperature 0: the greatest
               logit less the token's. Without a seed there is no noise to repeat, and no margin above temperature 0.
    surprisal  minus the logarithm of the token's probability within the nucleus, in nats; FORBIDDEN outside of the widened one.
               At temperature 0: in the plain distribution (temperature 1, no nucleus), where it tells how hard the token was to guess
    entropy, variance    the mean and variance that the surprisal of a token drawn here would have

The margin is Token-DiFR's idea (arXiv 2511.20621); the tolerances keep honest flips at the nucleus' edge from being counted.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aos_protocol.errors import InvalidSampling
from aos_protocol.fingerprint import Fingerprints, distances, project
from aos_protocol.sampling import FloatArray, IntArray, check, gumbel_scores, position_key, scale
from aos_protocol.score_document import Level, Score

EPSILON: Final = 0.1
ETA: Final = 0.01
FORBIDDEN: Final = 100.0
"""Stands for a margin or surprisal without bound; also the greatest that is reported."""


@dataclass(frozen=True)
class TokenScore:
    """How a claimed token fits the logits of its step; `winner` is the token that the rule draws from them.

    `margin` is None when there was no seed and the temperature is above 0; `winner` is then the likeliest token.
    """

    winner: int
    margin: float | None
    surprisal: float
    entropy: float
    variance: float


def score_token(  # noqa: PLR0917 (one draw's arguments, in the order of `sampling.sample`)
    logits: NDArray[np.float32],
    token: int,
    seed: bytes | None,
    position: int,
    temperature: float,
    top_p: float,
) -> TokenScore:
    """Score the claim that `token` was drawn at output position `position` from about these logits, shape (vocabulary,).

    `seed` is the sampling seed, 32 bytes. Raises InvalidSampling as `sampling.sample` does, and for a token that is not in
    the vocabulary.
    """
    check(logits, temperature, top_p)
    if not 0 <= token < logits.size:
        raise InvalidSampling(f"Token {token} is not in the vocabulary of {logits.size}.")
    if temperature == 0:
        behind = min(float(logits.max()) - float(logits[token]), FORBIDDEN)
        surprisal, entropy, variance = _Step(scale(logits, 1.0), 1.0, 1.0).likelihood(token)
        return TokenScore(int(logits.argmax()), behind, surprisal, entropy, variance)
    step = _Step(scale(logits, temperature), temperature, top_p)
    surprisal, entropy, variance = step.likelihood(token)
    if seed is None:
        return TokenScore(int(logits.argmax()), None, surprisal, entropy, variance)
    winner, margin = step.draw(token, position_key(seed, position))
    return TokenScore(winner, margin, surprisal, entropy, variance)


class _Step:
    """One step's distribution above temperature 0."""

    def __init__(self, scaled: FloatArray, temperature: float, top_p: float) -> None:
        self._scaled = scaled
        self._top_p = top_p
        self._temperature = temperature
        self._slack = EPSILON / temperature
        self._weights = np.exp(scaled)
        self._total = float(self._weights.sum())

    def likelihood(self, token: int) -> tuple[float, float, float]:
        """Surprisal of the token, entropy and variance of surprisals, all within the nucleus."""
        weights, scaled = self._nucleus()
        total = float(weights.sum())
        log_total = math.log(total)
        mean = float(weights @ scaled) / total
        entropy = log_total - mean
        variance = max(float(weights @ (scaled * scaled)) / total - mean * mean, 0.0)
        surprisal = log_total - float(self._scaled[token])
        if not self._may_be_member(token):
            surprisal = FORBIDDEN
        return min(max(surprisal, 0.0), FORBIDDEN), entropy, variance

    def draw(self, token: int, key: int) -> tuple[int, float]:
        """The rule's own token, and the claimed one's margin."""
        ids = self._candidates()
        scores = gumbel_scores(self._scaled[ids], ids, key)
        winner = _first(ids, scores, self._is_member)
        if winner is None:
            raise InvalidSampling("No token lies in the nucleus.")
        if winner == token:
            return winner, 0.0
        if not self._may_be_member(token):
            return winner, FORBIDDEN
        own = float(gumbel_scores(self._scaled[[token]], np.array([token]), key)[0])
        ahead = scores > own
        rival = _first(ids[ahead], scores[ahead], self._is_surely_member)
        if rival is None:
            return winner, 0.0
        best = float(scores[np.searchsorted(ids, rival)])
        return winner, min((best - own) * self._temperature, FORBIDDEN)

    def _nucleus(self) -> tuple[FloatArray, FloatArray]:
        """Weights and scaled logits of the nucleus' members (rule 3, without its rounding to integers)."""
        if self._top_p == 1:
            return self._weights, self._scaled
        ids = self._candidates()
        ids = ids[np.argsort(-self._weights[ids], kind="stable")]
        before = np.cumsum(self._weights[ids]) - self._weights[ids]
        members = ids[before < self._top_p * self._total]
        return self._weights[members], self._scaled[members]

    def _candidates(self) -> IntArray:
        """Every token of the nucleus and some lighter ones: see `sampling` on the least weight of a member."""
        if self._top_p == 1:
            return np.arange(self._scaled.size, dtype=np.int64)
        return np.flatnonzero(self._weights >= (1 - self._top_p) * self._total / self._scaled.size)

    def _mass_before(self, token: int, slack: float) -> float:
        """Which share of all weight is in tokens whose scaled logit exceeds the token's by more than `slack`, itself left out."""
        heavier = self._scaled > self._scaled[token] + slack
        heavier[token] = False
        return float(self._weights[heavier].sum()) / self._total

    def _is_member(self, token: int) -> bool:
        return self._top_p == 1 or self._mass_before(token, 0.0) < self._top_p

    def _may_be_member(self, token: int) -> bool:
        if self._top_p == 1:
            return bool(self._weights[token] > 0)
        return self._mass_before(token, self._slack) < self._top_p + ETA

    def _is_surely_member(self, token: int) -> bool:
        return self._top_p == 1 or self._mass_before(token, -self._slack) < self._top_p - ETA


def _first(ids: IntArray, scores: FloatArray, accept: Callable[[int], bool]) -> int | None:
    """The id with the greatest score that is accepted."""
    left = scores.copy()
    for _ in range(left.size):
        best = int(left.argmax())
        if accept(int(ids[best])):
            return int(ids[best])
        left[best] = -np.inf
    return None


class Accumulator:
    """Takes the logits of a claimed answer's positions, in order, and sums them up in a `Score`.

    `seed` is the sampling seed (32 bytes) or None; `claimed` are the fingerprints to compare with, shape (positions, 8), and `along`
    the directions (vocabulary, 8) of whoever made them; both or neither.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        temperature: float,
        top_p: float,
        *,
        seed: bytes | None = None,
        along: NDArray[np.float32] | None = None,
        claimed: Fingerprints | None = None,
    ) -> None:
        self._tokens = tokens
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed
        self._along = along
        self._claimed = claimed
        self._scores: list[TokenScore] = []
        self._distances: list[float] = []

    @property
    def done(self) -> bool:
        """Whether every position was scored."""
        return len(self._scores) == len(self._tokens)

    @property
    def winners(self) -> list[int]:
        """The verifier's own draw at each position scored so far."""
        return [score.winner for score in self._scores]

    def add(self, logits: NDArray[np.float32]) -> None:
        """Score the next positions: logits of shape (rows, vocabulary). Raises InvalidSampling for unusable logits or tokens."""
        first = len(self._scores)
        if self._along is not None and self._claimed is not None:
            claimed = self._claimed[first : first + len(logits)]
            self._distances += distances(claimed, project(logits, self._along)).tolist()
        for position, row in enumerate(logits, start=first):
            token = self._tokens[position]
            self._scores.append(score_token(row, token, self._seed, position, self._temperature, self._top_p))

    def score(self, subject: str, model: str, engine: str, ambiguous: int | None = None) -> Score:
        """Sum up: `subject` and `model` are digests, `engine` the build that computed. Every position must have been scored."""
        margins = [score.margin for score in self._scores if score.margin is not None]
        return Score(
            level=self._level(),
            subject=subject,
            model=model,
            engine=engine,
            positions=len(self._tokens),
            distances=_rounded(self._distances) if self._along is not None else None,
            margins=_rounded(margins) if margins else None,
            surprisals=_rounded(score.surprisal for score in self._scores),
            winners=self.winners,
            entropy=round(sum(score.entropy for score in self._scores), 6),
            variance=round(sum(score.variance for score in self._scores), 6),
            ambiguous=ambiguous,
        )

    def _level(self) -> Level:
        if self._along is not None and self._seed is not None:
            return "fingerprint"
        if self._temperature == 0:
            return "greedy"
        return "likelihood" if self._seed is None else "seeded"


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 6) for number in numbers]
