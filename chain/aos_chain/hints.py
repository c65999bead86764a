"""What the Sortition contract is told about a VRF proof, so that it needs no arithmetic on points.

The contract checks every hint: whoever computes them is trusted with nothing.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from coincurve import PublicKey

from aos_chain.errors import ChainError
from aos_protocol.curves import SECP256K1
from aos_protocol.errors import InvalidProof
from aos_protocol.vrf import PROOF_SIZE

MAX_ROOTS: Final = 64
"""How many counters the contract tries; an honest input needs more once in 2^64."""

FIELD: Final = 2**256 - 2**32 - 977
"""The number of elements of secp256k1's field."""

_ORDER = SECP256K1.order
_NONE = (0, 0)

Pair = tuple[int, int]


@dataclass(frozen=True)
class Hints:
    """The contract's `Hints`: points as (x, y); what the contract decides without stays zero.

    `gamma_y` is Gamma's y; `roots` has a square root of -(x^3 + 7) for every counter that try-and-increment
    refused, then H's even y; `u` is U, `s_h` is s * H, `c_gamma` is c * Gamma, `v` is their difference.
    """

    gamma_y: int = 0
    roots: tuple[int, ...] = ()
    u: Pair = _NONE
    s_h: Pair = _NONE
    c_gamma: Pair = _NONE
    v: Pair = _NONE

    def abi(self) -> tuple[int, list[int], list[int], list[int], list[int], list[int]]:
        """The tuple that web3 takes for the contract's struct."""
        points = (list(point) for point in (self.u, self.s_h, self.c_gamma, self.v))
        u, s_h, c_gamma, v = points
        return self.gamma_y, list(self.roots), u, s_h, c_gamma, v


def coordinates(public_key: bytes) -> Pair:
    """The contract's form of a 33-byte key: x, y. Raises InvalidProof when it is no compressed point."""
    return _pair(SECP256K1.decode(public_key))


def hints(public_key: bytes, alpha: bytes, proof: bytes) -> Hints:
    """Compute the right hints for a proof, whether it holds or not.

    Raises InvalidProof when the 33-byte key is no compressed point, since the contract takes no such key, and
    ChainError when try-and-increment needs more counters than the contract tries.
    """
    key = SECP256K1.decode(public_key)
    c = int.from_bytes(proof[33:49], "big")
    s = int.from_bytes(proof[49:], "big")
    if len(proof) != PROOF_SIZE or not c or not 0 < s < _ORDER:
        return Hints()
    try:
        gamma = SECP256K1.decode(proof[:33])
    except InvalidProof:
        x = int.from_bytes(proof[1:33], "big")
        return Hints(gamma_y=_root(-_y_squared(x)) or 0)
    h, roots = _encode_to_curve(public_key, alpha)
    s_h, c_gamma = SECP256K1.multiply(s, h), SECP256K1.multiply(c, gamma)
    return Hints(
        gamma_y=_pair(gamma)[1],
        roots=roots,
        u=_pair(SECP256K1.multiply_add_base(-c, key, s)),
        s_h=_pair(s_h),
        c_gamma=_pair(c_gamma),
        v=_pair(SECP256K1.add(s_h, SECP256K1.multiply(-c, gamma))),
    )


def _encode_to_curve(public_key: bytes, alpha: bytes) -> tuple[PublicKey, tuple[int, ...]]:
    """H (RFC 9381 section 5.4.1.1), and a root for every counter up to its own."""
    roots: list[int] = []
    for counter in range(MAX_ROOTS):
        digest = sha256(b"\xfe\x01" + public_key + alpha + bytes((counter, 0))).digest()
        square = _y_squared(int.from_bytes(digest, "big"))
        try:
            h = SECP256K1.decode(b"\x02" + digest)
        except InvalidProof:
            roots.append(_root(-square) or 0)
        else:
            return h, (*roots, _pair(h)[1])
    raise ChainError(
        f"none of {MAX_ROOTS} counters maps this input to the curve, and the contract tries no more; change the input"
    )


def _y_squared(x: int) -> int:
    return (x**3 + 7) % FIELD


def _root(square: int) -> int | None:
    """A square root in the field, if there is one."""
    root = pow(square, (FIELD + 1) // 4, FIELD)
    return root if root * root % FIELD == square % FIELD else None


def _pair(point: PublicKey | None) -> Pair:
    return point.point() if point is not None else _NONE
