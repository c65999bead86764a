"""Events on their way into the transparency log: recorded in the transaction that stores them, with it or not at all.

1. Whoever writes a row that evidence, standing or the log shows calls `record` in the same transaction.
2. `flush` writes all that was recorded just before the commit, when the transaction has every lock that it takes: of two
   transactions that wait for each other at a row, the later one's entries get the higher ids.
3. The sequencer (`log_sequencer`) moves them into the log.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_RECORDED = "aos_recorded_events"
_INSERT = text(
    "insert into log_pending (job_id, entry) select job_id, entry "
    "from unnest(cast(:jobs as text[]), cast(:entries as text[])) with ordinality as one(job_id, entry, place) order by place"
)


def begin(connection: AsyncConnection) -> None:
    """Let a fresh transaction have nothing recorded, whatever one before it on the same connection left."""
    connection.info[_RECORDED] = []


def record(connection: AsyncConnection, entry: str, job_id: str | None = None) -> None:
    """Have this entry logged if the transaction of `Database.begin` commits; `job_id` is the job that it is about."""
    connection.info[_RECORDED].append((job_id, entry))


async def flush(connection: AsyncConnection) -> bool:
    """Write what was recorded, in its order; returns whether there was anything."""
    recorded: list[tuple[str | None, str]] = connection.info.pop(_RECORDED)
    if not recorded:
        return False
    jobs, entries = zip(*recorded, strict=True)
    await connection.execute(_INSERT, {"jobs": list(jobs), "entries": list(entries)})
    return True
