"""Which of two connections of one operator is the newer, whatever processes they were made by."""

from collections.abc import Sequence

from aos_dispatcher.clock import take_ticks
from aos_dispatcher.database import Database
from aos_service.coalesce import Coalescer

_MANY = 512


class Epochs:
    """Numbers that grow with time over all processes: fresh values of `clock_ticks`, where a gap does no harm. Waiting callers share a query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: Coalescer[None, int] = Coalescer(self._take, _MANY)

    async def next(self) -> int:
        """Return a number above each that any process was given before this call. Raises `Unavailable`."""
        return await self._numbers.submit(None)

    async def _take(self, waiting: Sequence[None]) -> list[int]:
        async with self._database.connect() as connection:
            return await take_ticks(connection, len(waiting))
