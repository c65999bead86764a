"""The sequencer: gives recorded events their places in the log, for ever, and signs the head over them.

One transaction does all of it, under a lock that one process holds at a time: an event leaves `log_pending` exactly when it is in
the log under a signed head. Whatever is pending is taken, so an event whose transaction commits late is late and not lost.
Before it goes on, the sequencer works out the last head's root from what is stored: a log that was tampered with is not continued.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import Any

import structlog
from sqlalchemy import Row, delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import log_reader, log_tree
from aos_dispatcher.database import Database
from aos_dispatcher.errors import LogDamaged, Unavailable
from aos_dispatcher.events import wait
from aos_dispatcher.metrics import LOG_ENTRIES, LOG_HEALTHY, LOG_SIZE
from aos_dispatcher.tables import LogEntry, LogHead
from aos_protocol.errors import InvalidEvidence
from aos_protocol.identity import Signer
from aos_protocol.log import TreeHead
from aos_protocol.typed_data import Domain, TreeHeadClaim, sign_typed

log = structlog.get_logger()

_MOST = 4096  # entries of one head: hashing them shall not hold up the event loop
_INTERVAL_S = 0.2  # between two heads that nobody waits for
_POLL_S = 1.0  # the longest that an event of another process waits, should that process have ended

LOCK = text("select pg_advisory_xact_lock(hashtext('aos transparency log'))")
"""What a transaction that gives entries their places begins with."""

_TAKE = text(
    "delete from log_pending where id in (select id from log_pending order by id limit :most) returning id, job_id, entry"
)
_APPEND = text(
    "insert into log_entries (index, job_id, entry) select :first + place - 1, job_id, entry "
    "from unnest(cast(:jobs as text[]), cast(:entries as text[])) with ordinality as one(job_id, entry, place)"
)
_GROW = text(
    "insert into log_tiles (level, index, hashes) "
    "select * from unnest(cast(:levels as bigint[]), cast(:indexes as bigint[]), cast(:hashes as bytea[])) "
    "on conflict (level, index) do update set hashes = excluded.hashes"
)


class Sequencer:
    """Moves what is pending into the log of one dispatcher identity; any number of processes may run one each."""

    def __init__(self, database: Database, signer: Signer, domain: Domain) -> None:
        self._database = database
        self._signer = signer
        self._domain = domain
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Log events as they come, for ever; the database being away only pauses it."""
        while True:
            self._database.recorded.clear()
            try:
                while await self.step() == _MOST:
                    await asyncio.sleep(0)
                LOG_HEALTHY.set(1)
            except Unavailable as error:
                log.error("database away; events are logged when it is back", why=str(error))
            except LogDamaged as error:
                LOG_HEALTHY.set(0)
                log.critical("the transparency log cannot be continued", why=str(error))
            await asyncio.sleep(_INTERVAL_S)
            await wait(self._database.recorded, _POLL_S)

    async def step(self) -> int:
        """Log what is pending, at most a few thousand entries, and return how many; the first step signs the empty log.

        Raises `LogDamaged` when what is stored does not agree with the last head, `Unavailable` without the database.
        """
        # One connection of this process waits for the log's lock, however many callers there are.
        async with self._busy, self._database.begin() as connection:
            await connection.execute(LOCK)
            head = (await connection.execute(select(LogHead.__table__))).one_or_none()
            taken = (await connection.execute(_TAKE, {"most": _MOST})).all()
            pending = sorted(taken, key=itemgetter(0))
            if pending or head is None:
                size = 0 if head is None else head.size
                await _check_length(connection, size)
                await self._append(connection, size, head, pending)
        LOG_ENTRIES.inc(len(pending))
        return len(pending)

    @asynccontextmanager
    async def settled(self, job_id: str | None) -> AsyncIterator[AsyncConnection]:
        """Open a snapshot in which every event of this job (None: of no job) is in the log. Raises as `step` does."""
        while True:
            async with self._database.snapshot() as connection:
                if await log_reader.is_settled(connection, job_id):
                    yield connection
                    return
            await self.step()

    async def _append(
        self, connection: AsyncConnection, size: int, head: Row[Any] | None, pending: Sequence[Row[Any]]
    ) -> None:
        edge = await log_reader.read_tiles(connection, log_tree.edge_of(size))
        try:
            if head is not None and log_tree.root_of(size, edge).hex() != head.root:
                raise InvalidEvidence(
                    f"the tree of {size} entries has not the root of the head that was signed"
                )
            grown = log_tree.grow(size, edge, (row.entry.encode() for row in pending))
            root = log_tree.root_of(size + len(pending), edge | grown)
        except InvalidEvidence as error:
            raise LogDamaged(str(error)) from None
        if pending:
            entries = {"jobs": [row.job_id for row in pending], "entries": [row.entry for row in pending]}
            await connection.execute(_APPEND, entries | {"first": size})
            levels, indexes = zip(*grown, strict=True)
            tiles = {"levels": list(levels), "indexes": list(indexes), "hashes": list(grown.values())}
            await connection.execute(_GROW, tiles)
        await self._sign(
            connection, size + len(pending), root, since=head.timestamp if head is not None else 0
        )

    async def _sign(self, connection: AsyncConnection, size: int, root: bytes, *, since: int) -> None:
        # A clock that was set back does not make a larger log older than a smaller one.
        head = signed_head(self._signer, self._domain, size, root, max(since, int(time.time())))
        await connection.execute(delete(LogHead))
        await connection.execute(insert(LogHead).values(**head.to_json()))
        LOG_SIZE.set(size)


async def _check_length(connection: AsyncConnection, size: int) -> None:
    last = (await connection.execute(select(func.max(LogEntry.index)))).scalar()
    there = 0 if last is None else last + 1
    if there != size:
        raise LogDamaged(f"it has {there} entries, and its head is over {size}")


def signed_head(signer: Signer, domain: Domain, size: int, root: bytes, timestamp: int) -> TreeHead:
    """Sign a state of the log."""
    claim = TreeHeadClaim(signer.address, size, root.hex(), timestamp)
    return TreeHead(
        size=size, root=claim.root, timestamp=timestamp, signature=sign_typed(signer, domain, claim)
    )
