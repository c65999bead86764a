"""Answers to direct prompts that pass through this dispatcher, because their clients do not reach the operator: ciphertext in, the same ciphertext out.

A piece comes from the operator in a signed frame to the process that it is connected to, with the route that its prompt came by: the process that has the client.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from aos_dispatcher.errors import Refused
from aos_dispatcher.mesh import Mesh
from aos_protocol.direct import pack
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import DirectChunk, DirectChunks

log = structlog.get_logger()

MOST_WAITING: Final = 8 << 20
"""Characters of sealed pieces that may wait for one client that does not take them."""


class Relay:
    """One answer on its way: the pieces that came and were not taken yet. `whole` once its last piece was taken."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        self.whole = False
        self._chunks: list[DirectChunk] = []
        self._waiting = 0
        self.broken = ""
        """Why nothing more comes, if so."""
        self._news = asyncio.Event()

    def take(self, chunks: list[DirectChunk]) -> None:
        """Take pieces in; too many that nobody reads break it."""
        self._waiting += sum(len(chunk.box) for chunk in chunks)
        if self._waiting > MOST_WAITING:
            self.fail("its client did not take its answer")
        if not self.broken:
            self._chunks += chunks
            self._news.set()

    def fail(self, reason: str) -> None:
        """Let nothing more come: the client notices that the last piece is missing."""
        self.broken = reason
        self._news.set()

    async def packed(self) -> AsyncIterator[bytes]:
        """Return the pieces as they travel over HTTP, as they come, until the last or until there will be none."""
        while not self.whole:
            await self._news.wait()
            self._news.clear()
            chunks, self._chunks, self._waiting = self._chunks, [], 0
            if chunks:
                yield b"".join(map(pack, chunks))
                self.whole = any(chunk.last for chunk in chunks)
            if self.broken:
                return


class Relays:
    """The answers that pass through this process, `process`, by job."""

    def __init__(self, mesh: Mesh | None, process: str, frame_bytes: int) -> None:
        self.process = process
        self._mesh = mesh
        self._frame_bytes = frame_bytes
        self._open: dict[str, Relay] = {}

    @contextmanager
    def open(self, job_id: str, operator: str) -> Iterator[Relay]:
        """Take in what this operator sends of a job meanwhile. Raises `Refused` when somebody else does already."""
        if job_id in self._open:
            raise Refused(409, "the answer of this job is on its way to another client already")
        relay = self._open[job_id] = Relay(operator)
        try:
            yield relay
        finally:
            del self._open[job_id]

    def accept(self, frame: Frame) -> None:
        """Take in, or pass on, pieces from an operator that is connected here. Raises `ProtocolError`."""
        said = parse_message(DirectChunks, frame.params[0])
        if said.route == self.process:
            self._take(frame.address, said)
        elif self._mesh is not None:
            self._mesh.direct(said.route, frame)

    def passed_on(self, text: str) -> None:
        """Take in pieces that came to another process. Raises `ProtocolError`."""
        frame = open_frame(text, max_bytes=self._frame_bytes)
        self._take(frame.address, parse_message(DirectChunks, frame.params[0] if frame.params else None))

    def lost(self, operator: str) -> None:
        """Break what comes from an operator that is not connected any more."""
        for relay in self._open.values():
            if relay.operator == operator:
                relay.fail("its operator was lost while it answered")

    def close(self) -> None:
        """Break all answers: this process is about to end."""
        for relay in self._open.values():
            relay.fail("this dispatcher was stopped while it relayed the answer")

    def _take(self, operator: str, said: DirectChunks) -> None:
        relay = self._open.get(said.job_id)
        if relay is None or relay.operator != operator:
            log.debug("pieces that nobody waits for", job_id=said.job_id, operator=operator)
            return
        relay.take(said.chunks)
