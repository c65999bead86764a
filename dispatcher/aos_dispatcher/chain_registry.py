"""The registry of a network that is on a chain: the contract's confirmed state, followed, with its age in sight.

Importing this module imports web3, so `service` does it only where a chain is configured.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aos_chain.client import Chain
from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_chain.follower import RegistryFollower
from aos_chain.registry import RegistryState
from aos_dispatcher.errors import DispatcherError, NotConfirmed, RegistryStale
from aos_dispatcher.metrics import REGISTRY_AGE, REGISTRY_BLOCK
from aos_dispatcher.settings import Chain as ChainSettings
from aos_dispatcher.tables import JsonObject
from aos_protocol.sortition import MAX_RANGE

_REGISTRY = "OperatorRegistry"


class ChainRegistry:
    """Who is registered in the contract, and with which range. Await `start`, then keep `run` running, and `close` it at the end."""

    def __init__(self, settings: ChainSettings) -> None:
        self._settings = settings
        self.chain = connect(settings)
        self._follower = RegistryFollower(
            self.chain,
            settings.registry,
            settings.deployed_at,
            confirmations=settings.confirmations,
            poll_interval=settings.poll_interval,
            maximum_age=settings.maximum_age,
        )

    async def start(self) -> None:
        """See that the configured contracts are there, and read the registry. Raises `DispatcherError` that says what to correct."""
        try:
            await _check(self.chain, self._settings)
            await self._follower.start()
        except ChainError as error:
            raise DispatcherError(f"the chain cannot be used: {error}") from error

    async def run(self) -> None:
        """Follow the registry for ever, whatever becomes of the endpoint."""
        await self._follower.run()

    async def close(self) -> None:
        """Close the connections to the chain."""
        await self.chain.close()

    def state(self) -> RegistryState:
        """Return the registry to draw by. Raises `RegistryStale` when it was confirmed too long ago."""
        try:
            return self._follower.check()
        except ChainUnavailable as error:
            raise RegistryStale(str(error)) from error

    async def number_of(self, operator: str) -> int:
        """Return the number of an operator with a range, by the last known state. Raises `NotConfirmed`, or `DispatcherError` for one without."""
        number = self._follower.state.number_of(operator)
        if number is not None:
            return number
        named = f"operator {operator} has no range in the registry {self._settings.registry} on chain {self._settings.chain_id}"
        try:
            asked = self.chain.function(_REGISTRY, self._settings.registry, "operatorRanges", operator)
            _, end = await self.chain.call(asked)
        except ChainUnavailable as error:
            raise NotConfirmed(
                f"{named} as far as is known here, and the chain does not answer: {error}"
            ) from error
        if end:
            raise NotConfirmed(
                f"{named} that has {self._settings.confirmations} confirmations: in a moment it will"
            )
        raise DispatcherError(
            f"{named} (block {self._follower.state.block}); register it with: aos chain register"
        )

    def standing(self) -> JsonObject:
        """Return which block the registry is known at, how many seconds ago that was confirmed, and whether it is drawn by; for anybody to see."""
        block, age = self._follower.state.block, self._follower.age
        REGISTRY_BLOCK.set(block)
        REGISTRY_AGE.set(age)
        return {"block": block, "age": round(age, 1), "fresh": age <= self._settings.maximum_age}


def connect(settings: ChainSettings) -> Chain:
    """Return the configured chain, without asking it anything yet. Raises `DispatcherError` for a URL that cannot be read."""
    if settings.rpc_url is None:
        raise DispatcherError("no chain is configured: set chain.rpc_url")
    try:
        return Chain.connect(settings.rpc_url.get_secret_value())
    except ChainError as error:
        raise DispatcherError(f"chain.rpc_url: {error}") from error


async def check_chain(settings: ChainSettings) -> None:
    """Raise `DispatcherError` unless the configured contracts are on the configured chain; for a start, before anything else runs."""
    async with _opened(settings) as chain:
        await _check(chain, settings)


async def read_registry(settings: ChainSettings) -> RegistryState:
    """Read the registry once. Raises `DispatcherError`."""
    async with _opened(settings) as chain:
        await _check(chain, settings)
        follower = RegistryFollower(
            chain,
            settings.registry,
            settings.deployed_at,
            confirmations=settings.confirmations,
            poll_interval=settings.poll_interval,
            maximum_age=settings.maximum_age,
        )
        return await follower.start()


@asynccontextmanager
async def _opened(settings: ChainSettings) -> AsyncIterator[Chain]:
    try:
        async with connect(settings) as chain:
            yield chain
    except ChainError as error:
        raise DispatcherError(f"the chain cannot be used: {error}") from error


async def _check(chain: Chain, settings: ChainSettings) -> None:
    await chain.require_chain(settings.chain_id)
    await chain.require_contract(settings.registry)
    if await _answer(chain, _REGISTRY, settings.registry, "MAX_RANGE") != MAX_RANGE:
        raise ChainError(
            f"chain.registry {settings.registry} is no registry of AOS: give OperatorRegistry's address"
        )
    if settings.anchor is None:
        return
    await chain.require_contract(settings.anchor)
    owner = await _answer(chain, "Anchor", settings.anchor, "registry")
    if owner != settings.registry:
        raise ChainError(
            f"chain.anchor {settings.anchor} belongs to the registry {owner}, not to chain.registry {settings.registry}"
        )


async def _answer(chain: Chain, contract: str, address: str, name: str) -> object:
    try:
        return await chain.call(chain.function(contract, address, name))
    except Reverted as error:
        raise ChainError(
            f"the contract at {address} is no {contract}: correct its address ({error})"
        ) from error
