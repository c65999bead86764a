"""uvicorn's server, which hands over before it stops, and cuts off whoever does not read what it asked for."""

import asyncio
import time
from dataclasses import dataclass
from types import FrameType
from typing import Final

import structlog
import uvicorn

from aos_dispatcher.draining import Draining

log = structlog.get_logger()

_TICKS: Final = 10  # of uvicorn's main loop in a second
_STALLED_S: Final = 10.0
_STEP_S: Final = 1.0  # between two lines of the log
_LOOK_S: Final = 0.1


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C, then hands over, serves for `drain` seconds more (or until the signal comes again), and ends.

    A connection whose peer has taken nothing of what waits for it for `stalled` seconds is cut off, be it an operator's or a project's.
    """

    def __init__(
        self, config: uvicorn.Config, draining: Draining, *, drain: float, stalled: float = _STALLED_S
    ) -> None:
        super().__init__(config)
        self._draining = draining
        self._drain_s = drain
        self._stalled_s = stalled
        self._unread: dict[int, _Unread] = {}
        self._hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; the second time, stop draining."""
        self._hurried = self.should_exit
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections once a second, and do not stop before draining is over, unless Ctrl-C comes twice."""
        if counter % _TICKS == 0:
            self._cut_off()
        stops = await super().on_tick(counter)
        if stops and not self.force_exit:
            await self._leave()
        return stops

    async def _leave(self) -> None:
        # Whoever keeps a connection for several requests would meet its end with the next one on its way.
        self.server_state.default_headers.append((b"connection", b"close"))
        ends = time.monotonic() + self._drain_s
        await self._draining.hand_over()
        told = float("inf")
        while (left := ends - time.monotonic()) > 0 and not self._hurried:
            if told - left >= _STEP_S:
                told = left
                self._tell(f"draining: requests are served for {left:.0f} s more")
            await asyncio.sleep(min(_LOOK_S, left))
        self._draining.break_off()
        self._tell("draining ends: no more requests are taken")

    def _tell(self, what: str) -> None:
        service = self._draining.dispatcher
        operators = len(service.hub.here())
        requests = len(self.server_state.tasks) - operators
        log.info(what, rounds=service.loop.held, requests=max(0, requests), operators=operators)

    def _cut_off(self) -> None:
        """End connections with unread data of which nothing was read for too long; what they wait for would stay in memory for ever."""
        now, unread = time.monotonic(), {}
        for connection in list(self.server_state.connections):
            transport = connection.transport
            waiting = transport.get_write_buffer_size() if transport is not None else 0
            if not waiting:
                continue
            before = self._unread.get(id(connection))
            since = before.since if before is not None and waiting >= before.waiting else now
            if now - since < self._stalled_s:
                unread[id(connection)] = _Unread(waiting, since)
                continue
            log.warning(
                "a peer that reads nothing is cut off",
                peer=transport.get_extra_info("peername"),
                unread=waiting,
            )
            transport.abort()
        self._unread = unread


@dataclass(frozen=True)
class _Unread:
    """How many bytes wait for a peer, and since when that has not become less."""

    waiting: int
    since: float
