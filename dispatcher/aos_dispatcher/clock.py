"""The dispatcher's own entry of the vector clock, shared by all its processes through PostgreSQL."""

from collections import deque
from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_protocol.clock import VectorClock
from aos_service.coalesce import Coalescer

DISPATCHER = 1
"""The dispatcher's participant number."""

_BLOCK = 256
TICKS_OF_JOB = 5
"""How many ticks a job needs: its own, and those of draw, dispatch, end, and a call to score."""

_TICKS = text("select nextval('clock_ticks') from generate_series(1, :count)")


async def take_ticks(connection: AsyncConnection, count: int) -> list[int]:
    """Take values of the counter, in order, each above all that any process has taken so far."""
    return list((await connection.execute(_TICKS, {"count": count})).scalars())


class DispatcherClock:
    """Ticks for events of the dispatcher, from one counter for all its processes, used in their order by each.

    A process keeps some in stock, which may be less than what another one has used meanwhile: those that do not exceed all that an event has seen are
    thrown away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stock: deque[int] = deque()
        self._stocking: Coalescer[int, None] = Coalescer(self._restock, _BLOCK)

    async def tick(self, *known: Mapping[str, str]) -> dict[str, str]:
        """Return the clock of a new event that has seen all of `known`. Raises `Unavailable`."""
        seen = max((int(clock.get(str(DISPATCHER), "0")) for clock in known), default=0)
        while not (self._stock and self._stock[0] > seen):
            if self._stock:
                self._stock.popleft()
            else:
                await self._stocking.submit(seen)
        return stamped(self._stock.popleft(), *known)

    def spread(self, taken: Sequence[int], jobs: int) -> Sequence[int]:
        """Return the first ticks of new jobs, in order, out of `TICKS_OF_JOB` for each, and have the others in stock: the jobs need them next."""
        self._stock = deque(taken[jobs:])
        return taken[:jobs]

    async def _restock(self, waiting: Sequence[int]) -> list[Exception | None]:
        if not self._stock or self._stock[-1] <= max(waiting):
            async with self._database.connect() as connection:
                self._stock = deque(await take_ticks(connection, _BLOCK))
        return [None] * len(waiting)


def stamped(tick: int, *known: Mapping[str, str]) -> dict[str, str]:
    """Merge `known` clocks and set the dispatcher's own entry to a tick that exceeds every dispatcher entry among them."""
    clock = VectorClock.from_map({str(DISPATCHER): str(tick)})
    for other in known:
        clock = clock.merge(VectorClock.from_map(dict(other)))
    return clock.to_map()
