"""What a verifier reads off the logits of one step: how well a claimed token fits them.

A verifier's logits differ a little from those that the token was drawn from (another batch, another machine), so the sampling rule is applied
with tolerances: EPSILON in logits, ETA in probability mass. Of a claimed token it gives, in the terms of `aos_protocol.sampling`,

    margin     the best rival's Gumbel score less the token's own, times the temperature (so in logits), 0 if the token wins.
               Rivals are the tokens that stay in the nucleus when weights heavier by EPSILON count as before them and top_p is less by ETA;
               a token that is outside even of the nucleus widened likewise is FORBIDDEN. At temperature 0: the greatest
               logit less the token's. Without a seed there is no noise to repeat, and no margin above temperature 0.
    surprisal  minus the logarithm of the token's probability within the nucleus, in nats; FORBIDDEN outside of the widened one
    entropy, variance    the mean and variance that the surprisal of a token drawn here would have

The margin is Token-DiFR's idea (arXiv 2511.20621); the tolerances keep honest flips at the nucleus' edge from being counted.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aos_protocol.errors import InvalidSampling
from aos_protocol.sampling import FloatArray, IntArray, check, fixed_weights, gumbel_scores, position_key, scale

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


def score_token(
    logits: NDArray[np.float32], token: int, seed: bytes | None, position: int, temperature: float, top_p: float
) -> TokenScore:
    """Score the claim that `token` was drawn at output position `position` from about these logits, shape (vocabulary,).

    `seed` is the sampling seed, 32 bytes. Raises InvalidSampling as `sampling.sample` does, and for a token that is not in
    the vocabulary.
    """
    check(logits, temperature, top_p)
    if not 0 <= token < logits.size:
        raise InvalidSampling(f"Token {token} is not in the vocabulary of {logits.size}.")
    if temperature == 0:
        behind = float(logits.max()) - float(logits[token])
        surprisal = 0.0 if behind <= EPSILON else FORBIDDEN
        return TokenScore(int(logits.argmax()), min(behind, FORBIDDEN), surprisal, 0.0, 0.0)
    return _Step(scale(logits, temperature), temperature, top_p).score(token, seed, position)


class _Step:
    """One step's distribution: candidates for its nucleus by falling weight, and the weight before each."""

    def __init__(self, scaled: FloatArray, temperature: float, top_p: float) -> None:
        fixed = fixed_weights(scaled)
        self._scaled = scaled
        self._temperature = temperature
        self._top_p = top_p
        self._total = int(fixed.sum())
        # A member's weight exceeds this (see `sampling`); the widened nucleus needs the lighter ones too.
        limit = min(top_p + ETA, 1.0) * self._total
        ids = np.flatnonzero(fixed >= max(int(self._total - limit) // scaled.size, 0))
        self._ids = ids[np.lexsort((ids, -fixed[ids]))] if top_p < 1 else ids
        self._sorted_scaled = scaled[self._ids]
        self._before = np.concatenate(([0], np.cumsum(fixed[self._ids]))) if top_p < 1 else None

    def score(self, token: int, seed: bytes | None, position: int) -> TokenScore:
        members = self._members()
        log_p = self._scaled[members] - math.log(float(np.exp(self._scaled[members]).sum()))
        p = np.exp(log_p)
        entropy = -float(p @ log_p)
        variance = max(float(p @ (log_p * log_p)) - entropy * entropy, 0.0)
        allowed = self._allowed(token)
        likelihood = float(self._scaled[token]) - float(self._scaled[members[0]]) + float(log_p[0])
        surprisal = min(max(-likelihood, 0.0), FORBIDDEN) if allowed else FORBIDDEN
        if seed is None:
            return TokenScore(int(self._scaled.argmax()), None, surprisal, entropy, variance)
        winner, margin = self._margin(token, members, position_key(seed, position))
        return TokenScore(winner, margin if allowed else FORBIDDEN, surprisal, entropy, variance)
