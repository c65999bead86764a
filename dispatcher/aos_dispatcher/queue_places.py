"""Where a job stands among those of its model that wait for a committee: read for all who ask, once a second for each model.

The first 1,000 that wait are read, by the index that the dispatch loop claims rounds by: so a place costs the same however many wait, and
whoever is further back is told 1,000.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias

from sqlalchemy import text

from aos_dispatcher.aged import AgedCache
from aos_dispatcher.database import Database

FURTHEST: Final = 1000
_READ_EVERY_S: Final = 1.0
_MODELS: Final = 1024

# As in `rounds_store`: for `=` in place of the comparisons of rows, PostgreSQL may read all that wait, and sort them.
_FIRST: Final = text(
    """
    select job_id from rounds
    where status = 'created' and (job_type, model, id) > (:job_type, :model, 0) and (job_type, model) <= (:job_type, :model)
    order by job_type, model, id limit :most
    """
)

Queue: TypeAlias = tuple[str, str]
"""A job type and a model's name."""


class QueuePlaces:
    """The places of waiting jobs, at most a second old."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places: AgedCache[Queue, dict[str, int]] = AgedCache(_READ_EVERY_S, _MODELS)
        self._reading: dict[Queue, asyncio.Task[dict[str, int]]] = {}

    async def of(self, job_type: str, model: str, job_id: str) -> int | None:
        """Return a job's place, 1 for the one that is next, at most `FURTHEST`; None when it waits no more.

        Of jobs that have come within the last second, the place is that behind all who were there before.
        """
        places = await self._read((job_type, model))
        return places.get(job_id, FURTHEST if len(places) >= FURTHEST else None)

    async def length(self, job_type: str, model: str) -> int:
        """Return how many jobs of a model wait, at most `FURTHEST`."""
        return len(await self._read((job_type, model)))

    async def _read(self, queue: Queue) -> dict[str, int]:
        known = self._places.get(queue)
        if known is not None:
            return known
        if queue not in self._reading:
            self._reading[queue] = asyncio.create_task(self._query(queue))
        return await asyncio.shield(self._reading[queue])

    async def _query(self, queue: Queue) -> dict[str, int]:
        job_type, model = queue
        try:
            async with self._database.connect() as connection:
                found = await connection.execute(
                    _FIRST, {"job_type": job_type, "model": model, "most": FURTHEST}
                )
                ids: Sequence[str] = found.scalars().all()
        finally:
            del self._reading[queue]
        # Of a job with several rounds, as a tagged one's, the first counts.
        places = {job_id: place for place, job_id in reversed(list(enumerate(ids, start=1)))}
        self._places.put(queue, places)
        return places
