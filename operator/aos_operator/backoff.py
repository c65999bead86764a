"""Pauses between attempts: exponential, with full jitter, so that many operators do not come back at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from aos_operator.boundary import keep_cancellation
from aos_operator.errors import Unavailable

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Backoff:
    """The pauses of one series of attempts: each uniform in [0, min(limit, first * 2^n)] seconds."""

    def __init__(
        self, first: float = 0.25, limit: float = 30.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._limit = limit
        self._draw = draw
        self._ceiling = first

    def next(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        pause = self._draw() * self._ceiling
        self._ceiling = min(self._limit, self._ceiling * 2)
        return pause

    def reset(self) -> None:
        """Start over, after an attempt that went well."""
        self._ceiling = self._first

    async def wait(self) -> None:
        """Sleep for the next pause, unless this task is to end."""
        keep_cancellation()
        await asyncio.sleep(self.next())


async def until_available(
    attempt: Callable[[], Awaitable[T]], what: str, again: type[Unavailable] = Unavailable
) -> T:
    """Repeat `attempt` while it raises `again`; `what` names it in the log. Other errors pass."""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except again as error:
            _log.warning("waiting to try again", attempt=what, problem=str(error))
        await backoff.wait()
