"""Prime-order elliptic curves behind one interface, so that one ECVRF runs on all of them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol, TypeVar

import ecdsa
from coincurve import PublicKey
from ecdsa.ellipticcurve import INFINITY, PointJacobi
from ecdsa.errors import MalformedPointError

from aos_protocol.errors import InvalidProof

Point = TypeVar("Point")


class Curve(Protocol[Point]):
    """A group of prime order (cofactor 1) with 33-byte compressed SEC1 points; None is infinity."""

    @property
    def order(self) -> int:
        """Number of points, q."""

    def decode(self, data: bytes) -> Point:
        """Read a compressed point. Raises InvalidProof when `data` is not exactly one."""

    def encode(self, point: Point) -> bytes:
        """Write a point compressed, 33 bytes."""

    def add(self, left: Point | None, right: Point | None) -> Point | None:
        """Sum of two points."""

    def multiply(self, scalar: int, point: Point) -> Point | None:
        """Multiply by a public scalar; the time taken may depend on it."""

    def multiply_secret(self, scalars: Sequence[int], point: Point) -> list[Point | None]:
        """Multiply one point by secret scalars, hiding them as well as the curve's library allows."""

    def multiply_base(self, scalar: int) -> Point | None:
        """Multiply the generator by a scalar that may be secret."""

    def multiply_add_base(self, scalar: int, point: Point, base_scalar: int) -> Point | None:
        """`scalar * point + base_scalar * generator` for public scalars."""


class Secp256k1:
    """secp256k1 on libsecp256k1 (coincurve)."""

    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

    def decode(self, data: bytes) -> PublicKey:
        """Read a compressed point. Raises InvalidProof when `data` is not exactly one."""
        try:
            if len(data) == 33:
                return PublicKey(bytes(data))
        except ValueError as error:
            raise InvalidProof("these 33 bytes are no compressed point of secp256k1") from error
        raise InvalidProof(f"a compressed point has 33 bytes, this has {len(data)}")

    def encode(self, point: PublicKey) -> bytes:
        """Write a point compressed, 33 bytes."""
        encoded: bytes = point.format()
        return encoded

    def add(self, left: PublicKey | None, right: PublicKey | None) -> PublicKey | None:
        """Sum of two points."""
        if left is None or right is None:
            return right if left is None else left
        try:
            return PublicKey.combine_keys([left, right])
        except ValueError:
            # libsecp256k1 has no encoding for infinity and refuses exactly this sum.
            return None

    def multiply(self, scalar: int, point: PublicKey) -> PublicKey | None:
        """Multiply by a public scalar; the time taken depends on it."""
        scalar %= self.order
        return point.multiply(scalar.to_bytes(32, "big")) if scalar else None

    def multiply_secret(self, scalars: Sequence[int], point: PublicKey) -> list[PublicKey | None]:
        """Multiply one point by secret scalars, each split into a random share and the rest.

        libsecp256k1's multiplication of an arbitrary point takes variable time, and the timings of many
        proofs add up to the key; those of a fresh random share and of what it leaves tell nothing.
        """
        share = secrets.randbelow(self.order)
        common = self.multiply(share, point)
        return [self.add(common, self.multiply(scalar - share, point)) for scalar in scalars]

    def multiply_base(self, scalar: int) -> PublicKey | None:
        """Multiply the generator by a scalar that may be secret (constant time)."""
        scalar %= self.order
        return PublicKey.from_valid_secret(scalar.to_bytes(32, "big")) if scalar else None

    def multiply_add_base(self, scalar: int, point: PublicKey, base_scalar: int) -> PublicKey | None:
        """`scalar * point + base_scalar * generator` for public scalars."""
        product = self.multiply(scalar, point)
        if product is None:
            return self.multiply_base(base_scalar)
        try:
            return product.add((base_scalar % self.order).to_bytes(32, "big"))
        except ValueError:
            # The tweak is in range, so the only sum that libsecp256k1 refuses is infinity.
            return None


class EcdsaCurve:
    """Any 256-bit prime-order Weierstrass curve of the pure Python `ecdsa` package.

    Slow and not constant-time: for test vectors and cross-checks, not for keys of value.
    """

    def __init__(self, curve: ecdsa.curves.Curve) -> None:
        self._curve = curve
        self.order: int = int(curve.order)

    def decode(self, data: bytes) -> PointJacobi:
        """Read a compressed point. Raises InvalidProof when `data` is not exactly one."""
        # SEC1 2.3.4: x is a field element. The package takes greater ones too and reduces them.
        reduced = int.from_bytes(data[1:], "big") < self._curve.curve.p()
        try:
            if reduced:
                return PointJacobi.from_bytes(
                    self._curve.curve, data, valid_encodings=("compressed",), order=self.order
                )
        except MalformedPointError as error:
            raise InvalidProof(
                f"these {len(data)} bytes are no compressed point of {self._curve.name}"
            ) from error
        raise InvalidProof(f"these {len(data)} bytes are no compressed point of {self._curve.name}")

    def encode(self, point: PointJacobi) -> bytes:
        """Write a point compressed, 33 bytes."""
        encoded: bytes = point.to_bytes("compressed")
        return encoded

    def add(self, left: PointJacobi | None, right: PointJacobi | None) -> PointJacobi | None:
        """Sum of two points."""
        if left is None or right is None:
            return right if left is None else left
        return _finite(left + right)

    def multiply(self, scalar: int, point: PointJacobi) -> PointJacobi | None:
        """Multiply by a scalar."""
        return _finite(point * (scalar % self.order))

    def multiply_secret(self, scalars: Sequence[int], point: PointJacobi) -> list[PointJacobi | None]:
        """Multiply one point by scalars; pure Python integers hide nothing of them."""
        return [self.multiply(scalar, point) for scalar in scalars]

    def multiply_base(self, scalar: int) -> PointJacobi | None:
        """Multiply the generator by a scalar."""
        return self.multiply(scalar, self._curve.generator)

    def multiply_add_base(self, scalar: int, point: PointJacobi, base_scalar: int) -> PointJacobi | None:
        """`scalar * point + base_scalar * generator`."""
        return self.add(self.multiply(scalar, point), self.multiply_base(base_scalar))


def _finite(point: PointJacobi) -> PointJacobi | None:
    return None if point == INFINITY else point


P256 = EcdsaCurve(ecdsa.NIST256p)
SECP256K1 = Secp256k1()
