"""Keys, addresses and EIP-191 signatures (secp256k1 through coincurve)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NoReturn

from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak

from aos_protocol.errors import InvalidAddress, InvalidKey, InvalidSignature

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_ORDER_BYTES = _ORDER.to_bytes(32, "big")
_HALF_ORDER_BYTES = (_ORDER // 2).to_bytes(32, "big")
_ZERO = bytes(32)
_KEYSTORE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, NotImplementedError)
_HEX_ADDRESS = re.compile(r"(?:0x)?([0-9a-fA-F]{40})")
_HEX_SECRET = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_HEX_SIGNATURE = re.compile(r"[0-9a-f]{130}")


class Signer:
    """One secp256k1 key: an AOS identity that signs messages and proves VRF outputs.

    Neither its repr nor an exception shows the secret, and it refuses to be pickled or copied.
    """

    __slots__ = ("_address", "_key", "_public_key")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32 or not _ZERO < secret < _ORDER_BYTES:
            raise InvalidKey(
                "a private key is 32 bytes between 1 and the group order; check the key you gave"
            )
        self._key = PrivateKey(bytes(secret))
        self._public_key: bytes = self._key.public_key.format()
        self._address = _address(self._key.public_key)

    @classmethod
    def from_hex(cls, text: str) -> Signer:
        """Read 64 hex digits, with or without 0x. Raises InvalidKey."""
        match = _HEX_SECRET.fullmatch(text)
        if match is None:
            raise InvalidKey("a private key is 64 hex digits, with or without 0x; check the key you gave")
        return cls(bytes.fromhex(match[1]))

    @classmethod
    def generate(cls) -> Signer:
        """Make a new key from the operating system's randomness."""
        return cls(PrivateKey().secret)

    @classmethod
    def from_keystore(cls, document: str, password: str) -> Signer:
        """Decrypt a Web3 secret storage (version 3) JSON document. Raises InvalidKey."""
        with recursion_limit_kept():
            from eth_account import Account
        try:
            keystore = dict(json.loads(document))
            signer = cls(bytes(Account.decrypt(keystore, password)))
            named = checksum_address(keystore.get("address", signer.address))
        except (*_KEYSTORE_ERRORS, InvalidAddress) as error:
            raise InvalidKey(
                "the keystore cannot be opened; check the password and that it is V3 JSON"
            ) from error
        if named != signer.address:
            raise InvalidKey("the keystore's address is not that of its key; restore the file from a copy")
        return signer

    def to_keystore(self, password: str) -> str:
        """Encrypt as Web3 secret storage (version 3, scrypt): a JSON document for a file of mode 0600."""
        with recursion_limit_kept():
            from eth_account import Account
        return json.dumps(Account.encrypt(self._key.secret, password))

    @property
    def address(self) -> str:
        """EIP-55 address: 0x and 40 hex digits."""
        return self._address

    @property
    def public_key(self) -> bytes:
        """Compressed SEC1 point, 33 bytes."""
        return self._public_key

    @property
    def secret(self) -> bytes:
        """The 32-byte scalar, for the VRF alone: it must never be logged or sent."""
        secret: bytes = self._key.secret
        return secret

    def sign_message(self, message: bytes) -> bytes:
        """EIP-191 personal_sign: r, s (low) and v (27 or 28) in 65 bytes."""
        return self._sign_digest(_message_digest(message))

    def _sign_digest(self, digest: bytes) -> bytes:
        # Only for digests of EIP-191 and EIP-712: a raw digest chosen by others could meet the
        # VRF's RFC 6979 nonce, which is derived from the same key, and give the key away.
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((27 + signature[64],))

    def __repr__(self) -> str:
        return f"Signer({self._address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Signer holds a private key and cannot be pickled or copied; pass the keystore instead"
        )


def recover_message(message: bytes, signature: bytes) -> str:
    """Find the EIP-55 address whose key made this EIP-191 signature (65 bytes). Raises InvalidSignature."""
    return recover_digest(_message_digest(message), signature)


def recover_digest(digest: bytes, signature: bytes) -> str:
    """Find the EIP-55 address whose key signed a 32-byte digest.

    Refuses what makes a signature ambiguous: s above half the group order (EIP-2), v other than 27
    and 28, r or s of 0 or at least the group order, any length but 65. Raises InvalidSignature.
    """
    if len(signature) != 65:
        raise InvalidSignature(f"a signature has 65 bytes (r, s, v), this one has {len(signature)}")
    r, s, v = signature[:32], signature[32:64], signature[64]
    if v not in {27, 28}:
        raise InvalidSignature(f"v is {v}; it must be 27 or 28")
    if not _ZERO < r < _ORDER_BYTES or not _ZERO < s < _ORDER_BYTES:
        raise InvalidSignature("r or s is not between 1 and the group order; sign again")
    if s > _HALF_ORDER_BYTES:
        raise InvalidSignature("s is in the upper half of the group order; send the low-s form (EIP-2)")
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except ValueError as error:
        raise InvalidSignature("no public key could have made this signature; sign again") from error
    return _address(key)


def parse_signature(text: str) -> bytes:
    """Read 130 lower-case hex digits, without 0x, as 65 bytes. Raises InvalidSignature."""
    if not isinstance(text, str) or _HEX_SIGNATURE.fullmatch(text) is None:
        raise InvalidSignature("a signature is 130 lower-case hex digits (r, s, v) without 0x; sign again")
    return bytes.fromhex(text)


@lru_cache(maxsize=4096)  # a key speaks more than once
def address_of(public_key: bytes) -> str:
    """EIP-55 address of a SEC1 public key (33 or 65 bytes). Raises InvalidKey."""
    try:
        return _address(PublicKey(bytes(public_key)))
    except ValueError as error:
        raise InvalidKey("a public key is a point of secp256k1 in SEC1 form; check the bytes") from error


def checksum_address(text: str) -> str:
    """EIP-55 form of an address given with or without 0x, in one case or with its right checksum.

    Raises InvalidAddress for a wrong checksum and for anything that is not 40 hex digits.
    """
    match = _HEX_ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidAddress(f"{text!r:.60} is no address; give 40 hex digits, with or without 0x")
    digits = match[1]
    right = _checksum(digits.lower())
    if digits not in {digits.lower(), digits.upper(), right[2:]}:
        raise InvalidAddress(f"{text} has a wrong EIP-55 checksum; it would be {right}")
    return right


@contextmanager
def recursion_limit_kept() -> Iterator[None]:
    """Import eth-account or web3 within this.

    Their dependency py_ecc raises the interpreter's recursion limit to 100,000, for which the C stack is
    too small: from then on, deeply nested JSON from anybody ends the process instead of raising.
    """
    limit = sys.getrecursionlimit()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _message_digest(message: bytes) -> bytes:
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)


def _address(key: PublicKey) -> str:
    return _address_of_point(key.format(compressed=False))


@lru_cache(maxsize=4096)
def _address_of_point(point: bytes) -> str:
    return _checksum(keccak(point[1:])[12:].hex())


@lru_cache(maxsize=4096)
def _checksum(digits: str) -> str:
    """EIP-55: a letter is upper-case where the keccak-256 of the digits has a nibble of 8 or more."""
    nibbles = keccak(digits.encode()).hex()
    return "0x" + "".join(c.upper() if n >= "8" else c for c, n in zip(digits, nibbles, strict=False))
