"""A provider's identity: a secp256k1 key that follows from its `userSecret`.

    key = 1 + (scrypt(secret, "AOS provider identity, version 1", N = 2^17, r = 8, p = 1, 48 bytes) mod (n - 1))

scrypt is RFC 7914's; the secret is its UTF-8 in Unicode's normal form C, n the group's order, and the 48 bytes are read big-endian: 16 bytes
more than n has, so that no key is noticeably likelier than another. The salt is the same for everybody, so that the secret alone is
the identity. The address is public: who guesses a secret can tell, at half a second and 128 MiB a guess. Hence weak secrets are refused.
"""

import hashlib
import math
import string
import unicodedata
from typing import Final

from coincurve.utils import GROUP_ORDER_INT

from aos_protocol.identity import Signer

SALT: Final = b"AOS provider identity, version 1"
LEAST: Final = 12
"""Characters of a secret, at the least."""

_WEAK_BITS: Final = 72
_SAMPLES: Final = (
    "supersecretpassword",
    "usersecret",
    "changeme",
    "password",
    "secret",
    "12345678",
    "qwertyui",
    "letmein",
    "provider",
)
"""What examples have, and what everybody tries first: such a word may be a part of a secret, but not most of it."""

_CLASSES: Final = (string.ascii_lowercase, string.ascii_uppercase, string.digits, string.punctuation + " ")


def derive(secret: str) -> Signer:
    """Return the identity of a secret. It takes half a second of computing and 128 MiB, by design."""
    text = unicodedata.normalize("NFC", secret).encode()
    drawn = hashlib.scrypt(text, salt=SALT, n=2**17, r=8, p=1, maxmem=2**28, dklen=48)
    return Signer((int.from_bytes(drawn) % (GROUP_ORDER_INT - 1) + 1).to_bytes(32))


def check_secret(secret: str) -> None:
    """Raise `ValueError` for a secret that is short, all of a kind, or from an example."""
    remedy = "anybody could guess it and sign as you: `aos provider --init` makes a good one"
    if len(secret) < LEAST:
        raise ValueError(f"must have {LEAST} characters or more; {remedy}")
    if any(
        len(secret) - len(sample) < LEAST and sample in secret.lower().replace(" ", "") for sample in _SAMPLES
    ):
        raise ValueError(f"is one of those in examples, or nearly; {remedy}")
    if len(set(secret)) < 6 or "supersecretpassword" in secret.lower():
        raise ValueError(f"repeats itself, or stands in an example; {remedy}")


def looks_weak(secret: str) -> bool:
    """Whether a secret would be weak even if its characters were drawn at random; one that is not may still be easy to guess."""
    size = sum(len(one) for one in _CLASSES if set(one) & set(secret)) or len(string.ascii_letters)
    return len(secret) * math.log2(size) < _WEAK_BITS
