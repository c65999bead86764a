"""Leaving in good order: other processes go on with what this one was at, and nobody is turned away without being told where to.

1. No more rounds are taken up, no more operators let in, and `/readyz` answers 503: whoever sends requests shall look elsewhere.
2. Rounds that are worked on are given back as they stand, so that another process takes them up at once.
3. Operators are told to connect again (WebSocket close code 1012), to another process if they know one.
4. Requests go on to be served, for as long as the settings say (`listen.drain`): then `Server` takes no more, and finishes what is open. A stream goes on
   meanwhile, whoever leads its round now; one that has not come to its end by then is broken off, and its job has failed.
"""

import asyncio
from dataclasses import dataclass

import structlog

from aos_dispatcher.errors import Unavailable
from aos_dispatcher.service import Dispatcher

log = structlog.get_logger()

_HAND_OVER_S = 10.0
"""How long giving rounds back may take; without that, their leases run out by themselves."""


@dataclass
class Draining:
    """The end of one process; `hand_over` may be awaited more than once, and happens once."""

    dispatcher: Dispatcher

    def break_off(self) -> None:
        """End step 4: whoever still follows a job is told that there will be no more."""
        self.dispatcher.following.close()
        self.dispatcher.sessions.relays.close()

    async def hand_over(self) -> None:
        """Do steps 1 to 3."""
        service = self.dispatcher
        if service.leaving.is_set():
            return
        service.leaving.set()
        log.info("draining begins", rounds=service.loop.held, operators=len(service.hub.here()))
        try:
            async with asyncio.timeout(_HAND_OVER_S):
                await service.loop.stop()
                await service.store.release_all()
        except (Unavailable, TimeoutError) as error:
            log.warning(
                "leases not released; they run out by themselves", why=str(error) or "no answer in time"
            )
        if service.mesh is not None:
            service.mesh.wake()
        service.hub.close()
