"""How likely a token was, and which others were likeliest in its place: the log-softmax of the model's own logits, before temperature and top-p."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_protocol.messages import TokenLogprob

Likely: TypeAlias = tuple[tuple[int, float], ...]
"""Tokens with their logprobs: the one that was drawn, then the likeliest, falling."""

_DIGITS = 6


class Vocabulary(Protocol):
    """What naming tokens needs of `llama.Model`."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...


def likely(logits: NDArray[np.float32], token: int, count: int) -> Likely:
    """The logprob of a token, and the `count` likeliest tokens with theirs, of logits of shape (vocabulary,) that can be sampled from.

    Of equals the lower ids come first. A token that the logits forbid is none of the likeliest.
    """
    greatest = logits.max()
    shifted = logits - greatest
    whole = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
    best = _best(logits, min(count, logits.size)) if count else ()
    chosen = (token, *(other for other in best if np.isfinite(logits[other])))
    return tuple((each, min(round(float(shifted[each]) - whole, _DIGITS), 0.0)) for each in chosen)


def _best(logits: NDArray[np.float32], count: int) -> Sequence[int]:
    """The ids of the greatest logits, falling, without sorting all."""
    least = np.partition(logits, logits.size - count)[logits.size - count]
    ids = np.flatnonzero(logits >= least)
    order = np.lexsort((ids, -logits[ids]))
    return [int(each) for each in ids[order[:count]]]


def named(vocabulary: Vocabulary, found: Likely) -> TokenLogprob:
    """The same with the tokens' texts: of bytes that are no character, and of U+0000, which no database stores, U+FFFD stands there."""
    (token, logprob), *best = found
    top = [(_text(vocabulary, other), value) for other, value in best]
    return TokenLogprob(token=_text(vocabulary, token), logprob=logprob, top=top)


def _text(vocabulary: Vocabulary, token: int) -> str:
    return vocabulary.piece(token).decode("utf-8", "replace").replace("\0", "\ufffd")
