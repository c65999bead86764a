"""Whoever listens to the network: one text for all, when it changes, at most once a second.

A listener is sent the newest text when it has taken the last: a slow one misses those in between, and nothing waits for it in memory but
what its connection holds. Nothing is read while nobody listens.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from aos_dispatcher.attempts import network_of
from aos_dispatcher.errors import TooMany, Unavailable
from aos_dispatcher.metrics import HTTP_REFUSED, STATS_LISTENERS
from aos_dispatcher.network import NetworkView
from aos_dispatcher.settings import Gateway

log = structlog.get_logger()

_EVERY_S: Final = 1.0
_RETRY_S: Final = 10


class Stats:
    """The listeners of one process. `run` it."""

    def __init__(self, view: NetworkView, settings: Gateway) -> None:
        self._view = view
        self._most = settings.listeners
        self._most_of_one = settings.listeners_per_address
        self._here: Counter[str] = Counter()
        self._some_here = asyncio.Event()
        self._text = ""
        self._number = 0
        self._changed = asyncio.Event()

    @contextmanager
    def seat(self, address: str) -> Iterator[None]:
        """Let somebody at this address (empty: unknown) listen within the block. Raises `TooMany`."""
        who = network_of(address)
        if self._here.total() >= self._most:
            raise _refusal(f"{self._most} listen to this process, and no more may", "listeners")
        if who and self._here[who] >= self._most_of_one:
            raise _refusal(f"{self._most_of_one} listen from this address, and no more may", "address")
        self._here[who] += 1
        STATS_LISTENERS.set(self._here.total())
        self._some_here.set()
        try:
            yield
        finally:
            self._here[who] -= 1
            if not self._here[who]:
                del self._here[who]
            STATS_LISTENERS.set(self._here.total())

    async def after(self, number: int) -> tuple[int, str]:
        """Return the newest text with its number, once it is another than `number`; 0 is none."""
        while self._number == number:
            await self._changed.wait()
        return self._number, self._text

    async def run(self) -> None:
        """Look at the network while somebody listens, for ever."""
        while True:
            await self._some_here.wait()
            await self._look()
            await asyncio.sleep(_EVERY_S)
            if not self._here:
                self._some_here.clear()

    async def _look(self) -> None:
        try:
            snapshot = await self._view.snapshot()
        except Unavailable as error:
            log.warning("listeners are told nothing", why=str(error))
            return
        if snapshot.summary != self._text:
            self._text, self._number = snapshot.summary, self._number + 1
            self._changed.set()
            self._changed = asyncio.Event()


def _refusal(said: str, limit: str) -> TooMany:
    HTTP_REFUSED.labels("listeners").inc()
    return TooMany(said, limit, _RETRY_S)
