"""A process that takes so many requests out of a bucket of 101, which another process takes from, too; prints how many it got."""

import asyncio
import sys

from aos_dispatcher import throttling
from aos_dispatcher.rates import SLOWEST_RATE, Bucket, Rate
from aos_dispatcher.throttling import RedisBuckets


async def main(url: str, count: int) -> None:
    throttling._PATIENCE_S = 30.0  # type: ignore[misc]  # Redis is there, however busy the machine is
    buckets = RedisBuckets(url, "shared:")
    both = [
        Bucket("token", "token", Rate(SLOWEST_RATE, 101)),
        Bucket("address", "address", Rate(SLOWEST_RATE, 1000)),
    ]
    try:
        levels = await asyncio.gather(*(buckets.take(both, 1) for _ in range(count)))
    finally:
        await buckets.close()
    sys.stdout.write(str(sum(not any(level.late for level in each) for each in levels)))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
