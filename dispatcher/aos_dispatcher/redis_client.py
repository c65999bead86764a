"""A client of Redis (or Valkey) that never tries again by itself, and what uvloop raises, as redis-py would."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, patience: float) -> redis.Redis:
    """Return a client that waits `patience` seconds for a connection and for each reply."""
    return redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # what is not UTF-8 is nothing of ours, and the seal's to refuse
        protocol=2,
        socket_connect_timeout=patience,
        socket_timeout=patience,
        retry=Retry(
            NoBackoff(), 0
        ),  # what was lost is lost: a message that comes late is worth less than the next
    )


@contextmanager
def told_by_uvloop() -> Iterator[None]:
    """Turn what uvloop raises when a connection has ended before the next write, a plain `RuntimeError`, into `ConnectionError`."""
    try:
        yield
    except RuntimeError as error:
        if "handler is closed" not in str(error):
            raise
        raise ConnectionError(str(error)) from error
