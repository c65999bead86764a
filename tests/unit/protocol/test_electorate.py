"""The electorate of a draw: who is asked follows from the seed, and nobody gains by how its range is divided."""

import hashlib
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import sortition
from aos_protocol.sortition import ELECTORATE_POINTS, MAX_RANGE, Candidate, Holders

SIZE = 16
Shares = list[tuple[str, int, int]]
seeds = st.binary(min_size=32, max_size=32)


@st.composite
def registries(draw: st.DrawFn) -> Shares:
    """Ranges as a contract may have them: in any order of numbers, some empty, with gaps between them."""
    bounds = sorted(draw(st.lists(st.integers(0, MAX_RANGE), min_size=2, max_size=80)))
    ranges = list(zip(bounds[::2], bounds[1::2], strict=False))
    order = draw(st.permutations(range(len(ranges))))
    return [(f"operator {place}", *ranges[place]) for place in order]


def seed_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4, "big")).digest()


def everybody(_operator: str) -> bool:
    return True


def by_the_page(shares: Shares, seed: bytes, here: set[str], most: int) -> dict[str, int]:
    """The electorate in the words of docs/evidence.md, looking through everybody for each point."""
    points: dict[str, int] = {}
    last = -1
    for i in range(ELECTORATE_POINTS):
        hashed = hashlib.sha256(b"aos/electorate/1" + seed + i.to_bytes(8, "big")).digest()
        slot = int.from_bytes(hashed, "big") * 600_000 // 2**256
        holder = [place for place, (_, start, end) in enumerate(shares) if start <= slot < end]
        if holder:
            [last] = holder
            operator = shares[last][0]
            if operator in here:
                points[operator] = points.get(operator, 0) + 1
        if len(points) == most:
            return points
    for step in range(1, len(shares) + 1):
        operator = shares[(last + step) % len(shares)][0]
        if operator in here and len(points) < most:
            points.setdefault(operator, 1)
    return points


@given(registries(), seeds, st.integers(1, 40), st.data())
def test_anybody_comes_to_the_same_electorate(
    shares: Shares, seed: bytes, most: int, data: st.DataObject
) -> None:
    here = set(data.draw(st.lists(st.sampled_from([operator for operator, _, _ in shares]), unique=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sortition, "ELECTORATE_POINTS", 50)
        patch.setitem(globals(), "ELECTORATE_POINTS", 50)
        found = Holders(shares).electorate(seed, here.__contains__, most)
        expected = by_the_page(shares, seed, here, most)
    assert list(found.items()) == list(expected.items())
    assert found.keys() <= here
    assert len(found) == min(most, len(here))
    assert all(points > 0 for points in found.values())


@given(registries(), seeds, st.integers(1, 10), st.data())
def test_whoever_knows_only_who_was_asked_comes_to_the_same_points(
    shares: Shares, seed: bytes, most: int, data: st.DataObject
) -> None:
    """What an auditor does: who else was there it cannot know."""
    here = set(data.draw(st.lists(st.sampled_from([operator for operator, _, _ in shares]), unique=True)))
    holders, most = Holders(shares), min(most, len(here))
    asked = holders.electorate(seed, here.__contains__, most)
    again = holders.electorate(seed, set(asked).__contains__, most)
    assert list(again.items()) == list(asked.items())


def test_points_run_out_and_the_rest_come_by_number() -> None:
    """One operator holds all but three slots: points do not find the others."""
    shares = [("a", 0, 1), ("wide", 1, MAX_RANGE - 2), ("b", MAX_RANGE - 2, MAX_RANGE - 1), ("c", 0, 0)]
    seed = next(
        seed_of(n)
        for n in range(100)
        if Holders(shares).electorate(seed_of(n), everybody, 4)["wide"] == ELECTORATE_POINTS
    )
    found = Holders(shares).electorate(seed, everybody, 4)
    assert found == {"wide": ELECTORATE_POINTS, "b": 1, "c": 1, "a": 1}
    assert list(found) == ["wide", "b", "c", "a"]
    assert list(Holders(shares).electorate(seed, everybody, 2)) == ["wide", "b"]


def test_nobody_registered_is_nobody_asked() -> None:
    assert Holders([]).electorate(seed_of(1), everybody, SIZE) == {}
    assert len(Holders([])) == 0


def test_sizes_leave_reserves_for_every_committee() -> None:
    for tag in ("", "suspicion", "malicious"):
        assert sortition.electorate_size(tag) >= 6 * sortition.committee_minimum(tag)
    assert sortition.electorate_size("") >= 6 * sortition.committee_minimum("", audit=True)


@pytest.mark.parametrize("index", [0, 1, ELECTORATE_POINTS - 1])
def test_points_are_what_the_page_says(index: int) -> None:
    seed = seed_of(7)
    hashed = hashlib.sha256(b"aos/electorate/1" + seed + index.to_bytes(8, "big")).digest()
    assert sortition.electorate_point(seed, index) == int.from_bytes(hashed, "big") * MAX_RANGE >> 256


@pytest.mark.parametrize(("asked", "registered"), [(15, 100), (16, 16), (3, 3), (15, 17)])
def test_where_all_were_asked_ranges_alone_decide(asked: int, registered: int) -> None:
    shares = sortition.equal_shares([f"operator {n}" for n in range(registered)])
    names = {operator for operator, _, _ in shares[:asked]}
    assert sortition.electorate_points(names, Holders(shares), seed_of(1), "") is None


def test_where_some_were_chosen_their_points_decide() -> None:
    shares = sortition.equal_shares([f"operator {n}" for n in range(17)])
    names = {operator for operator, _, _ in shares[1:]}
    points = sortition.electorate_points(names, Holders(shares), seed_of(1), "")
    assert points is not None
    assert points.keys() == names
    assert sortition.electorate_points(names, Holders(shares), seed_of(1), "suspicion") is None


@given(st.lists(st.tuples(st.integers(0, MAX_RANGE - 1), st.integers(1, 50)), min_size=1, max_size=20))
def test_an_electorate_is_ranked_by_value_over_points(drawn: list[tuple[int, int]]) -> None:
    candidates = [Candidate(f"0x{n:02}", value, 1 + n) for n, (value, _) in enumerate(drawn)]
    points = {f"0x{n:02}": count for n, (_, count) in enumerate(drawn)}
    ranking = sortition.rank(candidates, points)
    assert sorted(c.operator for c in ranking) == sorted(points)
    for before, after in itertools.pairwise(ranking):
        one, other = before.value * points[after.operator], after.value * points[before.operator]
        assert (one, before.operator) < (other, after.operator) if one == other else one < other


def test_of_an_electorate_the_committee_is_the_head_of_as_many_as_are_selected() -> None:
    """A selected ticket makes the committee larger; who sits on it goes by points."""
    candidates = [Candidate("a", 5, 3), Candidate("b", 8, 9), Candidate("c", 2, 3), Candidate("d", 1, 0)]
    ranking = sortition.rank(candidates, {"a": 5, "b": 1, "c": 1, "d": 9})
    assert [candidate.operator for candidate in ranking] == ["a", "c", "b"]
    seats = [(member.operator, member.filled) for member in sortition.committee(ranking, 1)]
    assert seats == [("a", True), ("c", False)]


def chance(shares: Shares, whose: Callable[[str], bool], rounds: int) -> float:
    """How often the first of the draw is one of these, over many seeds; tickets are hashes here, as a VRF's outputs are."""
    holders = Holders(shares)
    wins = 0
    for number in range(rounds):
        seed = seed_of(number)
        points = holders.electorate(seed, everybody, SIZE)
        tickets = (
            Candidate(operator, sortition.ticket_value(hashlib.sha256(seed + operator.encode()).digest()), 1)
            for operator in points
        )
        wins += whose(sortition.rank(tickets, points)[0].operator)
    return wins / rounds


@pytest.mark.parametrize("parts", [1, 3, 100])
def test_a_range_s_chance_is_its_width_however_it_is_divided(parts: int) -> None:
    """A tenth of the range beside 300 others, within 4 sigma of 3,000 draws."""
    rounds, whole = 3_000, MAX_RANGE // 10
    shares = [(f"mine {n}", whole * n // parts, whole * (n + 1) // parts) for n in range(parts)]
    shares += [(f"other {n}", whole + 1_800 * n, whole + 1_800 * (n + 1)) for n in range(300)]
    won = chance(shares, lambda operator: operator.startswith("mine"), rounds)
    assert abs(won - 0.1) < 4 * math.sqrt(0.1 * 0.9 / rounds)
