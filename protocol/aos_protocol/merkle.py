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
    level = [leaf_hash(leaf) for leaf in leaves]
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings on the way from leaf `index` to the root, lowest first (RFC 9162, section 2.1.3.1).

    Raises ProtocolError for an index outside the leaves.
    """
    if not 0 <= index < len(leaves):
        raise ProtocolError(f"No leaf {index} in a tree of {len(leaves)}.")
    level = [leaf_hash(leaf) for leaf in leaves]
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
    node, last, left = leaf_hash(leaf), size - 1, iter(proof)
    while last:
        if index & 1 or index < last:  # else: the rightmost node of an odd level, which moves up as it is
            sibling = next(left, None)
            if sibling is None:
                return False
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index >>= 1
        last >>= 1
    return next(left, None) is None and hmac.compare_digest(node, expected)


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """The nodes that show the tree of the `first` leaves to be the beginning of that of all (RFC 9162, section 2.1.4.1).

    Raises ProtocolError unless 0 < first <= len(leaves).
    """
    if not 0 < first <= len(leaves):
        raise ProtocolError(f"No tree of the first {first} of {len(leaves)} leaves.")
    hashes = [leaf_hash(leaf) for leaf in leaves]
    return [
        fold([subtree_root(hashes, node) for node in part]) for part in consistency_nodes(first, len(leaves))
    ]


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of `first` leaves with root `first_root` is the beginning of that of `second` leaves with `second_root`.

    RFC 9162, section 2.1.4.2. The empty tree is the beginning of every tree, by an empty proof.
    """
    if not 0 <= first <= second:
        return False
    if first == 0:
        return not proof and hmac.compare_digest(first_root, root(()))
    if first == second:
        return not proof and hmac.compare_digest(first_root, second_root)
    # Where the old tree is complete, its root is itself the first node of the proof, and is left out.
    nodes = iter([first_root, *proof] if first & (first - 1) == 0 else proof)
    index, last = first - 1, second - 1
    while index & 1:
        index >>= 1
        last >>= 1
    old = new = next(nodes, b"")
    for node in nodes:
        if last == 0:
            return False
        if index & 1 or index == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while index and not index & 1:
                index >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        index >>= 1
        last >>= 1
    return last == 0 and hmac.compare_digest(old, first_root) and hmac.compare_digest(new, second_root)


Node = tuple[int, int]
"""A complete subtree, by its level and its index there: (3, 2) is over the leaves 16 to 23."""


def inclusion_nodes(index: int, size: int) -> list[list[Node]]:
    """Which complete subtrees make up each node of an inclusion proof, lowest first; `fold` makes one node of a part.

    A log that keeps the hashes of complete subtrees, which never change, has its proofs from these. The caller sees to it that
    0 <= index < size.
    """
    parts = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            parts.append(_complete(middle, end))
            end = middle
        else:
            parts.append(_complete(start, middle))
            start = middle
    return parts[::-1]


def consistency_nodes(first: int, second: int) -> list[list[Node]]:
    """Which complete subtrees make up each node of a consistency proof, in its order. The caller sees to it that 0 < first <= second."""
    parts = []
    start, end, whole = 0, second, True
    while end != first:
        middle = start + _split(end - start)
        if first <= middle:
            parts.append(_complete(middle, end))
            end = middle
        else:
            parts.append(_complete(start, middle))
            start, whole = middle, False
    if not whole:
        parts.append(_complete(start, end))
    return parts[::-1]


def root_nodes(size: int) -> list[Node]:
    """The complete subtrees that a tree of `size` leaves consists of, the largest first; `fold` makes the root of them."""
    return _complete(0, size)


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over neighbouring subtrees, each smaller than the one before it; that of the empty tree when there are none."""
    if not hashes:
        return root(())
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def subtree_root(hashes: Sequence[bytes], node: Node) -> bytes:
    """The hash of a complete subtree over these hashes of leaves."""
    level, index = node
    row = list(hashes[index << level : (index + 1) << level])
    while len(row) > 1:
        row = _parents(row)
    return row[0]


def _split(size: int) -> int:
    """The greatest power of two below `size`: where a tree of that many leaves divides."""
    return 1 << (size - 1).bit_length() - 1


def _complete(start: int, end: int) -> list[Node]:
    """The complete subtrees from `start`, where a tree begins, to `end`, the largest first."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append((level, start >> level))
        start += 1 << level
    return nodes


def _parents(level: list[bytes]) -> list[bytes]:
    """The next level up; a lone last node moves up unhashed, which gives exactly the RFC's split."""
    pairs = zip(level[::2], level[1::2], strict=False)
    parents = [node_hash(left, right) for left, right in pairs]
    return parents + level[-1:] if len(level) % 2 else parents


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return hashlib.sha256(b"\x01" + left + right).digest()
