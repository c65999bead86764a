"""Requests are counted in Redis for all processes of a dispatcher together, or, while there is none, by each process for itself.

One Lua script looks at all buckets that a request is taken from and writes them, by the clock of Redis: so they are exact, however many
dispatchers ask, and a request that one of them refuses costs nothing in the others. What a process lets in, it counts in its own memory, too:
whoever has spent a burst has no other one when Redis goes away. When it comes back, what was let in meanwhile is not counted in it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from aos_dispatcher.errors import RedisAway
from aos_dispatcher.metrics import THROTTLE_ALONE
from aos_dispatcher.rates import SECOND_US, Bucket, Level, decide
from aos_dispatcher.redis_client import connect, told_by_uvloop
from aos_service.coalesce import Coalescer

log = structlog.get_logger()

_PATIENCE_S: Final = 0.5
_AWAY_S: Final = 1.0  # between two attempts to reach a Redis that was away
_BATCH: Final = 128
_MOST_BUCKETS: Final = 65_536

# aos_dispatcher.rates.decide, in Lua. `%.0f`: Lua would write a number of 16 digits with 14. PX: a bucket that is full needs no key.
_TAKE: Final = """
local time, cost, told, late = redis.call('TIME'), tonumber(ARGV[1]), {}, false
local now = time[1] * 1000000 + time[2]
for i, key in ipairs(KEYS) do
    local interval, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    local missing = math.min(math.max(0, (tonumber(redis.call('GET', key)) or 0) - now), burst * interval)
    told[2 * i - 1], told[2 * i] = math.max(0, missing + (cost - burst) * interval), missing
    late = late or told[2 * i - 1] > 0
end
if not late then
    for i, key in ipairs(KEYS) do
        told[2 * i] = told[2 * i] + cost * tonumber(ARGV[2 * i])
        redis.call('SET', key, string.format('%.0f', now + told[2 * i]), 'PX', math.ceil(told[2 * i] / 1000) + 1)
    end
end
return told
"""


@dataclass(frozen=True)
class _Wanted:
    """One request: the buckets that it is taken from, and what it costs."""

    buckets: Sequence[Bucket]
    cost: int


class LocalBuckets:
    """Buckets of this process alone. Of more than 65,536, those that were used longest ago are forgotten, and so full again."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._full_at: dict[str, int] = {}

    def take(self, buckets: Sequence[Bucket], cost: int) -> list[Level]:
        """Take `cost` requests out of all buckets or none (`rates.decide`)."""
        now = self._now()
        full_at = [self._full_at.get(bucket.key, 0) for bucket in buckets]
        levels = decide([bucket.rate for bucket in buckets], full_at, cost, now)
        if not any(level.late for level in levels):
            for bucket, level in zip(buckets, levels, strict=True):
                self._put(bucket.key, now + level.missing)
        return levels

    def follow(self, buckets: Sequence[Bucket], levels: Sequence[Level]) -> None:
        """Let buckets stand as they do elsewhere."""
        now = self._now()
        for bucket, level in zip(buckets, levels, strict=True):
            self._put(bucket.key, now + level.missing)

    def __len__(self) -> int:
        return len(self._full_at)

    def _now(self) -> int:
        return round(self._clock() * SECOND_US)

    def _put(self, key: str, full_at: int) -> None:
        self._full_at.pop(key, None)  # so that dicts' order is the order of use
        while len(self._full_at) >= _MOST_BUCKETS:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[key] = full_at


class RedisBuckets:
    """Buckets in Redis, under keys that begin with `prefix`. Requests that come at the same time share a round trip."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._client = connect(url, _PATIENCE_S)
        self._taking: Coalescer[_Wanted, list[Level]] = Coalescer(self._take, _BATCH, hopeless=RedisAway)

    async def take(self, buckets: Sequence[Bucket], cost: int) -> list[Level]:
        """Take `cost` requests out of all buckets or none. Raises `RedisAway`."""
        return await self._taking.submit(_Wanted(buckets, cost))

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _take(self, batch: Sequence[_Wanted]) -> list[list[Level] | Exception]:
        try:
            with told_by_uvloop():
                async with self._client.pipeline(transaction=False) as pipeline:
                    for wanted in batch:
                        pipeline.eval(_TAKE, len(wanted.buckets), *self._arguments(wanted))
                    replies = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise RedisAway(str(error) or type(error).__name__) from error
        return [[Level(*reply[i : i + 2]) for i in range(0, len(reply), 2)] for reply in replies]

    def _arguments(self, wanted: _Wanted) -> list[str | int]:
        keys = [self._prefix + bucket.key for bucket in wanted.buckets]
        rates = [number for bucket in wanted.buckets for number in (bucket.rate.interval, bucket.rate.burst)]
        return [*keys, wanted.cost, *rates]


class Throttle:
    """The buckets of one process: those in Redis, where it has one and that answers, else its own.

    A Redis that does not answer is asked again after a second, by one request at a time.
    """

    def __init__(self, shared: RedisBuckets | None) -> None:
        self._shared = shared
        self._local = LocalBuckets()
        self._away = False
        self._ask_at = 0.0

    async def take(self, buckets: Sequence[Bucket], cost: int) -> list[Level]:
        """Take `cost` requests out of all buckets or none (`rates.decide`)."""
        if not buckets:
            return []
        if self._shared is None or not self._may_ask():
            return self._local.take(buckets, cost)
        try:
            levels = await self._shared.take(buckets, cost)
        except RedisAway as error:
            self._lost(error)
            return self._local.take(buckets, cost)
        self._found()
        self._local.follow(buckets, levels)
        return levels

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._shared is not None:
            await self._shared.close()

    def _may_ask(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._away and now < self._ask_at:
            return False
        self._ask_at = now + _AWAY_S
        return True

    def _lost(self, error: Exception) -> None:
        THROTTLE_ALONE.set(1)
        if not self._away:
            self._away = True
            log.error(
                "redis does not count requests; this process limits by itself",
                why=str(error),
            )

    def _found(self) -> None:
        if self._away:
            self._away = False
            THROTTLE_ALONE.set(0)
            log.info("redis counts requests again")
