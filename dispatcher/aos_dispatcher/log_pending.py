"""Events on their way into the transparency log: recorded in the transaction that stores them, with it or not at all.

1. Whoever writes a row that evidence, standing or the log shows calls `record` in the same transaction.
2. `flush` writes all that was recorded just before the commit, when the transaction has every lock that it takes: of two
   transactions that wait for each other at a row, the later one's entries get the higher ids.
3. The sequencer (`log_sequencer`) moves them into the log.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

INSERT: Final = (
    "insert into log_pending (job_id, entry) select job_id, entry "
    "from unnest(cast(:log_jobs as text[]), cast(:log_entries as text[])) with ordinality as one(job_id, entry, place) order by place"
)
"""Writes the parameters that `taken` returns."""

_RECORDED = "aos_recorded_events"
_BROUGHT = "aos_brought_events"
_FLUSH = text(INSERT)


def begin(connection: AsyncConnection) -> None:
    """Let a fresh transaction have nothing recorded, whatever one before it on the same connection left."""
    connection.info[_RECORDED], connection.info[_BROUGHT] = [], False


def record(connection: AsyncConnection, entry: str, job_id: str | None = None) -> None:
    """Have this entry logged if the transaction of `Database.begin` commits; `job_id` is the job that it is about."""
    connection.info[_RECORDED].append((job_id, entry))


def taken(connection: AsyncConnection) -> dict[str, list[str | None]]:
    """Return what was recorded so far as the parameters of `INSERT`, for a statement of the caller's that ends with it."""
    recorded: list[tuple[str | None, str]] = connection.info[_RECORDED]
    connection.info[_RECORDED], connection.info[_BROUGHT] = [], True
    return {"log_jobs": [job for job, _ in recorded], "log_entries": [entry for _, entry in recorded]}


async def flush(connection: AsyncConnection) -> bool:
    """Write what was recorded and not taken, in its order; returns whether the transaction brought anything."""
    if connection.info[_RECORDED]:
        await connection.execute(_FLUSH, taken(connection))
    brought: bool = connection.info[_BROUGHT]
    return brought
