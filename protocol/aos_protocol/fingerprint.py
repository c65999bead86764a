"""Logit fingerprints: sixteen bytes a token that only whoever computed the model's logits can write.

The logits of a step, less their mean, are projected on 8 directions of +-1/sqrt(V) for a vocabulary of V tokens. The directions
come from the job's seed and the prover's name, so they cannot be known before the job is, and one operator's fingerprints are of
no use to another. A projection has about the size of the logits' own spread; it is kept in half precision, little-endian.

Sign of direction d at token t: bit d of output t of the SplitMix64 stream whose state is BLAKE2b-64 over the prover's name in UTF-8,
keyed with the seed (a set bit is +). The idea is TOPLOC's (arXiv 2501.16007) and Activation-DiFR's (arXiv 2511.20621), on logits.
"""

import base64
import hashlib
import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_protocol.errors import InvalidTranscript
from aos_protocol.sampling import splitmix64

DIRECTIONS: Final = 8
BYTES: Final = 2 * DIRECTIONS

Fingerprints: TypeAlias = NDArray[np.float16]

_SEED_BYTES: Final = 32
_PERSON: Final = b"aos/fingerprint1"


def directions(seed: bytes, prover: str, vocabulary: int) -> NDArray[np.float32]:
    """The directions of one job and prover: shape (vocabulary, 8). Raises InvalidTranscript unless `seed`, the job's, is 32 bytes."""
    if len(seed) != _SEED_BYTES:
        raise InvalidTranscript(f"The job's seed must be {_SEED_BYTES} bytes, not {len(seed)}.")
    state = hashlib.blake2b(prover.encode(), digest_size=8, key=seed, person=_PERSON).digest()
    stream = splitmix64(int.from_bytes(state, "little"), np.arange(vocabulary, dtype=np.int64))
    bits = np.unpackbits(
        stream.astype("<u8").view(np.uint8).reshape(vocabulary, 8)[:, :1], axis=1, bitorder="little"
    )
    # Each direction in one piece of memory, as `project` reads it.
    along = np.ascontiguousarray(bits.T).astype(np.float32)
    along *= 2
    along -= 1
    along /= np.float32(math.sqrt(vocabulary))
    return along.T


def project(logits: NDArray[np.float32], along: NDArray[np.float32]) -> Fingerprints:
    """The fingerprints of finite logits of shape (rows, vocabulary): shape (rows, 8). Infinite where half precision ends, at 65,504."""
    # Row by row: a product of matrices sums in another order, and then a row's fingerprint would depend on its neighbours. It may
    # also start threads, which wait for each other where others compute.
    fingerprints = np.empty((len(logits), DIRECTIONS), dtype=np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for fingerprint, row in zip(fingerprints, logits, strict=True):
            fingerprint[:] = np.vecdot(along.T, row - row.mean())
    return fingerprints


def pack(fingerprints: Fingerprints) -> bytes:
    """Sixteen bytes a row, rows in order."""
    return fingerprints.astype("<f2").tobytes()


def unpack(data: bytes) -> Fingerprints:
    """The rows of `pack`. Raises InvalidTranscript for half a row, or a number that is not finite."""
    if len(data) % BYTES:
        raise InvalidTranscript(
            f"Fingerprints come in {BYTES} bytes a token; {len(data)} bytes are no whole number of them."
        )
    fingerprints = np.frombuffer(data, dtype="<f2").reshape(-1, DIRECTIONS)
    if not np.isfinite(fingerprints).all():
        raise InvalidTranscript("A fingerprint holds a number that is not finite.")
    return fingerprints


def to_text(fingerprints: bytes) -> str:
    """Packed fingerprints as JSON carries them: base64 (RFC 4648, section 4)."""
    return base64.b64encode(fingerprints).decode()


def from_text(text: str, rows: int) -> bytes:
    """The packed fingerprints of exactly `rows` tokens. Raises InvalidTranscript for anything but their one encoding."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidTranscript("Fingerprints are no base64; send them as RFC 4648 encodes them.") from error
    if len(data) != rows * BYTES:
        raise InvalidTranscript(
            f"Fingerprints of {rows} tokens are the base64 of {rows * BYTES} bytes, not of {len(data)}."
        )
    if to_text(data) != text:
        raise InvalidTranscript("Fingerprints are no canonical base64; set the unused bits of its end to 0.")
    unpack(data)
    return data


def distances(claimed: Fingerprints, own: Fingerprints) -> NDArray[np.float64]:
    """Root mean square over the directions between two sets of fingerprints: one number a row.

    Raises InvalidTranscript when they are not of the same tokens' number.
    """
    if claimed.shape != own.shape:
        raise InvalidTranscript(f"Fingerprints of shape {claimed.shape} do not compare with {own.shape}.")
    apart = claimed.astype(np.float64) - own.astype(np.float64)
    return np.asarray(np.sqrt(np.mean(apart * apart, axis=1)), dtype=np.float64)
