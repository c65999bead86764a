"""The registry's state from its events: against a plain model, and events that no registry emits."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_chain.errors import ChainError
from aos_chain.registry import RegistryEntry, RegistryEvent, RegistryState, fold
from aos_protocol.sortition import MAX_RANGE

A, B, C = (f"0x{digit * 40}" for digit in "123")


def _joined(operator: str, number: int, start: int, end: int, *, block: int, index: int = 0) -> RegistryEvent:
    return RegistryEvent("OperatorRegistered", operator, block, index, number, start, end)


def _moved(operator: str, start: int, end: int, *, block: int, index: int = 0) -> RegistryEvent:
    return RegistryEvent("RangeUpdated", operator, block, index, 0, start, end)


def _left(operator: str, *, block: int, index: int = 0) -> RegistryEvent:
    return RegistryEvent("OperatorLeft", operator, block, index)


def _removed(operator: str, *, block: int, index: int = 0) -> RegistryEvent:
    return RegistryEvent("OperatorRemoved", operator, block, index)


def test_without_events_nobody_has_a_range() -> None:
    assert fold([]) == ()


def test_entries_are_ordered_by_number() -> None:
    events = [_joined(B, 2, 500, 600, block=1), _joined(A, 3, 0, 10, block=2)]
    assert fold(events) == (RegistryEntry(B, 2, 500, 600), RegistryEntry(A, 3, 0, 10))


def test_a_move_keeps_the_number() -> None:
    assert fold([_joined(A, 2, 0, 10, block=1), _moved(A, 5, 9, block=1, index=1)]) == (
        RegistryEntry(A, 2, 5, 9),
    )


@pytest.mark.parametrize("gone", [_left(A, block=2), _removed(A, block=2)], ids=["left", "removed"])
def test_who_goes_has_no_range_and_may_come_back(gone: RegistryEvent) -> None:
    joined = _joined(A, 2, 0, 10, block=1)
    assert fold([joined, gone]) == ()
    assert fold([joined, gone, _joined(A, 2, 20, 30, block=3)]) == (RegistryEntry(A, 2, 20, 30),)


def test_a_range_that_was_left_is_free_for_another() -> None:
    events = [
        _joined(A, 2, 0, 10, block=1),
        _left(A, block=1, index=3),
        _joined(B, 3, 0, 10, block=1, index=4),
    ]
    assert fold(events) == (RegistryEntry(B, 3, 0, 10),)


def test_ranges_may_touch_and_fill_everything() -> None:
    events = [_joined(A, 2, 0, 7, block=1), _joined(B, 3, 7, MAX_RANGE, block=2)]
    assert [entry.operator for entry in fold(events)] == [A, B]


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([_moved(A, 0, 5, block=1)], "RangeUpdated of .* in block 1 comes without a range"),
        ([_left(A, block=1)], "OperatorLeft of .* comes without a range"),
        ([_removed(A, block=1)], "OperatorRemoved of .* comes without a range"),
        (
            [_joined(A, 2, 0, 5, block=1), _joined(A, 2, 7, 9, block=2)],
            "OperatorRegistered of .* comes although the operator has a range",
        ),
        ([_joined(A, 2, 0, 5, block=2), _joined(B, 3, 7, 9, block=1)], "is not after the one before it"),
        ([_joined(A, 2, 0, 5, block=2), _joined(B, 3, 7, 9, block=2)], "is not after the one before it"),
        ([_joined(A, 2, 5, 5, block=1)], r"has the range \[5, 5\)"),
        ([_joined(A, 2, 0, MAX_RANGE + 1, block=1)], "has the range"),
        ([_joined(A, 2, -1, 5, block=1)], "has the range"),
        ([_joined(A, 2, 0, 5, block=1), _moved(A, 9, 3, block=2)], "has the range"),
        ([_joined(A, 2, 0, 5, block=1), _joined(B, 2, 7, 9, block=2)], "two operators .* have one number"),
        ([_joined(A, 2, 0, 5, block=1), _joined(B, 3, 4, 9, block=2)], "overlap"),
        ([_joined(B, 2, 4, 9, block=1), _joined(A, 3, 5, 6, block=2)], "overlap"),
    ],
)
def test_events_that_no_registry_emits(events: list[RegistryEvent], says: str) -> None:
    with pytest.raises(ChainError, match=says) as raised:
        fold(events)
    assert "events are missing; use another RPC endpoint" in str(raised.value)


LANE = 1000
STEPS = st.lists(
    st.tuples(
        st.sampled_from([A, B, C]),
        st.sampled_from(["place", "leave", "slash"]),
        st.integers(0, LANE - 2),
        st.integers(1, LANE),
        st.integers(0, 1),
    )
)


def _story(
    steps: list[tuple[str, str, int, int, int]],
) -> tuple[list[RegistryEvent], list[dict[str, tuple[int, int]]]]:
    """The events that a registry would emit, each operator in a lane of its own, and who has what after each of them."""
    numbers: dict[str, int] = {}
    ranges: dict[str, tuple[int, int]] = {}
    events: list[RegistryEvent] = []
    after: list[dict[str, tuple[int, int]]] = []
    block = index = 0
    for operator, what, start, width, new_block in steps:
        block, index = (block + 1, 0) if new_block else (block, index + 1)
        lane = (A, B, C).index(operator) * LANE
        share = lane + start, lane + min(start + width, LANE)
        if what == "place" and operator in ranges:
            events.append(_moved(operator, *share, block=block, index=index))
        elif what == "place":
            number = numbers.setdefault(operator, len(numbers) + 2)
            events.append(_joined(operator, number, *share, block=block, index=index))
        elif operator in ranges:
            kind = _left if what == "leave" else _removed
            events.append(kind(operator, block=block, index=index))
        else:
            continue
        ranges = {other: kept for other, kept in ranges.items() if other != operator}
        if what == "place":
            ranges[operator] = share
        after.append(ranges)
    return events, after


@given(STEPS)
def test_the_fold_of_any_history_is_what_each_step_leaves(
    steps: list[tuple[str, str, int, int, int]],
) -> None:
    events, after = _story(steps)
    for count, expected in enumerate(after, start=1):
        entries = fold(events[:count])
        assert {entry.operator: (entry.start, entry.end) for entry in entries} == expected
        assert [entry.number for entry in entries] == sorted({entry.number for entry in entries})


@given(STEPS, st.data())
def test_a_history_with_an_event_left_out_is_refused_or_says_as_much(
    steps: list[tuple[str, str, int, int, int]], data: st.DataObject
) -> None:
    """What is missing shows at once, unless nothing contradicts it: then only that operator's range can be wrong."""
    events, after = _story(steps)
    if not events:
        return
    missing = data.draw(st.integers(0, len(events) - 1))
    try:
        entries = fold(events[:missing] + events[missing + 1 :])
    except ChainError:
        return
    found = {entry.operator: (entry.start, entry.end) for entry in entries}
    differing = {who for who in (A, B, C) if found.get(who) != after[-1].get(who)}
    assert differing <= {events[missing].operator}


def test_what_a_state_tells_of_an_operator() -> None:
    state = RegistryState(1, "0x" + "f" * 40, 9, "0x" + "0" * 64, (RegistryEntry(A, 2, 5, 9),))
    assert (state.range_of(A), state.number_of(A)) == ((5, 9), 2)
    assert (state.range_of(B), state.number_of(B)) == ((0, 0), None)


def test_states_compare_by_what_they_say() -> None:
    state = RegistryState(1, "0x" + "f" * 40, 9, "0x" + "0" * 64, (RegistryEntry(A, 2, 5, 9),))
    state.range_of(A)
    assert state == replace(state)
    assert state != replace(state, block=10)
