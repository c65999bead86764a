"""The registry's state as a fold of its contract's events. Pure: nothing here reads a chain.

The contract `OperatorRegistry` gives an operator a number at its first registration, for ever, and half-open ranges of
`[0, MAX_RANGE)` that never overlap. Whoever has no range is not in a state.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeAlias

from aos_chain.errors import ChainError
from aos_protocol.sortition import MAX_RANGE

Kind: TypeAlias = Literal["OperatorRegistered", "RangeUpdated", "OperatorLeft", "OperatorRemoved"]
KINDS: tuple[Kind, ...] = ("OperatorRegistered", "RangeUpdated", "OperatorLeft", "OperatorRemoved")
"""The events that change who has which range."""


@dataclass(frozen=True)
class RegistryEvent:
    """One event of the registry; `number` comes with a registration, `start` and `end` with a range, else they are 0.

    `index` is the log's place in its block: events of a chain are ordered by `(block, index)`.
    """

    kind: Kind
    operator: str
    block: int
    index: int
    number: int = 0
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class RegistryEntry:
    """An operator's EIP-55 address, its number and its range `[start, end)`, not empty."""

    operator: str
    number: int
    start: int
    end: int


@dataclass(frozen=True)
class RegistryState:
    """The registry contract at address `registry`, after the block of this number and hash (0x and 64 digits)."""

    chain_id: int
    registry: str
    block: int
    block_hash: str
    entries: tuple[RegistryEntry, ...]

    def range_of(self, address: str) -> tuple[int, int]:
        """Return the range of an EIP-55 address, `(0, 0)` where it has none: what `operatorRanges` gives."""
        entry = self._by_address.get(address)
        return (entry.start, entry.end) if entry else (0, 0)

    def number_of(self, address: str) -> int | None:
        """Return the number of an operator with a range, `None` for others."""
        entry = self._by_address.get(address)
        return entry.number if entry else None

    @cached_property
    def _by_address(self) -> dict[str, RegistryEntry]:
        return {entry.operator: entry for entry in self.entries}


def fold(events: Iterable[RegistryEvent]) -> tuple[RegistryEntry, ...]:
    """Return who has which range after these events, which come in the chain's order, ordered by number.

    Raises `ChainError` for events that no registry emits: then some are missing, or the RPC endpoint is not honest.
    """
    entries: dict[str, RegistryEntry] = {}
    last = (-1, -1)
    for event in events:
        if (event.block, event.index) <= last:
            raise _contradiction(event, "is not after the one before it")
        last = event.block, event.index
        _apply(entries, event)
    ordered = tuple(sorted(entries.values(), key=lambda entry: entry.number))
    _check(ordered)
    return ordered


def _apply(entries: dict[str, RegistryEntry], event: RegistryEvent) -> None:
    known = entries.get(event.operator)
    if (event.kind == "OperatorRegistered") is (known is not None):
        raise _contradiction(
            event, "comes although the operator has a range" if known else "comes without a range"
        )
    if event.kind in {"OperatorLeft", "OperatorRemoved"}:
        del entries[event.operator]
        return
    if not 0 <= event.start < event.end <= MAX_RANGE:
        raise _contradiction(event, f"has the range [{event.start}, {event.end})")
    number = known.number if known else event.number
    entries[event.operator] = RegistryEntry(event.operator, number, event.start, event.end)


def _check(entries: tuple[RegistryEntry, ...]) -> None:
    if len({entry.number for entry in entries}) < len(entries):
        raise ChainError(
            "two operators of the registry have one number: events are missing; use another RPC endpoint"
        )
    placed = sorted(entries, key=lambda entry: entry.start)
    for left, right in pairwise(placed):
        if left.end > right.start:
            raise ChainError(
                f"the ranges of {left.operator} and {right.operator} overlap: events are missing; use another RPC endpoint"
            )


def _contradiction(event: RegistryEvent, problem: str) -> ChainError:
    return ChainError(
        f"{event.kind} of {event.operator} in block {event.block} {problem}: events are missing; use another RPC endpoint"
    )
