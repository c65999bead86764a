"""Dispatchers that sign heads for the Anchor contract, and logs by the very words of RFC 9162, section 2.1."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from web3.contract import Contract

from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain, TreeHeadClaim, sign_typed


@dataclass(frozen=True)
class Dispatcher:
    """A key that signs heads for one network."""

    signer: Signer
    domain: Domain

    @property
    def address(self) -> str:
        return self.signer.address

    def sign(self, size: int, root: bytes, timestamp: int) -> bytes:
        claim = TreeHeadClaim(self.address, size, root.hex(), timestamp)
        return bytes.fromhex(sign_typed(self.signer, self.domain, claim))


def post(
    anchor: Contract, dispatcher: Dispatcher, size: int, root: bytes, timestamp: int, proof: Sequence[bytes]
) -> Any:
    """The call that posts a head, signed."""
    signature = dispatcher.sign(size, root, timestamp)
    return anchor.functions.post(dispatcher.address, size, root, timestamp, signature, list(proof))


def head(answer: Sequence[Any]) -> tuple[int, bytes, int, int]:
    """Size, root, timestamp and block, as the contract answers."""
    size, root, timestamp, block = answer
    return size, bytes(root), timestamp, block


class Tree:
    """The RFC's recursive definitions, slow and plain: what our own merkle module has no part in."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._leaves = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
        self._known: dict[tuple[int, int], bytes] = {}

    def root(self, size: int) -> bytes:
        """MTH(D[size]), section 2.1.1."""
        return self._over(0, size) if size else hashlib.sha256(b"").digest()

    def proof(self, first: int, size: int) -> list[bytes]:
        """PROOF(first, D[size]), section 2.1.4.1."""
        return self._subproof(first, 0, size, whole=True)

    def _over(self, start: int, end: int) -> bytes:
        if end - start == 1:
            return self._leaves[start]
        if (start, end) not in self._known:
            middle = start + _split(end - start)
            left, right = self._over(start, middle), self._over(middle, end)
            self._known[start, end] = hashlib.sha256(b"\x01" + left + right).digest()
        return self._known[start, end]

    def _subproof(self, first: int, start: int, end: int, *, whole: bool) -> list[bytes]:
        size = end - start
        if first == size:
            return [] if whole else [self._over(start, end)]
        split = _split(size)
        if first <= split:
            below = self._subproof(first, start, start + split, whole=whole)
            return [*below, self._over(start + split, end)]
        below = self._subproof(first - split, start + split, end, whole=False)
        return [*below, self._over(start, start + split)]


class EqualLeaves(Tree):
    """A log of as many equal leaves as one likes: what is over them depends on their number alone."""

    def __init__(self, leaf: bytes) -> None:
        super().__init__([leaf])
        self._of = cache(self._over_equal)

    def _over(self, start: int, end: int) -> bytes:
        return self._of(end - start)

    def _over_equal(self, size: int) -> bytes:
        if size == 1:
            return self._leaves[0]
        split = _split(size)
        return hashlib.sha256(b"\x01" + self._of(split) + self._of(size - split)).digest()


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power
