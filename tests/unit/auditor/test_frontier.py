"""The frontier gives the root of the whole tree at every size, and goes on from what was kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_auditor.frontier import Frontier
from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence


@given(st.lists(st.text(), max_size=70), st.integers(0, 70))
def test_its_root_is_the_tree_s_also_after_a_pause(entries: list[str], pause: int) -> None:
    frontier = Frontier()
    for count, entry in enumerate(entries, 1):
        if count == pause:
            frontier = Frontier.from_json(frontier.size, frontier.to_json())
        frontier.append(entry)
        assert frontier.root() == merkle.root([text.encode() for text in entries[:count]]).hex()
    assert len(frontier.to_json()) == len(entries).bit_count()


def test_the_empty_log_has_the_empty_tree_s_root() -> None:
    assert Frontier().root() == merkle.root(()).hex()


def test_a_copy_goes_its_own_way() -> None:
    frontier = Frontier()
    frontier.append("first")
    other = frontier.copy()
    other.append("second")
    assert (frontier.size, other.size) == (1, 2)
    assert frontier.root() == merkle.leaf_hash(b"first").hex()


@pytest.mark.parametrize(
    ("size", "nodes"),
    [(1, []), (0, ["00" * 32]), (3, ["00" * 32]), (1, ["00"]), (1, ["zz"]), (1, [7]), (-1, [])],
)
def test_other_subtrees_than_its_size_has_are_refused(size: int, nodes: list[str]) -> None:
    with pytest.raises(InvalidEvidence):
        Frontier.from_json(size, nodes)
