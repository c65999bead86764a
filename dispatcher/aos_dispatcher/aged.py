"""A small cache whose entries are forgotten after some seconds, however often they are asked for."""

from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class AgedCache(Generic[K, V]):
    """Keeps at most `size` values, each for `age` seconds from when it was put in; the oldest goes first."""

    def __init__(self, age: float, size: int, clock: Callable[[], float] = monotonic) -> None:
        self._age = age
        self._size = size
        self._clock = clock
        self._kept: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        """Return the value, None when there is none that is young enough."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._clock() - kept[0] >= self._age:
            del self._kept[key]
            return None
        return kept[1]

    def put(self, key: K, value: V) -> None:
        """Keep a value from now on, in place of an earlier one."""
        self._kept.pop(key, None)  # so that dicts' order is the order of age
        while len(self._kept) >= self._size:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (self._clock(), value)

    def __len__(self) -> int:
        return len(self._kept)
