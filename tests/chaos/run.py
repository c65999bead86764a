"""One run: the network, its clients and its faults, then all checks, and the table."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import structlog

from chaos import checks, network, outside, plan
from chaos.checks import Row
from chaos.clients import Client, Ledger
from chaos.faults import Conductor
from chaos.network import Network
from chaos.plan import Options

log = structlog.get_logger()

_LOOK_S = 0.3
_LOOK_BOUND_S = 10.0
_AWAY = (OSError, EOFError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True)
class Report:
    """What a run has shown."""

    options: Options
    seconds: float
    faults: str
    rows: Sequence[Row]

    @property
    def good(self) -> bool:
        """True when every check held."""
        return all(row.good for row in self.rows)

    def table(self) -> str:
        """The summary: a line for each check, under it what is wrong."""
        lines = [f"seed {self.options.seed}, {self.seconds:.0f} s", f"faults: {self.faults}"]
        for row in self.rows:
            lines.append(
                f"{'ok' if row.good else 'FAIL':<5} {row.count:>7}  {row.what}  {_bracketed(row.note)}".rstrip()
            )
            lines += [f"               {problem}" for problem in row.problems[:8]]
            if len(row.problems) > 8:
                lines.append(f"               and {len(row.problems) - 8} more")
        return "\n".join([*lines, "all held" if self.good else "NOT all held"])


async def run(options: Options, folder: Path) -> Report:
    """Run a network in a folder, where its settings, logs and data are left, through its faults; return what was found."""
    began = time.monotonic()
    folder.chmod(0o711)  # root's PostgreSQL is run by somebody else
    async with network.running(folder, options) as net:
        log.info("the network runs", operators=options.operators, dispatchers=options.dispatchers)
        ledger = Ledger(folder / "receipts.jsonl", net.dispatcher_key.address)
        conductor = Conductor(net)
        bound: list[Row] = []
        try:
            async with asyncio.timeout(options.seconds):
                await _load(net, ledger, conductor)
        except TimeoutError:
            bound = [Row(f"not over within {options.seconds:g} s", 1, ["see what is open below"])]
        log.info("the load is over", accepted=ledger.accepted)
        rows = [*bound, *await _check(net, ledger)]
    rows += [await asyncio.to_thread(outside.logs, folder), outside.ends(net.processes.values())]
    done = ", ".join(f"{count} {deed} {kind}" for (kind, deed), count in sorted(conductor.done.items()))
    return Report(options, time.monotonic() - began, f"{conductor.done.total()} ({done})", rows)


async def _load(net: Network, ledger: Ledger, conductor: Conductor) -> None:
    options = net.options
    todo = iter(plan.jobs(options))
    clients = [
        Client(
            net.urls[number % len(net.urls) :] + net.urls[: number % len(net.urls)],
            net.token,
            ledger,
            options.waiting,
            random.Random(f"client {number} {options.seed}"),
        )
        for number in range(options.clients)
    ]
    async with asyncio.TaskGroup() as observers:
        observer = observers.create_task(_observe(net, ledger))
        async with asyncio.TaskGroup() as group:
            group.create_task(conductor.run(plan.faults(options), ledger.until_accepted))
            for client in clients:
                group.create_task(client.run(todo))
        await _all_ended(net)
        observer.cancel()


async def _observe(net: Network, ledger: Ledger) -> None:
    """Count the ended jobs, past all proxies, whenever the database can be asked.

    Each look has a connection and a bound of its own: clients wait for what it sees, so nothing may end it or hold it up.
    """
    while True:
        with suppress(*_AWAY):
            async with asyncio.timeout(_LOOK_BOUND_S):
                ledger.ended = await _ended(net)
            ledger.grow()
        await asyncio.sleep(_LOOK_S)


async def _ended(net: Network) -> int:
    connection = await net.database()
    try:
        ended = "select count(*) from jobs where status in ('completed', 'failed', 'cancelled')"
        return int(await connection.fetchval(ended))
    finally:
        connection.terminate()


async def _all_ended(net: Network) -> None:
    """Return when no job and no round is open."""
    connection = await net.database()
    open_ = "select count(*) from rounds where status in ('created', 'dispatched')"
    try:
        while await connection.fetchval(open_):
            await asyncio.sleep(_LOOK_S)
    finally:
        await connection.close()


async def _check(net: Network, ledger: Ledger) -> list[Row]:
    connection = await net.database()
    try:
        rows = await checks.stored(connection, ledger, plan.jobs(net.options))
    finally:
        await connection.close()
    said = ", ".join(f"{count} {what}" for what, count in ledger.answers.most_common())
    slow = f"{said}; the slowest 429 or 503 took {ledger.slowest_503_s:.1f} s"
    rows.append(Row("answers to clients", ledger.answers.total(), ledger.wrong, slow))
    job_ids = [receipt.job_id for receipt in ledger.receipts.values()]
    return [*rows, *await asyncio.gather(outside.evidence(net, job_ids), outside.watched(net))]


def _bracketed(note: str) -> str:
    return f"({note})" if note else ""
