"""What the front door has besides jobs: how fast somebody may come, where jobs stand in their queues, and conversations."""

from dataclasses import dataclass
from typing import Self

from aos_dispatcher.conversations import Conversations
from aos_dispatcher.database import Database
from aos_dispatcher.queue_places import QueuePlaces
from aos_dispatcher.settings import DispatcherSettings
from aos_dispatcher.throttling import RedisBuckets, Throttle


@dataclass(frozen=True)
class Front:
    """The parts that /v1 needs beside those of every job; `run` it, and `close` it at the end."""

    throttle: Throttle
    queue: QueuePlaces
    conversations: Conversations

    @classmethod
    def of(cls, settings: DispatcherSettings, database: Database, dispatcher: str) -> Self:
        """Put the parts together, for the dispatcher with this address."""
        url = settings.cluster.redis_url
        # Braces keep all of a dispatcher's keys on one node, where Redis is several.
        shared = RedisBuckets(url.get_secret_value(), f"aos:rate:{{{dispatcher}}}:") if url else None
        return cls(
            Throttle(shared),
            QueuePlaces(database),
            Conversations(database, settings.gateway, settings.dispatch.lease),
        )

    async def run(self) -> None:
        """Look after conversations, for ever."""
        await self.conversations.run()

    async def close(self) -> None:
        """Close connections of its own."""
        await self.throttle.close()
