"""The first gap of the registry that is wide enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_chain.errors import ChainError
from aos_chain.operators import free_share
from aos_chain.registry import RegistryEntry, RegistryState
from aos_protocol.sortition import MAX_RANGE


def _state(*ranges: tuple[int, int]) -> RegistryState:
    entries = tuple(
        RegistryEntry(f"0x{index:040x}", index + 2, start, end) for index, (start, end) in enumerate(ranges)
    )
    return RegistryState(1, "0x" + "f" * 40, 1, "0x" + "0" * 64, entries)


@pytest.mark.parametrize(
    ("ranges", "width", "expected"),
    [
        ([], 1, (0, 1)),
        ([], MAX_RANGE, (0, MAX_RANGE)),
        ([(0, 10)], 5, (10, 15)),
        ([(5, 10)], 5, (0, 5)),
        ([(5, 10)], 6, (10, 16)),
        ([(20, 30), (0, 10)], 10, (10, 20)),
        ([(20, 30), (0, 10)], 11, (30, 41)),
        ([(0, MAX_RANGE - 1)], 1, (MAX_RANGE - 1, MAX_RANGE)),
    ],
)
def test_the_first_gap(ranges: list[tuple[int, int]], width: int, expected: tuple[int, int]) -> None:
    assert free_share(_state(*ranges), width) == expected


@pytest.mark.parametrize(
    ("ranges", "width"), [([(0, MAX_RANGE)], 1), ([(0, 10), (11, MAX_RANGE)], 2), ([(1, 2)], MAX_RANGE)]
)
def test_no_gap_is_wide_enough(ranges: list[tuple[int, int]], width: int) -> None:
    with pytest.raises(ChainError, match=f"no {width} free slots in a row"):
        free_share(_state(*ranges), width)


@pytest.mark.parametrize("width", [0, -1, MAX_RANGE + 1])
def test_what_is_no_width(width: int) -> None:
    with pytest.raises(ChainError, match="slots wide"):
        free_share(_state(), width)


@given(st.sets(st.integers(0, 60), min_size=0, max_size=40), st.integers(1, 20))
def test_nobody_holds_a_share_that_is_free(taken: set[int], width: int) -> None:
    """Slots in tens; the first free run of that many tens is found, as by looking at every slot."""
    ranges = [(slot * 10, slot * 10 + 10) for slot in taken]
    start, end = free_share(_state(*ranges), width * 10)
    first = next(slot for slot in range(100) if taken.isdisjoint(range(slot, slot + width)))
    assert (start, end) == (first * 10, first * 10 + width * 10)
