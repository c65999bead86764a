"""The log's Merkle tree as tiles: 256 neighbouring hashes in one row, so that a million entries are 4,000 rows.

Tile (level, index) holds the hashes of the nodes (8 * level, 256 * index) and following of the tree (`merkle.Node`): level 0 has
the entries' own. What stands between two levels is worked out from the tile below it. Only the last tile of a level ever changes,
and only by growing; a tree of any earlier size is in the same tiles.
"""

from collections.abc import Iterable, Mapping, Sequence

from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence
from aos_protocol.merkle import Node

_HEIGHT = 8
WIDTH = 1 << _HEIGHT
_HASH_BYTES = 32
_TILE_BYTES = WIDTH * _HASH_BYTES

Tile = tuple[int, int]
Tiles = Mapping[Tile, bytes]


def tile_of(node: Node) -> Tile:
    """The tile that a node is worked out from."""
    level, index = node
    return level // _HEIGHT, (index << level % _HEIGHT) >> _HEIGHT


def edge_of(size: int) -> set[Tile]:
    """The last tile of each level of a tree that is not full yet: what the tree grows on, and has its root from."""
    tiles, level = set(), 0
    while size >> _HEIGHT * level:
        count = size >> _HEIGHT * level
        if count % WIDTH:
            tiles.add((level, count // WIDTH))
        level += 1
    return tiles


def tiles_of(parts: Iterable[Sequence[Node]]) -> set[Tile]:
    """The tiles that the nodes of a proof are worked out from."""
    return {tile_of(node) for part in parts for node in part}


def proof_of(parts: Iterable[Sequence[Node]], tiles: Tiles) -> list[str]:
    """A proof in hex from the parts that `merkle.inclusion_nodes` or `consistency_nodes` name. Raises as `node_hash` does."""
    return [merkle.fold([node_hash(tiles, node) for node in part]).hex() for part in parts]


def root_of(size: int, tiles: Tiles) -> bytes:
    """The root of the tree of the first `size` entries. Raises as `node_hash` does."""
    return merkle.fold([node_hash(tiles, node) for node in merkle.root_nodes(size)])


def node_hash(tiles: Tiles, node: Node) -> bytes:
    """The hash of a complete subtree. Raises `InvalidEvidence` when its tile is missing, or shorter than it must be."""
    level, index = node
    tile = tile_of(node)
    height = level % _HEIGHT
    start = (index << height) % WIDTH * _HASH_BYTES
    below = tiles.get(tile, b"")[start : start + (_HASH_BYTES << height)]
    if len(below) != _HASH_BYTES << height:
        raise InvalidEvidence(
            f"tile {tile} of the log's tree is damaged: it lacks the hash of subtree {node}"
        )
    return _root(below)


def grow(size: int, edge: Tiles, leaves: Iterable[bytes]) -> dict[Tile, bytes]:
    """The tiles that change or begin when these entries are appended to a tree of `size`; `edge` has those of `edge_of(size)`.

    The root of each tile that is full goes into the level above. Raises `InvalidEvidence` for an edge of another size.
    """
    grown: dict[Tile, bytes] = {}
    level, hashes = 0, [merkle.leaf_hash(leaf) for leaf in leaves]
    while hashes:
        first, filled = divmod(size >> _HEIGHT * level, WIDTH)
        begun = edge.get((level, first), b"") if filled else b""
        if len(begun) != filled * _HASH_BYTES:
            raise InvalidEvidence(
                f"tile {(level, first)} of the log's tree is damaged: it has not {filled} hashes"
            )
        row = begun + b"".join(hashes)
        tiles = [row[at : at + _TILE_BYTES] for at in range(0, len(row), _TILE_BYTES)]
        grown |= {(level, first + place): tile for place, tile in enumerate(tiles)}
        hashes = [_root(tile) for tile in tiles if len(tile) == _TILE_BYTES]
        level += 1
    return grown


def _root(hashes: bytes) -> bytes:
    """The root over the hashes of one full row."""
    row = [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]
    return merkle.subtree_root(row, (len(row).bit_length() - 1, 0))
