"""Answers to direct prompts that came by way of the dispatcher: their sealed pieces go back the same way, over the operator's own connection."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import Final

import structlog

from aos_operator.direct import Visit
from aos_operator.errors import LinkLost
from aos_operator.outbox import Outbox
from aos_protocol.messages import DirectChunk, DirectChunks

_MOST: Final = 40 << 10  # characters of boxes in one frame, unless one box has more
_log = structlog.get_logger(__name__)


class DirectRelay:
    """Sends answers as `direct_chunks`; `run` it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._visits: asyncio.Queue[tuple[str, str, Visit]] = asyncio.Queue()

    def start(self, job_id: str, route: str, visit: Visit) -> None:
        """Begin to send the answer to a client that has come by this route."""
        self._visits.put_nowait((job_id, route, visit))

    async def run(self) -> None:
        """Send answers, for ever."""
        async with asyncio.TaskGroup() as sending:
            while True:
                sending.create_task(self._send(*await self._visits.get()))

    async def _send(self, job_id: str, route: str, visit: Visit) -> None:
        """Send one answer. When the connection goes, so has the client: whoever is at the other end of it gets nothing more."""
        try:
            async with aclosing(visit.chunks()) as pieces:
                async for chunks in pieces:
                    for some in _frames(chunks):
                        said = DirectChunks(job_id=job_id, route=route, chunks=some)
                        await self._outbox.notice("direct_chunks", said.to_json())
        except LinkLost:
            _log.warning("the dispatcher is gone, and with it the client of a direct job", job_id=job_id)


def _frames(chunks: Iterable[DirectChunk]) -> Iterator[list[DirectChunk]]:
    """Put pieces together, as many as go into one frame."""
    some: list[DirectChunk] = []
    size = 0
    for chunk in chunks:
        if some and (size + len(chunk.box) > _MOST or len(some) == 64):
            yield some
            some, size = [], 0
        some.append(chunk)
        size += len(chunk.box)
    if some:
        yield some
