"""Request bodies are read with a limit for each, and one for all together, so that no number of clients exhausts the memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from aos_inference.errors import BodyTooLarge, QueueFull

MAX_BODY: Final = 1024 * 1024
MAX_SCORE_BODY: Final = 16 * MAX_BODY
_MAX_DISCARDED: Final = 16 * MAX_BODY


class Intake:
    """Holds at most `most` bytes of bodies that are not taken up yet; parsed they take about ten times as much."""

    def __init__(self, most: int = 2 * MAX_SCORE_BODY) -> None:
        self._most = most
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body, counted until the context is left. Raises BodyTooLarge beyond `limit` bytes, and QueueFull.

        What exceeds the limit is still read for a while, so that the client gets to see the answer.
        """
        body, size, held = bytearray(), 0, 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit + _MAX_DISCARDED:
                    break
                if size <= limit:
                    self._admit(len(chunk))
                    held += len(chunk)
                    body += chunk  # which may find no memory
            if size > limit:
                raise BodyTooLarge(f"The body exceeds {limit:,} bytes; shorten it.")
            yield bytes(body)
        finally:
            self._held -= held

    def _admit(self, size: int) -> None:
        if self._held + size > self._most:
            raise QueueFull(f"Requests of {self._held:,} bytes are being read. Send this one again later.")
        self._held += size
