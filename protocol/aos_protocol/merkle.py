"""Merkle trees over byte strings: the hashing of RFC 6962, section 2.1, and RFC 9162, section 2.1.

    leaf hash   SHA-256(0x00 ‖ leaf)
    node hash   SHA-256(0x01 ‖ left ‖ right)

A tree of n > 1 leaves splits at the greatest power of two below n. The prefixes keep a node from being passed off
as a leaf. A proof is bound to an index *and* a size, so the size must come from a source as good as the root's.
"""

import hashlib
import hmac
from collections.abc import Sequence

from aos_protocol.errors import ProtocolError


def root(leaves: Sequence[bytes]) -> bytes:
    """The 32-byte root over the leaves, in order; SHA-256 of nothing when there are none."""
    if not leaves:
        return hashlib.sha256().digest()
    level = [_leaf(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings on the way from leaf `index` to the root, lowest first (RFC 9162, section 2.1.3.1).

    Raises ProtocolError for an index outside the leaves.
    """
    if not 0 <= index < len(leaves):
        raise ProtocolError(f"No leaf {index} in a tree of {len(leaves)}.")
    level = [_leaf(leaf) for leaf in leaves]
    proof = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(level[sibling])
        level = _parents(level)
        index >>= 1
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """Whether `leaf` is number `index` in the tree of `size` leaves with root `expected`.

    RFC 9162, section 2.1.3.2. A proof of the wrong length, or an index outside the tree, is just not valid.
    """
    if not 0 <= index < size:
        return False
    node, last, left = _leaf(leaf), size - 1, iter(proof)
    while last:
        if index & 1 or index < last:  # else: the rightmost node of an odd level, which moves up as it is
            sibling = next(left, None)
            if sibling is None:
                return False
            node = _node(sibling, node) if index & 1 else _node(node, sibling)
        index >>= 1
        last >>= 1
    return next(left, None) is None and hmac.compare_digest(node, expected)


def _parents(level: list[bytes]) -> list[bytes]:
    """The next level up; a lone last node moves up unhashed, which gives exactly the RFC's split."""
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [_node(left, right) for left, right in pairs]
    return parents + level[-1:] if len(level) % 2 else parents


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
