"""Vector clocks, checked against a model that keeps the whole causal past of every event."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aos_protocol.clock import MAX_COUNTER, MAX_ENTRIES, Order, VectorClock
from aos_protocol.errors import InvalidClock

CLOCKS = st.dictionaries(st.integers(1, 5), st.integers(1, 4), max_size=5).map(VectorClock)
NUMBERS = st.integers(1, MAX_COUNTER)


def test_the_wire_form_is_that_of_the_published_examples() -> None:
    clock = VectorClock.from_map({"1": "2"})
    assert clock == VectorClock({1: 2})
    assert clock.to_map() == {"1": "2"}
    assert clock.digest() == sha256(b'{"1":"2"}').hexdigest()


def test_entries_are_ordered_by_number_in_the_map_and_canonically_in_the_digest() -> None:
    clock = VectorClock.from_map({"10": "1", "9": "2", "1": "3"})
    assert list(clock.to_map()) == ["1", "9", "10"]
    assert clock.digest() == sha256(b'{"1":"3","10":"1","9":"2"}').hexdigest()


@given(st.dictionaries(NUMBERS, NUMBERS, max_size=6))
def test_the_wire_form_round_trips(counters: dict[int, int]) -> None:
    clock = VectorClock(counters)
    again = VectorClock.from_map(clock.to_map())
    assert again == clock
    assert hash(again) == hash(clock)
    assert again.digest() == clock.digest()


@pytest.mark.parametrize(
    "number",
    [
        "",
        "0",
        "-1",
        "+1",
        "01",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e3",
        "0x1",
        "\u0661",
        "\u00b2",
        "1_0",
        str(2**63),
        "9" * 40,
    ],
)
def test_numbers_must_be_canonical_decimal_strings(number: str) -> None:
    for entries in ({number: "1"}, {"1": number}):
        with pytest.raises(InvalidClock, match="1 to 2\\^63 - 1"):
            VectorClock.from_map(entries)


@pytest.mark.parametrize("entries", [{"1": 1}, {1: "1"}, {"1": None}, {"1": True}, {None: "1"}])
def test_numbers_must_be_strings(entries: dict[str, str]) -> None:
    with pytest.raises(InvalidClock, match="decimal string"):
        VectorClock.from_map(entries)


@pytest.mark.parametrize("entries", [None, [], "", [("1", "1")], 1])
def test_a_clock_must_be_a_map(entries: dict[str, str]) -> None:
    with pytest.raises(InvalidClock, match="send a map"):
        VectorClock.from_map(entries)


@pytest.mark.parametrize(
    "counters",
    [{0: 1}, {1: 0}, {-1: 1}, {1: -1}, {1: True}, {True: 1}, {1: 1.0}, {1: 2**63}, {2**63: 1}, {"1": 1}],
)
def test_counters_must_be_positive_integers_in_range(counters: dict[int, int]) -> None:
    with pytest.raises(InvalidClock, match="is not of 1 to"):
        VectorClock(counters)


def test_the_number_of_entries_is_bounded() -> None:
    full = VectorClock.from_map({str(number): "1" for number in range(1, MAX_ENTRIES + 1)})
    assert len(full.to_map()) == MAX_ENTRIES
    assert full.tick(1).get(1) == 2
    too_many = {str(number): "1" for number in range(1, MAX_ENTRIES + 2)}
    growths: list[Callable[[], VectorClock]] = [
        lambda: VectorClock.from_map(too_many),
        lambda: full.tick(MAX_ENTRIES + 1),
        lambda: full.merge(VectorClock({MAX_ENTRIES + 1: 1})),
    ]
    for grow in growths:
        with pytest.raises(InvalidClock, match="at most 4096 entries"):
            grow()


def test_a_counter_does_not_run_over() -> None:
    with pytest.raises(InvalidClock, match="is not of 1 to"):
        VectorClock({1: MAX_COUNTER}).tick(1)


def test_a_clock_cannot_be_changed_through_what_it_was_made_of() -> None:
    counters = {1: 1}
    clock = VectorClock(counters)
    counters[1] = 9
    assert clock.get(1) == 1
    with pytest.raises(TypeError):
        clock.counters[1] = 9  # type: ignore[index]
    with pytest.raises(AttributeError):
        clock.counters = {}  # type: ignore[misc]


def test_absent_participants_count_zero() -> None:
    assert VectorClock().get(7) == 0
    assert VectorClock().to_map() == {}
    assert VectorClock().tick(7) == VectorClock({7: 1})


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ({}, {}, Order.EQUAL),
        ({1: 1}, {1: 1}, Order.EQUAL),
        ({}, {1: 1}, Order.BEFORE),
        ({1: 1}, {1: 2, 2: 1}, Order.BEFORE),
        ({1: 2}, {1: 1}, Order.AFTER),
        ({1: 1, 2: 1}, {2: 1}, Order.AFTER),
        ({1: 1}, {2: 1}, Order.CONCURRENT),
        ({1: 2, 2: 1}, {1: 1, 2: 2}, Order.CONCURRENT),
    ],
)
def test_the_four_orders(left: dict[int, int], right: dict[int, int], order: Order) -> None:
    assert VectorClock(left).compare(VectorClock(right)) is order


@given(CLOCKS, CLOCKS)
def test_compare_is_antisymmetric_and_follows_dominance(a: VectorClock, b: VectorClock) -> None:
    mirrored = {Order.BEFORE: Order.AFTER, Order.AFTER: Order.BEFORE}
    order = a.compare(b)
    assert b.compare(a) is mirrored.get(order, order)
    assert a.dominates(b) == (order in {Order.AFTER, Order.EQUAL})
    assert (order is Order.EQUAL) == (a == b)


@given(CLOCKS, CLOCKS, CLOCKS)
def test_merge_is_the_least_upper_bound(a: VectorClock, b: VectorClock, c: VectorClock) -> None:
    merged = a.merge(b)
    assert merged.dominates(a)
    assert merged.dominates(b)
    assert merged == b.merge(a)
    assert merged.merge(c) == a.merge(b.merge(c))
    assert merged.merge(merged) == merged
    if c.dominates(a) and c.dominates(b):
        assert c.dominates(merged)


@given(CLOCKS, st.integers(1, 6))
def test_a_tick_comes_after_and_touches_one_entry(clock: VectorClock, participant: int) -> None:
    ticked = clock.tick(participant)
    assert ticked.compare(clock) is Order.AFTER
    assert ticked.get(participant) == clock.get(participant) + 1
    assert all(ticked.get(other) == clock.get(other) for other in range(1, 8) if other != participant)


@dataclass(frozen=True)
class Event:
    """An event with its clock and, as the model, every event that happened before it and itself."""

    clock: VectorClock
    past: frozenset[int]


class CausalHistory(RuleBasedStateMachine):
    """Participants over a network that loses, repeats and reorders messages.

    The model knows nothing of counters: an event's past is the set of numbers of the events that a
    chain of local steps and messages leads from. Clocks must order any two events as their pasts do.
    """

    participants = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.latest = {number: Event(VectorClock(), frozenset()) for number in range(1, 5)}
        self.events: list[Event] = []
        self.network: list[Event] = []

    def happen(self, participant: int, clock: VectorClock, past: frozenset[int]) -> Event:
        event = Event(clock.tick(participant), past | {len(self.events)})
        for other in self.events:
            assert event.clock.compare(other.clock) is order_of(event.past, other.past)
            assert event.clock.dominates(other.clock) == (other.past <= event.past)
        self.events.append(event)
        self.latest[participant] = event
        return event

    @rule(participant=participants)
    def step(self, participant: int) -> None:
        before = self.latest[participant]
        self.happen(participant, before.clock, before.past)

    @rule(participant=participants)
    def send(self, participant: int) -> None:
        before = self.latest[participant]
        self.network.append(self.happen(participant, before.clock, before.past))

    @rule(participant=participants, pick=st.integers(0, 63), again=st.booleans())
    def receive(self, participant: int, pick: int, again: bool) -> None:
        if not self.network:
            return
        at = pick % len(self.network)
        message = self.network[at] if again else self.network.pop(at)
        wire = VectorClock.from_map(message.clock.to_map())
        before = self.latest[participant]
        self.happen(participant, before.clock.merge(wire), before.past | message.past)

    @rule(pick=st.integers(0, 63))
    def lose(self, pick: int) -> None:
        if self.network:
            self.network.pop(pick % len(self.network))

    @invariant()
    def own_entries_count_own_events(self) -> None:
        for participant, event in self.latest.items():
            assert all(other.clock.get(participant) <= event.clock.get(participant) for other in self.events)


def order_of(left: frozenset[int], right: frozenset[int]) -> Order:
    if left == right:
        return Order.EQUAL
    if left < right:
        return Order.BEFORE
    return Order.AFTER if left > right else Order.CONCURRENT


TestCausalHistory = CausalHistory.TestCase
TestCausalHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
