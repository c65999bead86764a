"""Vector clocks: what happened before what, among participants that trust nobody's wall clock."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidClock

MAX_COUNTER = 2**63 - 1
MAX_ENTRIES = 4096
_DECIMAL = re.compile(r"[1-9][0-9]{0,18}")


class Order(Enum):
    """How one clock stands to another."""

    BEFORE = "before"
    AFTER = "after"
    EQUAL = "equal"
    CONCURRENT = "concurrent"


@dataclass(frozen=True)
class VectorClock:
    """An immutable map of participant numbers to counters, both from 1 to 2^63 - 1; absent means 0.

    Raises InvalidClock for numbers out of range and for more than 4096 entries.
    """

    counters: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.counters) > MAX_ENTRIES:
            raise InvalidClock(f"a clock has at most {MAX_ENTRIES} entries, this one {len(self.counters)}")
        for participant, counter in self.counters.items():
            if not (_in_range(participant) and _in_range(counter)):
                raise InvalidClock(
                    f"clock entry {participant!r:.40}: {counter!r:.40} is not of 1 to 2^63 - 1"
                )
        object.__setattr__(self, "counters", MappingProxyType(dict(sorted(self.counters.items()))))

    @classmethod
    def from_map(cls, entries: dict[str, str]) -> VectorClock:
        """Read the wire form `{"1": "2"}`: decimal strings without sign or leading zeros. Raises InvalidClock."""
        if not isinstance(entries, dict):
            raise InvalidClock
        if len(entries) > MAX_ENTRIES:
            raise InvalidClock(f"a clock has at most {MAX_ENTRIES} entries, this one {len(entries)}")
        return cls({_number(participant): _number(counter) for participant, counter in entries.items()})

    def to_map(self) -> dict[str, str]:
        """Give the wire form, ordered by participant number."""
        return {str(participant): str(counter) for participant, counter in self.counters.items()}

    def get(self, participant: int) -> int:
        """Counter of a participant, 0 when it has none."""
        return self.counters.get(participant, 0)

    def tick(self, participant: int) -> VectorClock:
        """The clock after one more event of this participant. Raises InvalidClock at 2^63 - 1."""
        return VectorClock({**self.counters, participant: self.get(participant) + 1})

    def merge(self, other: VectorClock) -> VectorClock:
        """Entry by entry the greater: what is known after receiving `other`. Raises InvalidClock beyond 4096."""
        merged = dict(self.counters)
        for participant, counter in other.counters.items():
            merged[participant] = max(counter, merged.get(participant, 0))
        return VectorClock(merged)

    def dominates(self, other: VectorClock) -> bool:
        """Whether every entry is at least that of `other`, so that nothing in it is unknown here."""
        return all(self.get(participant) >= counter for participant, counter in other.counters.items())

    def compare(self, other: VectorClock) -> Order:
        """Place this clock before, after, equal to or concurrent with `other` (Fidge, Mattern)."""
        match self.dominates(other), other.dominates(self):
            case True, True:
                return Order.EQUAL
            case True, False:
                return Order.AFTER
            case False, True:
                return Order.BEFORE
            case _:
                return Order.CONCURRENT

    def digest(self) -> str:
        """SHA-256 of the canonical wire form, 64 hex digits."""
        return digest(dict(self.to_map()))

    def __hash__(self) -> int:
        return hash(tuple(self.counters.items()))


def _in_range(number: object) -> bool:
    return type(number) is int and 1 <= number <= MAX_COUNTER


def _number(text: object) -> int:
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None:
        raise InvalidClock(
            f"{text!r:.40} in a clock is no decimal string from 1 to 2^63 - 1 without leading zeros"
        )
    return int(text)
