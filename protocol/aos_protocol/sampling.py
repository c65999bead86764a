"""The sampling rule, version 1: which token follows from logits, a seed and a position.

Anybody who holds the logits of a step can repeat the draw, and position *i* needs no earlier state:

1. `scaled = (logits - max(logits)) / temperature`, in double precision.
2. A token's weight is `floor(exp(scaled) * 2**40)`, an integer, so that sums of weights are exact in any
   order. Let Z be their sum.
3. The nucleus: order tokens by falling weight, then rising id; a token belongs iff the weights before it sum
   to less than `top_p * Z` (the product rounded to double). With `top_p` 1 every token belongs.
4. `key` = BLAKE2b with an 8-byte digest, keyed with the sampling seed, over the position (64 bit, little-endian),
   read little-endian. The uniform of token t is output t of the SplitMix64 stream that starts in state `key`.
5. The token is the one in the nucleus with the greatest `scaled - log(-log(uniform))` (Gumbel-max: each token
   wins with its probability within the nucleus); the lowest id wins a tie.

Temperature 0 is argmax: no noise, the lowest id wins a tie. The end-of-sequence token is a token like others.
"""

import hashlib
import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_protocol.errors import InvalidSampling

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

RULE_VERSION: Final = 1

_SEED_DOMAIN: Final = b"aos/sampling/1"
_SEED_BYTES: Final = 32
WEIGHT_ONE: Final = 2.0**40  # 2**22 tokens of the greatest weight still sum to less than 2**63
_MAX_VOCABULARY: Final = 2**22

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def sampling_seed(job_seed: bytes) -> bytes:
    """The 32-byte sampling seed of a job: SHA-256 over a domain label and the job's seed (any length)."""
    return hashlib.sha256(_SEED_DOMAIN + job_seed).digest()


def position_key(seed: bytes, position: int) -> int:
    """The 64-bit noise key of output position `position` (0 is the first token that the model writes).

    Raises InvalidSampling for a seed that is not 32 bytes or a position outside 0..2**64-1.
    """
    if len(seed) != _SEED_BYTES:
        raise InvalidSampling(f"The sampling seed must be {_SEED_BYTES} bytes, not {len(seed)}.")
    if not 0 <= position < 2**64:
        raise InvalidSampling(f"The position must be in 0..2**64-1, not {position}.")
    message = position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(message, digest_size=8, key=seed).digest(), "little")


def splitmix64(state: int, numbers: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Outputs number `numbers` (from 0) of the SplitMix64 stream (Steele, Lea and Flood, 2014) that starts in `state`."""
    z = numbers.astype(np.uint64)
    z += np.uint64(1)
    z *= _GAMMA
    z += np.uint64(state)
    # One scratch array for everything: fresh ones of a vocabulary's size cost more than the arithmetic on them.
    scratch = z >> np.uint64(30)
    z ^= scratch
    z *= _MIX_1
    z ^= np.right_shift(z, np.uint64(27), out=scratch)
    z *= _MIX_2
    z ^= np.right_shift(z, np.uint64(31), out=scratch)
    return z


def uniforms(key: int, token_ids: NDArray[np.integer]) -> FloatArray:
    """Uniforms of tokens at one position: double precision, shape of `token_ids`, never 0 or 1.

    Each is SplitMix64 output number `id` of the stream that starts in state `key`. Its top 52 bits plus one half are
    scaled by 2**-52: with 53 bits the half would be rounded away near 1.
    """
    z = splitmix64(key, token_ids)
    z >>= np.uint64(12)
    u = np.add(z, 0.5, out=np.empty(z.shape))
    u *= 2.0**-52
    return u


def sample(logits: NDArray[np.float32], seed: bytes, position: int, temperature: float, top_p: float) -> int:
    """Draw the token id of output position `position` by rule version 1.

    `logits` has shape (vocabulary,); minus infinity forbids a token. Raises InvalidSampling for NaN, plus
    infinity or nothing but minus infinity among the logits, and for parameters out of range.
    """
    check(logits, temperature, top_p)
    if temperature == 0:
        return int(logits.argmax())
    scaled = scale(logits, temperature)
    key = position_key(seed, position)
    if top_p == 1:
        return int(gumbel_scores(scaled, np.arange(scaled.size, dtype=np.int64), key).argmax())
    return _draw_from_nucleus(scaled, key, top_p)


def check(logits: NDArray[np.float32], temperature: float, top_p: float) -> None:
    """Raise InvalidSampling for logits or parameters that `sample` refuses."""
    if logits.ndim != 1 or not 0 < logits.size <= _MAX_VOCABULARY:
        raise InvalidSampling(
            f"Logits must have one axis of 1..{_MAX_VOCABULARY} tokens, not {logits.shape}."
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidSampling(f"The temperature must be 0 or more and finite, not {temperature}.")
    if not 0 < top_p <= 1:
        raise InvalidSampling(f"top_p must be more than 0 and at most 1, not {top_p}.")
    greatest = logits.max()  # NaN if any logit is NaN
    if not math.isfinite(greatest):
        raise InvalidSampling(f"The greatest logit is {greatest}: the model's output is unusable.")


def scale(logits: NDArray[np.float32], temperature: float) -> FloatArray:
    """Logits less their maximum, over the temperature: the greatest is 0, whatever the temperature."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the greatest to minus infinity
        scaled /= temperature
    return scaled


def fixed_weights(scaled: FloatArray) -> IntArray:
    """The tokens' weights as integers (rule 2), shape of `scaled`."""
    weights = np.exp(scaled)
    weights *= WEIGHT_ONE
    return weights.astype(np.int64)


def gumbel_scores(scaled: FloatArray, token_ids: IntArray, key: int) -> FloatArray:
    """Gumbel-max scores of the tokens: `scaled` (already reduced to `token_ids`) plus their noise."""
    noise = uniforms(key, token_ids)
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.subtract(scaled, noise, out=noise)


def nucleus(weights: IntArray, top_p: float) -> IntArray:
    """The ids, rising, of the tokens that belong by rule 3, from the weights of the whole vocabulary."""
    if top_p == 1:
        return np.arange(weights.size, dtype=np.int64)
    ids, limit = _candidates(weights, top_p)
    weights = weights[ids]
    falling = np.sort(weights)[::-1]
    count = min(int(np.searchsorted(np.cumsum(falling), limit)) + 1, ids.size)
    lightest = falling[count - 1]
    members = weights > lightest
    members[np.flatnonzero(weights == lightest)[: count - int(np.count_nonzero(members))]] = True
    return np.compress(members, ids)


def _candidates(weights: IntArray, top_p: float) -> tuple[IntArray, int]:
    """The ids, rising, of the nucleus' members and of some lighter tokens; and the limit that weights before a member stay below.

    The tokens before a member weigh less than `limit`, so the member and those after it, at most V tokens none
    heavier than it, weigh more than Z - limit: a member's weight exceeds (Z - limit) / V.
    """
    total = int(weights.sum())
    limit = math.ceil(top_p * total)
    return np.flatnonzero(weights >= (total - limit) // weights.size), limit


def _draw_from_nucleus(scaled: FloatArray, key: int, top_p: float) -> int:
    """The winner within the nucleus, without sorting.

    Only candidates get noise. When their winner is no member, neither is any lighter candidate nor an equal one with
    a higher id: all of those are struck, and the next winner is looked at.
    """
    fixed = fixed_weights(scaled)
    ids, limit = _candidates(fixed, top_p)
    fixed = fixed[ids]
    scores = gumbel_scores(scaled[ids], ids, key)
    while True:
        best = int(scores.argmax())
        heavier = fixed > fixed[best]
        equal_before = fixed[:best] == fixed[best]
        before = int(fixed[heavier].sum()) + int(fixed[best]) * int(np.count_nonzero(equal_before))
        if before < limit:
            return int(ids[best])
        heavier[:best] |= equal_before
        ids, fixed, scores = ids[heavier], fixed[heavier], scores[heavier]
