"""A log's tree while it grows: only the complete subtrees at its right edge, from which its root follows at any time."""

from collections.abc import Iterable
from typing import Self

from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence


class Frontier:
    """The tree over `size` entries (RFC 9162, section 2.1.1) as hashes of complete subtrees, the largest first: at most 53 of them."""

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        """`nodes` are those that `merkle.root_nodes(size)` names. Raises `InvalidEvidence` for another number of them."""
        self.size = size
        self._nodes = list(nodes)
        if (
            size < 0
            or len(self._nodes) != len(merkle.root_nodes(size))
            or any(len(n) != 32 for n in self._nodes)
        ):
            raise InvalidEvidence(f"a tree of {size} entries has other subtrees than these")

    def append(self, entry: str) -> None:
        """Add one entry."""
        node, count = merkle.leaf_hash(entry.encode()), self.size
        while count & 1:
            node = merkle.node_hash(self._nodes.pop(), node)
            count >>= 1
        self._nodes.append(node)
        self.size += 1

    def root(self) -> str:
        """The root over all entries so far, 64 hex digits."""
        return merkle.fold(self._nodes).hex()

    def copy(self) -> Self:
        """The same tree, to go on from without changing this one."""
        return type(self)(self.size, self._nodes)

    def to_json(self) -> list[str]:
        """The nodes in hex."""
        return [node.hex() for node in self._nodes]

    @classmethod
    def from_json(cls, size: int, nodes: list[str]) -> Self:
        """Read what `to_json` gave. Raises `InvalidEvidence`."""
        try:
            return cls(size, [bytes.fromhex(node) for node in nodes])
        except (ValueError, TypeError) as error:
            raise InvalidEvidence(f"the subtrees of a log are hex digits: {error}") from error
