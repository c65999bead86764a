"""The operator's queue in Redis: a stream `aos:{address}:{topic}` with one consumer group.

An entry stays pending from the moment it is read until its result was accepted, refused or cancelled; only then it is
acknowledged and deleted. One operator is one process at a time (the dispatcher keeps one connection for it), so a
process that starts takes over whatever earlier ones left pending, without waiting for them to look dead.
"""

import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from aos_operator.boundary import keep_cancellation
from aos_operator.errors import QueueUnavailable
from aos_operator.tasks import Method, Request, read_request, request_text
from aos_service.coalesce import Coalescer

GROUP = "operator-runner"
_PAGE = 100
_BATCH = 32
"""How many requests are appended in one go: each may be a frame of 4 MiB."""

_Streams: TypeAlias = list[tuple[str, list[tuple[str, dict[str, str]]]]]


@dataclass(frozen=True)
class Entry:
    """A request in the stream, and its id there; `request` is None when it cannot be read."""

    id: str
    request: Request | None


class Queue(Protocol):
    """Where requests wait. Every method raises `QueueUnavailable` when it cannot."""

    async def open(self) -> None:
        """Make the stream and its group, if they are missing."""
        ...

    async def add(self, request: Request) -> None:
        """Append a request."""
        ...

    async def take_over(self) -> Sequence[Entry]:
        """Return all that was read and never done, by whichever process, and make it this process's."""
        ...

    async def read(self, block_s: float) -> Sequence[Entry]:
        """Return entries that nobody has read, waiting up to `block_s` seconds (0: not at all) for the first."""
        ...

    async def done(self, entry_id: str) -> None:
        """Acknowledge an entry and delete it."""
        ...


def connect_redis(url: str) -> redis.Redis:
    """Return a client for `redis://`, `rediss://` or `unix://`, with time-outs longer than any blocking read.

    Raises `ValueError` for another scheme. A lost connection is opened again once; then the error shows.
    """
    return redis.from_url(
        url,
        decode_responses=True,
        protocol=2,  # the replies' shape, whatever the client's default
        socket_connect_timeout=5,
        socket_timeout=10,
        retry=Retry(NoBackoff(), 1),
    )


class RedisQueue:
    """`Queue` on a Redis stream; `client` comes from `connect_redis`."""

    def __init__(self, client: redis.Redis, operator: str, topic: str) -> None:
        self._client = client
        self.stream = f"aos:{operator}:{topic}"
        self._consumer = f"{socket.gethostname()}-{os.getpid()}"
        self._adding = Coalescer(self._add_all, _BATCH, hopeless=QueueUnavailable)
        self._ending = Coalescer(self._done_all, _PAGE, hopeless=QueueUnavailable)
        self._unread: dict[str, Request] = {}
        """What this process has added and not read yet, by its text: it need not be parsed again."""

    async def open(self) -> None:
        """See `Queue.open`."""
        self._unread.clear()
        async with _translated():
            try:
                await self._client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def add(self, request: Request) -> None:
        """See `Queue.add`."""
        await self._adding.submit(request)

    async def _add_all(self, requests: Sequence[Request]) -> list[Exception | None]:
        texts = {request_text(request): request for request in requests}
        self._unread |= texts
        try:
            async with _translated(), self._client.pipeline(transaction=False) as every:
                for text, request in texts.items():
                    every.xadd(self.stream, {str(Method.of(request)): text})
                await every.execute()
        except QueueUnavailable:
            for text in texts:
                self._unread.pop(text, None)
            raise
        return [None] * len(requests)

    async def take_over(self) -> Sequence[Entry]:
        """See `Queue.take_over`."""
        entries: list[Entry] = []
        cursor = "0-0"
        async with _translated():
            while True:
                cursor, claimed = await self._claim(cursor)
                entries += claimed
                if cursor == "0-0":
                    break
            await self._forget_others()
        return entries

    async def read(self, block_s: float) -> Sequence[Entry]:
        """See `Queue.read`."""
        block = max(1, round(block_s * 1000)) if block_s else None
        async with _translated():
            streams = await self._client.xreadgroup(
                GROUP, self._consumer, {self.stream: ">"}, count=_PAGE, block=block
            )
        return [self._entry(*pair) for _, pairs in cast("_Streams", streams) for pair in pairs]

    async def done(self, entry_id: str) -> None:
        """See `Queue.done`."""
        await self._ending.submit(entry_id)

    async def _done_all(self, entry_ids: Sequence[str]) -> list[Exception | None]:
        async with _translated(), self._client.pipeline(transaction=True) as both:
            both.xack(self.stream, GROUP, *entry_ids)
            both.xdel(self.stream, *entry_ids)
            await both.execute()
        return [None] * len(entry_ids)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _claim(self, cursor: str) -> tuple[str, list[Entry]]:
        following, pairs, *_ = await self._client.xautoclaim(
            self.stream, GROUP, self._consumer, min_idle_time=0, start_id=cursor, count=_PAGE
        )
        return following, [self._entry(*pair) for pair in pairs]

    def _entry(self, entry_id: str, fields: dict[str, str]) -> Entry:
        try:
            [(method, text)] = fields.items()
            return Entry(entry_id, self._unread.pop(text, None) or read_request(method, json.loads(text)))
        except ValueError:  # also for an unknown method or several of them
            return Entry(entry_id, None)

    async def _forget_others(self) -> None:
        for consumer in await self._client.xinfo_consumers(self.stream, GROUP):
            if consumer["name"] != self._consumer and consumer["pending"] == 0:
                await self._client.xgroup_delconsumer(self.stream, GROUP, consumer["name"])


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn whatever redis-py raises into `QueueUnavailable`: no error of its leaves a queue that can be used."""
    try:
        yield
        keep_cancellation()
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"Redis cannot do this now ({error}): check its service") from error
