"""What a dispatcher has of the chain: the registry that it draws by, and the anchoring of its log. Imports web3."""

import asyncio
from dataclasses import dataclass

from aos_chain.deployment import Deployment
from aos_dispatcher.anchoring import Anchoring
from aos_dispatcher.chain_registry import ChainRegistry
from aos_dispatcher.database import Database
from aos_dispatcher.settings import NO_REGISTRY, Chain
from aos_protocol.identity import Signer


@dataclass(frozen=True)
class ChainLink:
    """Await `start`, then keep `run` running, and `close` it at the end. `anchoring` is None where no contract is configured for it."""

    registry: ChainRegistry
    anchoring: Anchoring | None

    @classmethod
    def of(cls, settings: Chain, database: Database, signer: Signer) -> "ChainLink":
        """Return the link for these settings, which have an RPC endpoint; nothing is asked of it yet. Raises `DispatcherError`."""
        registry = ChainRegistry(settings)
        if settings.anchor is None or not settings.anchor_interval:
            return cls(registry, None)
        # The other two contracts are none of a dispatcher's business.
        place = Deployment(
            settings.chain_id,
            settings.registry,
            NO_REGISTRY,
            settings.anchor,
            NO_REGISTRY,
            settings.deployed_at,
        )
        return cls(registry, Anchoring(database, registry.chain, place, signer, settings.anchor_interval))

    async def start(self) -> None:
        """Check the contracts, and read the registry. Raises `DispatcherError`."""
        await self.registry.start()

    async def run(self) -> None:
        """Follow the registry and anchor the log, for ever."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.registry.run())
            if self.anchoring is not None:
                parts.create_task(self.anchoring.run())

    async def close(self) -> None:
        """Close the connections to the chain."""
        await self.registry.close()
