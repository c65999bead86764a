"""The operator's own entry in the vector clock: a number that never repeats, not even after a crash."""

from typing import Protocol

BLOCK = 1024
"""How many numbers are reserved at a time. A crash skips what is left of a block; gaps are harmless."""


class CounterStore(Protocol):
    """What keeps the highest reserved number durably."""

    async def reserve(self, count: int) -> int:
        """Raise the highest reserved number by `count`, durably, and return it."""
        ...

    async def lift(self, floor: int) -> None:
        """Raise the highest reserved number to at least `floor`, durably."""
        ...


class Counter:
    """Gives ever greater numbers; each is reserved durably before it is given.

    Not safe for concurrent use: the outbox calls it under its lock.
    """

    def __init__(self, store: CounterStore, block: int = BLOCK) -> None:
        self._store = store
        self._block = block
        self._last = 0
        self._reserved = 0

    async def next(self) -> int:
        """Return the next number. Raises `StoreUnavailable` when a block is used up and no other can be had."""
        if self._last >= self._reserved:
            reserved = await self._store.reserve(self._block)
            self._last, self._reserved = reserved - self._block, reserved
        self._last += 1
        return self._last

    async def lift(self, floor: int) -> None:
        """Never give a number up to `floor` again: somebody has seen it, whatever this store remembers."""
        if floor <= self._reserved:
            self._last = max(self._last, floor)
            return
        await self._store.lift(floor)
        self._last = self._reserved = 0  # the next number comes from a new block, above the floor
