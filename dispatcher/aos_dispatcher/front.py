"""What the front door has besides jobs: how fast somebody may come, places in queues, conversations, and a view of the network."""

import asyncio
from dataclasses import dataclass
from typing import Self

from aos_dispatcher.conversations import Conversations
from aos_dispatcher.database import Database
from aos_dispatcher.hub import Hub
from aos_dispatcher.network import NetworkView
from aos_dispatcher.operators import Operators
from aos_dispatcher.queue_places import QueuePlaces
from aos_dispatcher.settings import DispatcherSettings
from aos_dispatcher.stats import Stats
from aos_dispatcher.throttling import RedisBuckets, Throttle
from aos_protocol.identity import Signer


@dataclass(frozen=True)
class Front:
    """The parts that /v1 needs beside those of every job; `run` it, and `close` it at the end."""

    throttle: Throttle
    queue: QueuePlaces
    conversations: Conversations
    network: NetworkView
    stats: Stats

    @classmethod
    def of(
        cls, settings: DispatcherSettings, database: Database, signer: Signer, hub: Hub, operators: Operators
    ) -> Self:
        """Put the parts together."""
        url = settings.cluster.redis_url
        # Braces keep all of a dispatcher's keys on one node, where Redis is several.
        shared = RedisBuckets(url.get_secret_value(), f"aos:rate:{{{signer.address}}}:") if url else None
        network = NetworkView(database, hub, operators, signer)
        return cls(
            Throttle(shared),
            QueuePlaces(database),
            Conversations(database, settings.gateway, settings.dispatch.lease),
            network,
            Stats(network, settings.gateway),
        )

    async def run(self) -> None:
        """Look after conversations and listeners, for ever."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.conversations.run())
            parts.create_task(self.stats.run())

    async def close(self) -> None:
        """Close connections of its own."""
        await self.throttle.close()
