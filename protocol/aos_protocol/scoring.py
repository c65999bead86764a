"""What a verifier reads off the logits of one step: how well a claimed token fits them.

A verifier's logits differ a little from those that the token was drawn from (another batch, another machine), so the sampling rule is applied
with tolerances: EPSILON in logits, ETA in probability mass (at most half of top_p). Of a claimed token it gives, in the terms of
`aos_protocol.sampling`,

    margin     0 if the rule draws this token; else the best rival's Gumbel score less the token's own, times the temperature (so in logits),
               0 if there is no better one. Rivals are the tokens that would stay in the nucleus if all tokens lighter by up to EPSILON
               came before them, and top_p were less by ETA. FORBIDDEN for a token outside even of the nucleus where only tokens heavier
               by more than EPSILON come before it, and top_p is more by ETA. At temperature 0: the greatest logit less the token's.
               Without a seed there is no noise to repeat, and no margin above temperature 0.
    surprisal  minus the logarithm of the token's probability within the nucleus, in nats, where all tokens within EPSILON of the greatest
               logit count as likely as that: at a low temperature chance decides among them. FORBIDDEN where the margin would be so
    entropy, variance    the mean and variance that the surprisal of a token drawn from the nucleus has

At temperature 0 nothing is drawn: surprisal, entropy and variance are those of temperature 1 and top_p 1 then, and say how hard the tokens are to
guess. The margin is Token-DiFR's idea (arXiv 2511.20621); the tolerances keep honest flips at the nucleus' edge from being counted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aos_protocol.errors import InvalidSampling, InvalidTranscript
from aos_protocol.fingerprint import DIRECTIONS, Fingerprints, distances, project
from aos_protocol.sampling import (
    WEIGHT_ONE,
    FloatArray,
    IntArray,
    check,
    fixed_weights,
    gumbel_scores,
    nucleus,
    position_key,
    scale,
)
from aos_protocol.score_document import FORBIDDEN, Contradiction, Level, Score

__all__ = ["EPSILON", "ETA", "FORBIDDEN", "Accumulator", "TokenScore", "score_token"]

EPSILON: Final = 0.1
ETA: Final = 0.01

Number = TypeVar("Number", np.float64, np.int64)

_WEIGHTLESS: Final = -64.0
"""A scaled logit below which a token's weight is 0 for certain."""


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

    `seed` is the sampling seed, 32 bytes. Raises InvalidSampling as `sampling.sample` does, and for minus infinity among the logits
    or a token that is not in the vocabulary.
    """
    check(logits, temperature, top_p)
    if not math.isfinite(logits.min()):
        raise InvalidSampling("A logit is minus infinity: the model's output is unusable.")
    if not 0 <= token < logits.size:
        raise InvalidSampling(f"Token {token} is not in the vocabulary of {logits.size}.")
    if temperature == 0:
        surprisal, entropy, variance = _Step(logits, 1.0, 1.0).likelihood(token)
        behind = min(float(logits.max()) - float(logits[token]), FORBIDDEN)
        return TokenScore(int(logits.argmax()), behind, surprisal, entropy, variance)
    step = _Step(logits, temperature, top_p)
    winner, margin = int(logits.argmax()), None
    if seed is not None:
        winner, margin = step.draw(token, position_key(seed, position))
    surprisal, entropy, variance = step.likelihood(token)
    if token != winner and not step.allows(token):
        margin, surprisal = None if seed is None else FORBIDDEN, FORBIDDEN
    return TokenScore(winner, margin, surprisal, entropy, variance)


class _Step:
    """One step's distribution above temperature 0; logits are finite, of shape (vocabulary,)."""

    def __init__(self, logits: NDArray[np.float32], temperature: float, top_p: float) -> None:
        self._logits = logits
        self._temperature = temperature
        self._top_p = top_p
        self._eta = min(ETA, top_p / 2)
        self._scaled = scale(logits, temperature)
        self._weights = fixed_weights(self._scaled)
        self._total = int(self._weights.sum())
        self._members = nucleus(self._weights, top_p)

    def _of_members(self, numbers: NDArray[Number]) -> NDArray[Number]:
        """Those of the members, not to be changed: with top_p 1 they are no copy."""
        return numbers if self._top_p == 1 else numbers[self._members]

    def likelihood(self, token: int) -> tuple[float, float, float]:
        """Surprisal of the token, entropy and variance of surprisals, all within the nucleus."""
        chances = self._of_members(self._weights).astype(np.float64)
        total = float(chances.sum())
        chances /= total
        log_total = math.log(total / WEIGHT_ONE)
        scaled = np.maximum(self._of_members(self._scaled), _WEIGHTLESS)
        tied = EPSILON / self._temperature
        scaled[scaled >= -tied] = 0
        mean = float(chances @ scaled)
        scaled -= mean
        scaled *= scaled
        behind = -float(self._scaled[token])
        surprisal = log_total if behind <= tied else min(max(log_total + behind, 0.0), FORBIDDEN)
        return surprisal, max(log_total - mean, 0.0), float(chances @ scaled)

    def draw(self, token: int, key: int) -> tuple[int, float]:
        """The rule's own token, and by how much the best rival beats the claimed one, which is taken to be allowed."""
        ids = self._members
        scores = gumbel_scores(self._of_members(self._scaled), ids, key)
        winner = int(ids[scores.argmax()])
        if winner == token:
            return winner, 0.0
        own = gumbel_scores(self._scaled[[token]], np.array([token]), key)
        ahead = scores > own
        rival = self._best_rival(ids[ahead], scores[ahead])
        if rival is None:
            return winner, 0.0
        noise, own_noise = gumbel_scores(np.zeros(2), np.array([rival, token]), key)
        # Not from the scores, which a tiny temperature makes infinite.
        behind = float(self._logits[rival]) - float(self._logits[token])
        behind += self._temperature * float(noise - own_noise)
        return winner, min(max(behind, 0.0), FORBIDDEN)

    def allows(self, token: int) -> bool:
        """Whether the token may belong to the nucleus of who drew it."""
        cut = np.float64(self._logits[token]) + EPSILON
        before = int(self._weights[self._logits > cut].sum())
        return before < (self._top_p + self._eta) * self._total

    def _best_rival(self, ids: IntArray, scores: FloatArray) -> int | None:
        """The token with the greatest score that surely belongs to the nucleus. One that does not strikes all that are no likelier."""
        while ids.size:
            best = int(ids[scores.argmax()])
            if self._surely_belongs(best):
                return best
            likelier = self._logits[ids] > self._logits[best]
            ids, scores = ids[likelier], scores[likelier]
        return None

    def _surely_belongs(self, token: int) -> bool:
        if self._top_p == 1:
            return True
        cut = np.float64(self._logits[token]) - EPSILON
        before = int(self._weights[self._logits > cut].sum()) - int(self._weights[token])
        return before < (self._top_p - self._eta) * self._total


class Accumulator:
    """Takes the logits of a claimed answer's positions, in order, and sums them up in a `Score`.

    `seed` is the sampling seed (32 bytes) or None; `claimed` are the fingerprints to compare with, shape (positions, 8), and `along`
    the directions (vocabulary, 8) of whoever made them: both, and the seed with them, or neither. Raises InvalidTranscript otherwise.
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
        if (along is None) != (claimed is None) or (seed is None and along is not None):
            raise InvalidTranscript("Fingerprints are scored along directions, and beside a seed.")
        if claimed is not None and claimed.shape != (len(tokens), DIRECTIONS):
            raise InvalidTranscript(
                f"{len(tokens)} tokens have fingerprints of shape {(len(tokens), DIRECTIONS)}, not {claimed.shape}."
            )
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
        """Score the next positions: logits of shape (rows, vocabulary).

        Raises InvalidSampling for logits that are not finite, a token outside of the vocabulary, or more rows than positions are left.
        """
        first, left = len(self._scores), len(self._tokens) - len(self._scores)
        if logits.ndim != 2 or len(logits) > left:
            raise InvalidSampling(f"Logits of {left} positions are left to score, not {logits.shape}.")
        scores = [self._score(row, position) for position, row in enumerate(logits, start=first)]
        self._distances += self._compared(logits, first)
        self._scores += scores

    def score(
        self,
        subject: str,
        model: str,
        engine: str,
        ambiguous: int | None = None,
        contradiction: Contradiction | None = None,
    ) -> Score:
        """Sum up; the arguments are members of the `Score`, which this cannot know.

        Raises InvalidSampling while positions are left to score.
        """
        if not self.done:
            raise InvalidSampling(
                f"Only {len(self._scores)} of {len(self._tokens)} positions were scored; add the logits of the rest."
            )
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
            entropy=round(math.fsum(score.entropy for score in self._scores), 6),
            variance=round(math.fsum(score.variance for score in self._scores), 6),
            ambiguous=ambiguous,
            contradiction=contradiction,
        )

    def _score(self, row: NDArray[np.float32], position: int) -> TokenScore:
        try:
            return score_token(
                row, self._tokens[position], self._seed, position, self._temperature, self._top_p
            )
        except InvalidSampling as error:
            raise InvalidSampling(f"Output position {position}: {error}") from error

    def _compared(self, logits: NDArray[np.float32], first: int) -> list[float]:
        if self._along is None or self._claimed is None:
            return []
        own = project(logits, self._along)
        wrong = np.flatnonzero(~np.isfinite(own).all(axis=1))
        if wrong.size:
            raise InvalidSampling(
                f"Output position {first + int(wrong[0])}: the logits are too large for a fingerprint."
            )
        return list(map(float, distances(self._claimed[first : first + len(logits)], own)))

    def _level(self) -> Level:
        if self._along is not None:
            return "fingerprint"
        if self._temperature == 0:
            return "greedy"
        return "likelihood" if self._seed is None else "seeded"


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(number, 6) for number in numbers]
