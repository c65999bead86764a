"""Redis (or Valkey) as the processes of one dispatcher see it: texts to channels, which arrive or do not."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

from aos_dispatcher.metrics import MESH_DROPPED
from aos_dispatcher.redis_client import connect, told_by_uvloop

log = structlog.get_logger()

_MOST_WAITING: Final = (
    64 << 20
)  # characters; with more, Redis is slower than we are, and what comes is dropped
_BATCH: Final = 256
_PAUSE_S: Final = 0.5
_CONNECT_S: Final = 5.0


class Bus(Protocol):
    """Carries texts between processes: each at most once, in each sender's order, or not at all."""

    def publish(self, channel: str, text: str) -> None:
        """Send a text, at once or never."""

    async def run(
        self, channels: Sequence[str], receive: Callable[[str], None], joined: Callable[[], None]
    ) -> None:
        """Hand over all that comes on these channels, for ever; `joined` is called whenever they are listened to (again)."""


class RedisBus:
    """`Bus` on Redis' publish and subscribe. Redis may go and come: while it is away, everything is dropped.

    `silence` is for how many seconds nothing may come: less than that lies between two messages that this process hears of itself.
    """

    def __init__(self, url: str, silence: float) -> None:
        self._url = url
        self._silence = silence
        self._waiting: deque[tuple[str, str]] = deque()
        self._size = 0
        self._some = asyncio.Event()
        self._away = False

    def publish(self, channel: str, text: str) -> None:
        """See `Bus.publish`."""
        if self._size + len(text) > _MOST_WAITING:
            MESH_DROPPED.inc()
            return
        self._waiting.append((channel, text))
        self._size += len(text)
        self._some.set()

    async def run(
        self, channels: Sequence[str], receive: Callable[[str], None], joined: Callable[[], None]
    ) -> None:
        """See `Bus.run`."""
        client = connect(self._url, _CONNECT_S)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._write(client))
                both.create_task(self._read(client, channels, receive, joined))
        finally:
            await client.aclose()

    async def _write(self, client: redis.Redis) -> None:
        while True:
            await self._some.wait()
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._size -= sum(len(text) for _, text in batch)
            if not self._waiting:
                self._some.clear()
            try:
                with told_by_uvloop():
                    await _publish(client, batch)
            except (RedisError, OSError) as error:
                # What waits is as old by now as what was just lost.
                MESH_DROPPED.inc(len(batch) + len(self._waiting))
                self._waiting.clear()
                self._size = 0
                self._lost(error)
            _keep_cancellation()

    async def _read(
        self,
        client: redis.Redis,
        channels: Sequence[str],
        receive: Callable[[str], None],
        joined: Callable[[], None],
    ) -> None:
        while True:
            try:
                with told_by_uvloop():
                    async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                        await subscription.subscribe(*channels)
                        joined()
                        await self._listen(subscription, receive)
            except (RedisError, OSError, TimeoutError) as error:
                self._lost(error)
            _keep_cancellation()
            await asyncio.sleep(_PAUSE_S)

    async def _listen(self, subscription: redis.client.PubSub, receive: Callable[[str], None]) -> None:
        clock = asyncio.get_running_loop().time
        heard = clock()
        while clock() - heard < self._silence:
            message = await subscription.get_message(timeout=self._silence)
            _keep_cancellation()
            if message is not None and message["type"] == "message":
                heard = clock()
                self._found()
                receive(message["data"])
        raise TimeoutError(f"nothing came for {self._silence:g} s")

    def _lost(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            log.error(
                "redis is away; this process goes on with the operators that are connected to it",
                why=str(error) or type(error).__name__,
            )

    def _found(self) -> None:
        if self._away:
            self._away = False
            log.info("redis is back")


async def _publish(client: redis.Redis, batch: Sequence[tuple[str, str]]) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        for channel, text in batch:
            pipeline.publish(channel, text)
        await pipeline.execute()


def _keep_cancellation() -> None:
    """Raise the cancellation that redis-py swallowed, if it did (https://github.com/python/cpython/issues/86296)."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
