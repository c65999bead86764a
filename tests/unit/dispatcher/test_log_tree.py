"""The log's tree in tiles: the same roots and proofs as over all leaves, whatever the steps in which it grew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher import log_tree
from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence

LEAVES = [f"entry {n}".encode() for n in range(70_000)]
SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000]


def grown(*sizes: int) -> dict[log_tree.Tile, bytes]:
    """The tiles after growing to each of these sizes in turn; every step sees the edge of the one before only."""
    tiles: dict[log_tree.Tile, bytes] = {}
    before = 0
    for size in sizes:
        edge = {tile: tiles[tile] for tile in log_tree.edge_of(before)}
        tiles |= log_tree.grow(before, edge, LEAVES[before:size])
        before = size
    return tiles


@pytest.fixture(scope="module")
def whole() -> dict[log_tree.Tile, bytes]:
    return grown(len(LEAVES))


@pytest.mark.parametrize("size", SIZES)
def test_the_root_of_every_size_is_in_the_tiles_of_a_larger_tree(
    whole: dict[log_tree.Tile, bytes], size: int
) -> None:
    assert log_tree.root_of(size, whole) == merkle.root(LEAVES[:size])


@pytest.mark.parametrize("size", SIZES)
def test_the_edge_is_all_that_a_root_needs(whole: dict[log_tree.Tile, bytes], size: int) -> None:
    tiles = grown(size)
    edge = {tile: tiles[tile] for tile in log_tree.edge_of(size)}
    assert log_tree.root_of(size, edge) == merkle.root(LEAVES[:size])


def test_a_tree_that_grew_in_steps_is_the_one_that_grew_at_once(whole: dict[log_tree.Tile, bytes]) -> None:
    assert grown(*range(1, 300), *SIZES[6:]) == whole
    assert len(whole) == 274 + 2 + 1


@given(st.data())
def test_proofs_from_tiles_are_those_over_all_leaves(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 700))
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    tiles = grown(size)
    inclusion, consistency = merkle.inclusion_nodes(index, size), merkle.consistency_nodes(first, size)
    needed = {tile: tiles[tile] for tile in log_tree.tiles_of([*inclusion, *consistency])}
    over_all = [node.hex() for node in merkle.inclusion_proof(LEAVES[:size], index)]
    assert log_tree.proof_of(inclusion, needed) == over_all
    over_all = [node.hex() for node in merkle.consistency_proof(LEAVES[:size], first)]
    assert log_tree.proof_of(consistency, needed) == over_all


@pytest.mark.parametrize(
    "damage",
    [lambda tile: b"", lambda tile: tile[:-1], lambda tile: tile[:-32], lambda tile: tile + bytes(32)],
)
def test_a_tree_does_not_grow_on_an_edge_of_another_size(damage: object) -> None:
    edge = {(0, 0): damage(grown(5)[0, 0])}  # type: ignore[operator]
    with pytest.raises(InvalidEvidence, match="damaged"):
        log_tree.grow(5, edge, [b"one more"])


def test_a_node_whose_tile_is_missing_or_short_has_no_hash() -> None:
    tiles = grown(300)
    for tiles_left, node in (
        ({}, (0, 0)),
        (tiles, (0, 300)),
        (tiles, (3, 40)),
        ({(0, 0): tiles[0, 0][:64]}, (2, 0)),
    ):
        with pytest.raises(InvalidEvidence, match="damaged: it lacks"):
            log_tree.node_hash(tiles_left, node)
