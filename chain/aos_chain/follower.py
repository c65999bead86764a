"""The registry as the chain confirms it: read once, then followed, with its age in sight.

1. A state is that after the newest block with `confirmations` blocks on top of it: reorganisations that are no deeper change
   nothing.
2. Each poll first sees whether the last state's block still has its hash. If not, the chain was reorganised more deeply,
   and everything is read again.
3. Logs of the newest blocks are read again with each poll (`OVERLAP`). An event that was known and is missing shows an
   endpoint that lags behind: such an answer is not used. An event that was missing before is taken, with a warning.
4. An endpoint that fails, lags or contradicts itself changes nothing but the age; `check` refuses a state that is too old.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias, cast

import structlog

from aos_chain.client import Chain
from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_chain.logs import Event
from aos_chain.registry import KINDS, Kind, RegistryEvent, RegistryState, fold
from aos_protocol.identity import checksum_address
from aos_protocol.sortition import MAX_RANGE

OVERLAP: Final = 64
"""Blocks before the last state's that each poll reads again."""

_KEPT_STATES: Final = 256

OnChange: TypeAlias = Callable[[RegistryState], None]

_log: Any = structlog.get_logger(__name__)


class RegistryFollower:
    """Follows the registry contract at an address, deployed in block `deployed_at` or later.

    `confirmations` is how many blocks must be on top of one before it counts, `poll_interval` and `maximum_age` are seconds.
    Await `start`, then keep `run` running.
    """

    def __init__(
        self,
        chain: Chain,
        registry: str,
        deployed_at: int,
        *,
        confirmations: int,
        poll_interval: float,
        maximum_age: float,
    ) -> None:
        self._chain = chain
        self._registry = checksum_address(registry)
        self._deployed_at = deployed_at
        self._confirmations = confirmations
        self._poll_interval = poll_interval
        self._maximum_age = maximum_age
        self._callbacks: list[OnChange] = []
        self._reading = asyncio.Lock()
        self._events: list[RegistryEvent] = []
        self._states: dict[int, RegistryState] = {}
        self._state: RegistryState | None = None
        self._read_at = 0.0
        self._trouble: str | None = None

    async def start(self) -> RegistryState:
        """Read the registry for the first time, and return its state.

        Raises `ChainUnavailable`, and `ChainError` where no registry is at the address.
        """
        await self._chain.require_contract(self._registry)
        asked = self._chain.function("OperatorRegistry", self._registry, "MAX_RANGE")
        try:
            found = await self._chain.call(asked)
        except Reverted as error:
            raise ChainError(
                f"the contract at {self._registry} is no OperatorRegistry: correct its address"
            ) from error
        if found != MAX_RANGE:
            raise ChainError(
                f"the registry at {self._registry} divides {found} slots, AOS divides {MAX_RANGE}: name AOS's OperatorRegistry"
            )
        await self._poll()
        return self.state

    async def run(self) -> NoReturn:
        """Follow the chain until cancelled; while the endpoint fails, the last state stays and grows older."""
        while True:
            await asyncio.sleep(self._poll_interval)
            try:
                await self._poll()
            except ChainError as error:
                self._failed(error)

    @property
    def state(self) -> RegistryState:
        """The last confirmed state, however old: see `age`, or use `check`. Raises `ChainUnavailable` before `start`."""
        if self._state is None:
            raise ChainUnavailable("the registry was not read yet: await start() first")
        return self._state

    @property
    def age(self) -> float:
        """Seconds since the chain last confirmed the state."""
        return time.monotonic() - self._read_at if self._state else float("inf")

    def check(self) -> RegistryState:
        """Return the state for use in a decision. Raises `ChainUnavailable` when it is older than `maximum_age`."""
        state, age = self.state, self.age
        if age > self._maximum_age:
            raise ChainUnavailable(
                f"what is known of the registry is {age:.0f} s old, more than the {self._maximum_age:g} s allowed: see that "
                f"{self._chain.name} answers ({self._trouble or 'no reading since'})"
            )
        return state

    async def state_at(self, block: int) -> RegistryState:
        """Return the registry's state after an earlier block, or a newer one as soon as it has its confirmations.

        Raises `ChainUnavailable` where it has not yet, or where the endpoint does not answer and the state is not known.
        """
        if (known := self._states.get(block)) is not None:
            return known
        await self._poll()
        state = self.state
        if block > state.block:
            raise ChainUnavailable(
                f"block {block} has not {self._confirmations} confirmations yet at {self._chain.name} (newest that has: "
                f"{state.block}): try again in a moment"
            )
        if (known := self._states.get(block)) is None:
            known = await self._state_after(block, await self._hash(block), self._events)
            self._keep(known)
        return known

    def on_change(self, callback: OnChange) -> None:
        """Have a function called with each new state whose entries are not those of the state before."""
        self._callbacks.append(callback)

    async def _poll(self) -> None:
        async with self._reading:
            asked_at = time.monotonic()
            target = max(await self._chain.block_number() - self._confirmations, 0)
            if self._state is None:
                await self._read_all(target)
            else:
                await self._follow(self._state, target)
            self._read_at = asked_at
            if self._trouble is not None:
                _log.info("the registry is read again", block=self.state.block, rpc=self._chain.name)
            self._trouble = None

    async def _follow(self, last: RegistryState, target: int) -> None:
        found = await self._chain.block_hash(last.block)
        if found is None:
            raise ChainUnavailable(
                f"{self._chain.name} lags behind: it has no block {last.block}, which it or a twin had"
            )
        if found != last.block_hash:
            _log.warning(
                "the chain was reorganised more deeply than `confirmations`: the registry is read again from its deployment; "
                "raise `confirmations` if this is no chain for development",
                block=last.block,
                confirmations=self._confirmations,
            )
            await self._chain.require_contract(self._registry)
            await self._read_all(target)
        elif target > last.block:
            await self._read_more(last, target)

    async def _read_all(self, target: int) -> None:
        block_hash, events = await self._read(self._deployed_at, target)
        self._states.clear()
        await self._take(target, block_hash, events)

    async def _read_more(self, last: RegistryState, target: int) -> None:
        first = max(self._deployed_at, last.block - OVERLAP + 1)
        block_hash, read = await self._read(first, target)
        known = {event for event in self._events if event.block >= first}
        if known.difference(read):
            raise ChainUnavailable(
                f"{self._chain.name} left out events that it or a twin had: it lags behind"
            )
        if any(event.block <= last.block and event not in known for event in read):
            _log.warning(
                "an earlier answer of the RPC endpoint left out events of the registry: states since were wrong; use a better "
                "endpoint",
                rpc=self._chain.name,
                since=first,
            )
            self._states.clear()
        before = [event for event in self._events if event.block < first]
        await self._take(target, block_hash, before + read)

    async def _read(self, first: int, last: int) -> tuple[str, list[RegistryEvent]]:
        """The events of these blocks and the hash of the last; the same hash before and after shows that they fit together."""
        block_hash = await self._hash(last)
        logs = await self._chain.logs("OperatorRegistry", self._registry, first, last, KINDS)
        if await self._hash(last) != block_hash:
            raise ChainUnavailable(f"block {last} was replaced while the registry was read")
        return block_hash, [_event(log) for log in logs]

    async def _hash(self, block: int) -> str:
        if (found := await self._chain.block_hash(block)) is None:
            raise ChainUnavailable(
                f"{self._chain.name} has no block {block}, although its newest is not older: it lags behind"
            )
        return found

    async def _take(self, block: int, block_hash: str, events: list[RegistryEvent]) -> None:
        before = self._state
        state = await self._state_after(block, block_hash, events)
        self._events, self._state = events, state
        self._keep(state)
        if before is None or before.entries != state.entries:
            _log.info("the registry changed", block=block, operators=len(state.entries))
            for callback in self._callbacks:
                callback(state)

    async def _state_after(self, block: int, block_hash: str, events: list[RegistryEvent]) -> RegistryState:
        entries = fold(event for event in events if event.block <= block)
        return RegistryState(await self._chain.chain_id(), self._registry, block, block_hash, entries)

    def _keep(self, state: RegistryState) -> None:
        self._states[state.block] = state
        while len(self._states) > _KEPT_STATES:
            del self._states[next(iter(self._states))]

    def _failed(self, error: ChainError) -> None:
        if self._trouble is None:
            _log.warning(
                "the registry cannot be read: the last known state stays in use until it is too old",
                reason=str(error),
                block=self.state.block,
                age_s=round(self.age, 1),
                maximum_age_s=self._maximum_age,
            )
        self._trouble = str(error)


def _event(log: Event) -> RegistryEvent:
    given = log.arguments
    return RegistryEvent(
        kind=cast("Kind", log.name),
        operator=given["operator"],
        block=log.block,
        index=log.index,
        number=given.get("number", 0),
        start=given.get("start", 0),
        end=given.get("end", 0),
    )
