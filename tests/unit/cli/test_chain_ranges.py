"""Which range an operator can have: gaps, the first that is wide enough, and who is in the way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_chain.registry import RegistryEntry
from aos_cli.chain_registry import chosen_range, gaps
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused
from aos_protocol.sortition import MAX_RANGE


def entries(*ranges: tuple[int, int]) -> list[RegistryEntry]:
    return [
        RegistryEntry(f"0x{number:040x}", number, start, end) for number, (start, end) in enumerate(ranges, 2)
    ]


@st.composite
def registries(draw: st.DrawFn) -> list[RegistryEntry]:
    """Ranges that do not overlap, in no order."""
    cuts = sorted(draw(st.sets(st.integers(0, MAX_RANGE), max_size=20)))
    pairs = [pair for pair in zip(cuts[::2], cuts[1::2], strict=False) if draw(st.booleans())]
    return entries(*draw(st.permutations(pairs)))


@given(registries())
def test_gaps_and_ranges_are_the_whole(held: list[RegistryEntry]) -> None:
    free = list(gaps(held))
    pieces = sorted([*free, *((entry.start, entry.end) for entry in held)])
    assert pieces[0][0] == 0
    assert pieces[-1][1] == MAX_RANGE
    assert all(left[1] == right[0] for left, right in pairwise(pieces))
    assert all(start < end for start, end in free)


@given(registries(), st.integers(1, MAX_RANGE))
def test_a_width_gets_the_first_gap_that_has_it(held: list[RegistryEntry], width: int) -> None:
    fitting = [start for start, end in gaps(held) if end - start >= width]
    if fitting:
        assert chosen_range(held, None, None, width) == (fitting[0], fitting[0] + width)
    else:
        with pytest.raises(ChainRefused, match=f"no gap has {width} slots"):
            chosen_range(held, None, None, width)


def test_a_range_that_is_named_must_be_free() -> None:
    held = entries((100, 200))
    assert chosen_range(held, 0, 100, None) == (0, 100)
    assert chosen_range(held, 200, 300, None) == (200, 300)
    for start, end in ((199, 300), (0, 101), (120, 130), (0, MAX_RANGE)):
        with pytest.raises(
            ChainRefused,
            match=rf"^\[{start}, {end}\) is taken: \[100, 200\) is that of 0x0+2; free: \[0, 100\), \[",
        ):
            chosen_range(held, start, end, None)


def test_a_full_registry_says_so() -> None:
    with pytest.raises(ChainRefused, match="nothing is free"):
        chosen_range(entries((0, MAX_RANGE)), None, None, 1)


def test_of_many_gaps_the_first_eight_are_named() -> None:
    held = entries(*((number * 10, number * 10 + 9) for number in range(100)))
    with pytest.raises(ChainRefused, match=r"free: \[9, 10\), .*\[79, 80\) and more; ask for fewer"):
        chosen_range(held, None, None, MAX_RANGE)


@pytest.mark.parametrize(
    "wanted", [(None, None, None), (1, 2, 3), (1, None, None), (None, 2, None), (None, 2, 3), (1, None, 3)]
)
def test_either_a_width_or_both_ends(wanted: tuple[int | None, int | None, int | None]) -> None:
    with pytest.raises(CliError, match="give --width SLOTS, or --start and --end, not both"):
        chosen_range([], *wanted)


def test_a_range_runs_forwards() -> None:
    with pytest.raises(CliError, match=r"\[5, 5\) is no range"):
        chosen_range([], 5, 5, None)
