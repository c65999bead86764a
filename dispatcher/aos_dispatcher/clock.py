"""The dispatcher's own entry of the vector clock, shared by all its processes through PostgreSQL."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_protocol.clock import VectorClock
from aos_service.coalesce import Coalescer

DISPATCHER = 1
"""The dispatcher's participant number."""

_MANY = 512
_TICKS = text("select nextval('clock_ticks') from generate_series(1, :count)")


async def take_ticks(connection: AsyncConnection, count: int) -> list[int]:
    """Take `count` fresh values of the dispatcher's counter, in order."""
    return list((await connection.execute(_TICKS, {"count": count})).scalars())


class DispatcherClock:
    """Ticks for events of the dispatcher. Waiting callers share one query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ticks: Coalescer[None, int] = Coalescer(self._take, _MANY)

    async def tick(self, *known: Mapping[str, str]) -> dict[str, str]:
        """Return the clock of a new event that has seen all of `known`."""
        return stamped(await self._ticks.submit(None), *known)

    async def _take(self, waiting: Sequence[None]) -> list[int]:
        async with self._database.connect() as connection:
            return await take_ticks(connection, len(waiting))


def stamped(tick: int, *known: Mapping[str, str]) -> dict[str, str]:
    """Merge `known` clocks and set the dispatcher's own entry to a fresh tick.

    A tick comes from one counter for all processes, so it exceeds every dispatcher entry seen before.
    """
    clock = VectorClock.from_map({str(DISPATCHER): str(tick)})
    for other in known:
        clock = clock.merge(VectorClock.from_map(dict(other)))
    return clock.to_map()
