"""ECVRF by RFC 9381: an output that only the key's owner can compute and everybody can check."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Generic

from aos_protocol.curves import P256, SECP256K1, Curve, Point
from aos_protocol.errors import InvalidKey, InvalidProof
from aos_protocol.identity import Signer

_POINT, _CHALLENGE, _SCALAR = 33, 16, 32
PROOF_SIZE = _POINT + _CHALLENGE + _SCALAR


class Ecvrf(Generic[Point]):
    """A ciphersuite of RFC 9381 with SHA-256 and try-and-increment over a 256-bit curve of cofactor 1."""

    def __init__(self, curve: Curve[Point], suite: bytes) -> None:
        self._curve = curve
        self._suite = suite

    def prove(self, secret: bytes, alpha: bytes) -> bytes:
        """Prove the output for `alpha`: 81 bytes, Gamma, c and s (RFC 9381 section 5.1).

        Raises InvalidKey unless `secret` is 32 bytes between 1 and the group order.
        """
        base = self._curve.multiply_base(self._scalar(secret))
        if base is None:
            raise InvalidKey
        return self._prove(secret, self._curve.encode(base), alpha)

    def verify(self, public_key: bytes, alpha: bytes, proof: bytes) -> bytes:
        """Check a proof and give the 32-byte output (RFC 9381 section 5.3, key validated).

        Raises InvalidProof when the key or the proof is malformed or does not hold.
        """
        curve = self._curve
        key = curve.decode(public_key)
        gamma, c, s = self._decode_proof(proof)
        h = self.encode_to_curve(public_key, alpha)
        u = curve.multiply_add_base(-c, key, s)
        v = curve.add(curve.multiply(s, h), curve.multiply(-c, gamma))
        # k * B and k * H of an honest prover are never infinity.
        if u is None or v is None:
            raise InvalidProof
        h_and_gamma = curve.encode(h) + proof[:_POINT]
        if c != self._challenge(public_key + h_and_gamma + curve.encode(u) + curve.encode(v)):
            raise InvalidProof
        return self._output(proof[:_POINT])

    def proof_to_hash(self, proof: bytes) -> bytes:
        """Output of a proof that is known to be good: 32 bytes, unchecked (RFC 9381 section 5.2).

        Raises InvalidProof when the proof cannot be decoded.
        """
        self._decode_proof(proof)
        return self._output(proof[:_POINT])

    def encode_to_curve(self, public_key: bytes, alpha: bytes) -> Point:
        """Hash to a point by try-and-increment, salted with the key (RFC 9381 section 5.4.1.1).

        Takes longer for some inputs than for others, so `alpha` must not be secret.
        """
        prefix = self._suite + b"\x01" + public_key + alpha
        for counter in range(256):
            candidate = sha256(prefix + bytes((counter, 0))).digest()
            try:
                return self._curve.decode(b"\x02" + candidate)
            except InvalidProof:
                continue
        raise InvalidProof("no counter maps this input to the curve; change the input")

    def _prove(self, secret: bytes, public_key: bytes, alpha: bytes) -> bytes:
        curve = self._curve
        x = self._scalar(secret)
        h = self.encode_to_curve(public_key, alpha)
        h_string = curve.encode(h)
        k = rfc6979_nonce(x, h_string, curve.order)
        u = curve.multiply_base(k)
        gamma, v = curve.multiply_secret((x, k), h)
        if gamma is None or u is None or v is None:
            raise InvalidKey  # unreachable in a group of prime order: x, k and h are not zero
        gamma_string = curve.encode(gamma)
        c = self._challenge(public_key + h_string + gamma_string + curve.encode(u) + curve.encode(v))
        s = (k + c * x) % curve.order
        return gamma_string + c.to_bytes(_CHALLENGE, "big") + s.to_bytes(_SCALAR, "big")

    def _challenge(self, points: bytes) -> int:
        return int.from_bytes(sha256(self._suite + b"\x02" + points + b"\x00").digest()[:_CHALLENGE], "big")

    def _output(self, gamma: bytes) -> bytes:
        return sha256(self._suite + b"\x03" + gamma + b"\x00").digest()

    def _decode_proof(self, proof: bytes) -> tuple[Point, int, int]:
        if len(proof) != PROOF_SIZE:
            raise InvalidProof(f"a proof has {PROOF_SIZE} bytes, this one has {len(proof)}")
        gamma = self._curve.decode(proof[:_POINT])
        c = int.from_bytes(proof[_POINT : _POINT + _CHALLENGE], "big")
        s = int.from_bytes(proof[_POINT + _CHALLENGE :], "big")
        if s >= self._curve.order:
            raise InvalidProof("s is not below the group order; prove again")
        return gamma, c, s

    def _scalar(self, secret: bytes) -> int:
        x = int.from_bytes(secret, "big")
        if len(secret) != _SCALAR or not 0 < x < self._curve.order:
            raise InvalidKey("a VRF key is 32 bytes between 1 and the group order; check the key you gave")
        return x


def rfc6979_nonce(secret: int, message: bytes, order: int) -> int:
    """Deterministic nonce in [1, order) for a 256-bit order (RFC 6979 section 3.2 with SHA-256).

    RFC 9381 section 5.4.2.1 passes the encoded point H as `message`.
    """
    digest = int.from_bytes(sha256(message).digest(), "big") % order
    seed = secret.to_bytes(32, "big") + digest.to_bytes(32, "big")
    key, value = bytes(32), b"\x01" * 32
    for separator in (b"\x00", b"\x01"):
        key = hmac.digest(key, value + separator + seed, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        nonce = int.from_bytes(value, "big")
        if 0 < nonce < order:
            return nonce
        key = hmac.digest(key, value + b"\x00", "sha256")
        value = hmac.digest(key, value, "sha256")


ECVRF_P256_SHA256_TAI = Ecvrf(P256, b"\x01")
ECVRF_SECP256K1_SHA256_TAI = Ecvrf(SECP256K1, b"\xfe")


def prove(signer: Signer, alpha: bytes) -> bytes:
    """Prove the signer's output for `alpha` with ECVRF-SECP256K1-SHA256-TAI: 81 bytes."""
    return ECVRF_SECP256K1_SHA256_TAI._prove(signer.secret, signer.public_key, alpha)


def verify(public_key: bytes, alpha: bytes, proof: bytes) -> bytes:
    """Check a proof of ECVRF-SECP256K1-SHA256-TAI and give its 32-byte output. Raises InvalidProof."""
    return ECVRF_SECP256K1_SHA256_TAI.verify(public_key, alpha, proof)
