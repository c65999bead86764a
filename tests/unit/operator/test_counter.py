"""The clock's counter: never the same number twice, whatever fails."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aos_operator.counter import BLOCK, Counter
from aos_operator.errors import StoreUnavailable
from aos_operator.memory import MemoryStore


class FailingStore(MemoryStore):
    """A store that may be away, and counts how often it is asked."""

    away = False
    asked = 0

    async def reserve(self, count: int) -> int:
        if self.away:
            raise StoreUnavailable
        self.asked += 1
        return await super().reserve(count)


def done(coroutine: object) -> object:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


class CounterMachine(RuleBasedStateMachine):
    """Numbers over crashes, outages, and a dispatcher that remembers more than the store."""

    @initialize()
    def start(self) -> None:
        self.store = FailingStore()
        self.counter = Counter(self.store, block=4)
        self.seen = [0]

    @rule()
    def next(self) -> None:
        try:
            number = done(self.counter.next())
        except StoreUnavailable:
            assert self.store.away
            return
        assert isinstance(number, int)
        assert number > max(self.seen)
        self.seen.append(number)

    @rule(away=st.booleans())
    def outage(self, away: bool) -> None:
        self.store.away = away

    @rule()
    def crash(self) -> None:
        self.counter = Counter(self.store, block=4)

    @rule()
    def lose_the_store_and_be_told(self) -> None:
        self.store = FailingStore()
        self.counter = Counter(self.store, block=4)
        done(self.counter.lift(max(self.seen)))

    @rule(ahead=st.integers(0, 20))
    def lift(self, ahead: int) -> None:
        floor = max(self.seen) + ahead
        done(self.counter.lift(floor))
        self.seen.append(floor)

    @invariant()
    def every_number_given_is_durable(self) -> None:
        assert self.store.reserved >= max(self.seen)


TestCounter = CounterMachine.TestCase


async def test_a_block_costs_one_reservation() -> None:
    store = FailingStore()
    counter = Counter(store)
    assert [await counter.next() for _ in range(BLOCK)] == list(range(1, BLOCK + 1))
    assert store.asked == 1
    assert await counter.next() == BLOCK + 1
    assert store.asked == 2


async def test_without_a_store_there_is_no_number_beyond_the_block() -> None:
    store = FailingStore()
    counter = Counter(store, block=1)
    await counter.next()
    store.away = True
    with pytest.raises(StoreUnavailable):
        await counter.next()
