"""The log of a dispatcher that is older than its log: what there was before is written down once, as the log's first entries.

The migration that makes the log leaves a mark where there is something to be written down. The first process that starts then finds
the mark under the log's lock, puts all of it before whatever waits already, and takes the mark away, in one transaction.
"""

from typing import Final

import structlog
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.evidence import EvidenceDesk
from aos_dispatcher.log_pending import record
from aos_dispatcher.log_sequencer import LOCK
from aos_dispatcher.operators import list_models, operators_in
from aos_dispatcher.standing import record_all
from aos_dispatcher.tables import Counter, Job, LogPending
from aos_protocol.log_entries import job_entries, model_entry, operator_entry

log = structlog.get_logger()

_MARK: Final = "unlogged"


async def backfill(database: Database, desk: EvidenceDesk) -> None:
    """Write down what is older than the log, if that was not done yet. Raises `Unavailable`."""
    async with database.begin() as connection:
        await connection.execute(LOCK)
        mark = delete(Counter).where(Counter.name == _MARK).returning(Counter.name)
        if (await connection.execute(mark)).scalar() is None:
            return
        waiting = select(LogPending.id, LogPending.job_id, LogPending.entry).order_by(LogPending.id)
        later = [(job_id, entry) for _, job_id, entry in await connection.execute(waiting)]
        await connection.execute(delete(LogPending))
        numbered = await _record_everything(connection, desk, {entry for _, entry in later})
        for job_id, entry in later:
            if entry not in numbered:
                record(connection, entry, job_id)
    log.info("what is older than the transparency log was written into it")


async def _record_everything(connection: AsyncConnection, desk: EvidenceDesk, known: set[str]) -> set[str]:
    """Record operators, models, jobs, and where operators stand, but for what is `known` to wait already; return the operators' entries.

    These go first also where they wait: what is recorded here tells of operators, and none may be told of before it has its number.
    """
    operators = await operators_in(connection)
    numbered = {operator_entry(address, number): address for address, number in operators}
    for entry in numbered:
        record(connection, entry)
    entries: list[tuple[str | None, str]] = [
        (None, model_entry(**model)) for model in await list_models(connection)
    ]
    for job_id in (await connection.execute(select(Job.id).order_by(Job.sequence))).scalars().all():
        document = await desk.unlogged(connection, job_id)
        entries += [(job_id, entry) for entry in job_entries(document)]
    for about, entry in entries:
        if entry not in known:
            record(connection, entry, about)
    for address in numbered.values():
        await record_all(connection, address)
    return set(numbered)
