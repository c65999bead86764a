"""The transparency log: appends per second into PostgreSQL, proofs per second, and their sizes at a million entries.

    python benchmarks/log.py [--entries 1000000] [--batch 4096] [--rounds 5] [--json]

Ours: events are recorded in transactions as the dispatcher records them, and the sequencer gives them their places: entries, tiles of
the tree, and a signed head. Beside it, in the same run and in turns, a plain insert of the same rows into a table without a tree, in
statements of the same size. Proofs are read and put together from PostgreSQL, as `GET /api/log/proof` does, and verified. One embedded
PostgreSQL with its default durability (fsync on).
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_cli.embedded import EmbeddedPostgres
from aos_dispatcher import log_reader
from aos_dispatcher.database import Database
from aos_dispatcher.log_pending import record
from aos_dispatcher.log_sequencer import Sequencer, signed_head
from aos_protocol import merkle
from aos_protocol.identity import Signer
from aos_protocol.log import TreeHead, check_entry, check_growth, check_head
from aos_protocol.log_entries import result_entry
from aos_protocol.typed_data import Domain
from aos_service.database import create_engine, database_url, ensure_database
from aos_service.revisions import migrate

DOMAIN = Domain(31337, "0x" + "1" * 40)
OPERATOR = "0x" + "a" * 40
PROOFS = 300
_PLAIN = text(
    "insert into plain (index, job_id, entry) select :first + place - 1, job_id, entry "
    "from unnest(cast(:jobs as text[]), cast(:entries as text[])) with ordinality as one(job_id, entry, place)"
)
Event = tuple[str, str]


class Bench:
    """One database with a log, and a table that has none."""

    def __init__(self, database: Database) -> None:
        self.signer = Signer.generate()
        self.database = database
        self.sequencer = Sequencer(database, self.signer, DOMAIN)
        self.size = 0

    async def prepare(self) -> None:
        """Make the plain table, with the same columns and indexes as the log's entries."""
        async with self.database.begin() as connection:
            for statement in (
                "create table plain (index bigint primary key, job_id text, entry text not null)",
                "create index on plain (job_id)",
            ):
                await connection.execute(text(statement))
        await self.sequencer.step()

    async def log(self, events: Sequence[Event]) -> None:
        """Record events in one transaction, and sequence them: what takes an event from its row to a signed head."""
        async with self.database.begin() as connection:
            for job_id, entry in events:
                record(connection, entry, job_id)
        while await self.sequencer.step():
            pass

    async def plainly(self, events: Sequence[Event]) -> None:
        """Insert the same rows, and nothing else."""
        rows = {
            "first": self.size,
            "jobs": [job for job, _ in events],
            "entries": [entry for _, entry in events],
        }
        async with self.database.begin() as connection:
            await connection.execute(_PLAIN, rows)

    async def both(self, events: Sequence[Event], *, ours_first: bool) -> tuple[float, float]:
        """Time both on the same events; seconds for ours and theirs."""
        ways = [self.log, self.plainly] if ours_first else [self.plainly, self.log]
        took = {way.__name__: await _timed(way, events) for way in ways}
        self.size += len(events)
        return took["log"], took["plainly"]


def events(start: int, count: int) -> list[Event]:
    """As many results of jobs, each with a digest of its own."""
    made = []
    for number in range(start, start + count):
        job_id = f"{number:064x}"
        made.append((job_id, result_entry(job_id, str(number), OPERATOR, f"frame {number}")))
    return made


async def appends(bench: Bench, total: int, batch: int) -> list[tuple[float, float]]:
    """Fill the log to `total` entries; events per second of ours and theirs, for each batch."""
    rates: list[tuple[float, float]] = []
    while bench.size < total:
        count = min(batch, total - bench.size)
        ours, theirs = await bench.both(events(bench.size, count), ours_first=len(rates) % 2 == 0)
        rates.append((count / ours, count / theirs))
    return rates


async def proofs(bench: Bench) -> dict[str, Any]:
    """Prove random entries and growths under the newest head; how many a second, and their sizes in bytes."""
    async with bench.database.connect() as connection:
        head = await log_reader.read_head(connection)
        assert head is not None
        check_head(bench.signer.address, DOMAIN, head)
        places = [random.randrange(head.size) for _ in range(PROOFS)]
        inclusion = [await _inclusion(connection, index, head) for index in places]
        growth = [await _growth(connection, first + 1, head) for first in places]
    return {
        "inclusion": _summary(inclusion),
        "consistency": _summary(growth),
        "head": len(head.model_dump_json()),
    }


async def _inclusion(connection: AsyncConnection, index: int, head: TreeHead) -> tuple[float, int]:
    before = time.perf_counter()
    proven = await log_reader.inclusion(connection, index, head.size)
    took = time.perf_counter() - before
    assert proven is not None
    check_entry(proven, head)
    return took, 32 * len(proven.proof)


async def _growth(connection: AsyncConnection, first: int, head: TreeHead) -> tuple[float, int]:
    query = text("select entry from log_entries where index < :first order by index")
    before = time.perf_counter()
    proof = await log_reader.consistency(connection, first, head.size)
    took = time.perf_counter() - before
    if first <= 2000:  # its root is worked out from the entries themselves, where that is quick
        leaves = [entry.encode() for entry in (await connection.execute(query, {"first": first})).scalars()]
        check_growth((first, merkle.root(leaves).hex()), (head.size, head.root), proof)
    return took, 32 * len(proof)


def _summary(measured: Sequence[tuple[float, int]]) -> dict[str, float]:
    seconds, sizes = [took for took, _ in measured], [size for _, size in measured]
    return {
        "per_second": 1 / statistics.median(seconds),
        "bytes_median": statistics.median(sizes),
        "bytes_largest": max(sizes),
    }


def heads(signer: Signer, count: int = 500) -> float:
    """Heads signed per second."""
    before = time.perf_counter()
    for size in range(count):
        signed_head(signer, DOMAIN, size, bytes(32), size)
    return count / (time.perf_counter() - before)


async def _timed(work: Callable[[Sequence[Event]], Awaitable[None]], of: Sequence[Event]) -> float:
    before = time.perf_counter()
    await work(of)
    return time.perf_counter() - before


async def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything on one embedded server."""
    async with EmbeddedPostgres(folder / "postgres") as postgres:
        url = database_url(postgres.url("dispatcher"))
        await ensure_database(url)
        await migrate(url, "dispatcher")
        engine = create_engine(url, pool_min=2, pool_max=2, connect_timeout=5, acquire_timeout=30)
        bench = Bench(Database(engine))
        await bench.prepare()
        small = [
            await bench.both(events(bench.size, 1), ours_first=turn % 2 == 0)
            for turn in range(20 * arguments.rounds)
        ]
        rates = await appends(bench, arguments.entries, arguments.batch)
        found = await proofs(bench)
        async with bench.database.connect() as connection:
            sizes = "select pg_total_relation_size('log_tiles'), pg_total_relation_size('log_entries')"
            tiles, entries = (await connection.execute(text(sizes))).one()
        await bench.database.close()
    late = rates[-max(1, len(rates) // 4) :]
    return {
        "entries": bench.size,
        "batch": arguments.batch,
        "ours": statistics.median(ours for ours, _ in rates),
        "plain": statistics.median(plain for _, plain in rates),
        "ours_last_quarter": statistics.median(ours for ours, _ in late),
        "one_ms": 1000 * statistics.median(ours for ours, _ in small),
        "one_plain_ms": 1000 * statistics.median(plain for _, plain in small),
        "heads": heads(bench.signer),
        "tile_bytes": tiles / bench.size,
        "entry_bytes": entries / bench.size,
        **found,
    }


def table(found: dict[str, Any]) -> str:
    """The Markdown table."""
    ratio = found["ours"] / found["plain"]
    lines = [
        f"| at {found['entries']:,} entries | |",
        "| --- | --- |",
        f"| events logged per second, {found['batch']:,} at a time | {found['ours']:,.0f} |",
        f"| likewise, the last quarter of them | {found['ours_last_quarter']:,.0f} |",
        f"| plain rows inserted per second, no tree | {found['plain']:,.0f} |",
        f"| ratio of the medians | {ratio:.2f} |",
        f"| one event alone: recorded, sequenced, head signed | {found['one_ms']:.1f} ms |",
        f"| one plain row alone | {found['one_plain_ms']:.1f} ms |",
    ]
    for kind in ("inclusion", "consistency"):
        of = found[kind]
        size = f"{of['bytes_median']:,.0f} bytes (largest {of['bytes_largest']:,})"
        lines += [
            f"| {kind} proofs per second, one connection | {of['per_second']:,.0f} |",
            f"| {kind} proof | {size} |",
        ]
    lines += [
        f"| heads signed per second | {found['heads']:,.0f} |",
        f"| signed head, as JSON | {found['head']} bytes |",
        f"| tree on disk per entry | {found['tile_bytes']:.0f} bytes beside {found['entry_bytes']:.0f} of the entry |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5, help="each of 20 single events")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aos-bench-") as folder:
        Path(folder).chmod(0o711)
        found = asyncio.run(measure(Path(folder), arguments))
    sys.stdout.write((json.dumps(found, indent=2) if arguments.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
