"""Jobs per second through the whole path, beside procrastinate's defer-and-process rate on the same PostgreSQL.

    python benchmarks/pipeline.py [--jobs 300] [--rounds 5] [--operators 3] [--json]

Ours: submit over HTTP, draw, verify tickets, dispatch, run (a stub worker that answers at once), sign, verify, store. The
dispatcher and every operator are processes of their own, as deployed. Theirs: defer as many no-op tasks, then run a worker until
all are done, one at a time (its default) and sixteen at once. All use one embedded PostgreSQL with its default durability (fsync on), in turns.

The processor time of each kind of process for a job is the kernel's count, which other users of the machine move less than the clock. *Proofs and
signatures* is what the VRF and ECDSA of one job take on one core, by the same code and in the same run: no path that verifies can be faster.

Needs the `bench` extra: pip install --require-hashes -r requirements/bench.txt.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import procrastinate
import yaml
from one_dispatcher import Client, ready, seconds, tree
from sqlalchemy import text

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_cli.ports import number, reserve
from aos_dispatcher.database import Database
from aos_dispatcher.operators import register_operator
from aos_dispatcher.projects import create_project
from aos_operator.database import prepare_database
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_protocol import vrf
from aos_protocol.identity import Signer, recover_message
from aos_service.database import create_engine, database_url, ensure_database
from aos_service.settings import load_settings

MODEL, DIGEST = "stub.gguf", "ab" * 32
CLIENTS = 32
BOUND_S = 300.0


async def operator_process(config: Path) -> None:
    """Be one operator with a stub worker, until killed."""
    settings = load_settings(config, OperatorSettings)
    await run_operator(settings, asyncio.Event(), worker=StubWorker({MODEL: DIGEST}))


class Network:
    """A dispatcher and its operators as child processes, on the servers given."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        self._folder, self._postgres, self._valkey = folder, postgres, valkey
        self._signer = Signer.generate()
        self._port = 0
        self._token = ""
        self._pids: dict[str, list[int]] = {"dispatcher": [], "operators": []}

    @asynccontextmanager
    async def running(self, operators: int) -> AsyncIterator[None]:
        """Run until the block ends; every child is stopped by its pid."""
        with reserve(0) as port:
            self._port = number(port)
        url = self._postgres.url("dispatcher")
        async with AsyncExitStack() as children:
            await self._child(
                children, "dispatcher", _command("dispatcher"), "run", "-c", str(self._dispatcher(url))
            )
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}") as client:
                await ready(client, 0)
                engine = create_engine(
                    database_url(url), pool_min=1, pool_max=2, connect_timeout=5, acquire_timeout=5
                )
                self.database = Database(engine)
                self._token = await create_project(self.database, "bench", private=False)
                for index in range(operators):
                    config = await self._operator(index)
                    await self._child(
                        children, f"operator-{index}", sys.executable, __file__, "--operator", str(config)
                    )
                await ready(client, operators)
            yield
            await self.database.close()

    async def burst(self, jobs: int) -> tuple[float, float]:
        """Submit jobs from 32 clients and wait for all to end; seconds until all were accepted, and until all ended."""
        todo = iter(range(jobs))
        before = time.perf_counter()
        await asyncio.gather(*(self._submit(todo) for _ in range(CLIENTS)))
        accepted = time.perf_counter() - before
        while await self._count("status in ('created', 'dispatched')"):
            await asyncio.sleep(0.02)
        return accepted, time.perf_counter() - before

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time so far of each kind of process."""
        servers = {"postgres": self._postgres, "valkey": self._valkey}
        pids = self._pids | {name: tree(server.child.pid or 0) for name, server in servers.items()}
        return {"client": time.process_time()} | {
            name: sum(map(seconds, some)) for name, some in pids.items()
        }

    async def lost(self) -> int:
        """How many jobs did not complete."""
        return await self._count("status <> 'completed'")

    async def _count(self, where: str) -> int:
        async with self.database.connect() as connection:
            count: int = (
                await connection.execute(text(f"select count(*) from jobs where {where}"))
            ).scalar_one()
            return count

    async def _submit(self, todo: Iterator[int]) -> None:
        client = await Client.to(f"http://127.0.0.1:{self._port}")
        for index in todo:
            job = {
                "tag": "opml",
                "prompt": "What is AI?",
                "model": MODEL,
                "params": {"temperature": 1.0, "top_p": 0.5},
            }
            body = {"from": "bench", "tag": "", "user": f"user {index}", "job": job, "verify": self._token}
            status = await client.post("/api/job/submit", json.dumps(body).encode())
            if status != 200:
                raise RuntimeError(f"a job was answered with {status}")
        client.close()

    async def _child(self, stack: AsyncExitStack, name: str, *arguments: str) -> None:
        log = stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = await asyncio.create_subprocess_exec(*arguments, stdout=log, stderr=log)
        self._pids["operators" if name.startswith("operator") else "dispatcher"].append(process.pid)

        async def stop() -> None:
            process.terminate()
            await process.wait()

        stack.push_async_callback(stop)

    def _dispatcher(self, url: str) -> Path:
        return self._write(
            "dispatcher",
            {
                "database": {"url": url},
                "identity": {"signer_key": self._signer.secret.hex()},
                "listen": {"port": self._port},
                "limits": {},
            },
        )

    async def _operator(self, index: int) -> Path:
        signer, url = Signer.generate(), self._postgres.url(f"operator_{index}")
        await prepare_database(database_url(url))
        await register_operator(self.database, signer.address)
        return self._write(
            f"operator-{index}",
            {
                "db": {"pg_db_url": url, "min_connect_pool": 8, "max_connect_pool": 8},
                "queue": {"queue_url": self._valkey.url()},
                "net": {"dispatcher_url": f"ws://127.0.0.1:{self._port}/ws", "worker_concurrency": 16},
                "node": {"signer_key": signer.secret.hex(), "dispatcher_address": self._signer.address},
            },
        )

    def _write(self, name: str, settings: dict[str, Any]) -> Path:
        path = self._folder / f"{name}.yaml"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(settings))
        return path


def proofs_and_signatures(operators: int) -> float:
    """Seconds that the VRF and ECDSA of one untagged job take with so many operators.

    The dispatcher proves the seed, which each operator verifies; each proves a ticket, which the dispatcher verifies. Two frames a ticket and four later
    ones, the receipt, the seat and the result are signed once and recovered once.
    """
    signer, message, alpha = Signer.generate(), b"m" * 900, b"a" * 96
    proof, signature = vrf.prove(signer, alpha), signer.sign_message(message)

    def each(work: Callable[[], object], times: int = 300) -> float:
        before = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - before) / times

    prove, verify = (
        each(lambda: vrf.prove(signer, alpha)),
        each(lambda: vrf.verify(signer.public_key, alpha, proof)),
    )
    sealed = each(lambda: signer.sign_message(message)) + each(lambda: recover_message(message, signature))
    return prove * (1 + operators) + verify * 2 * operators + sealed * (2 * operators + 7)


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


async def procrastinate_burst(app: procrastinate.App, jobs: int, at_once: int) -> tuple[float, float]:
    """Defer no-op tasks from 32 clients, then process them; seconds until all were deferred, and until all were done."""
    todo = iter(range(jobs))

    async def client() -> None:
        for index in todo:
            await app.configure_task("nothing").defer_async(index=index)

    before = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    deferred = time.perf_counter() - before
    deferred_at = time.perf_counter()
    await app.run_worker_async(
        wait=False, concurrency=at_once, install_signal_handlers=False, listen_notify=False
    )
    return deferred, time.perf_counter() - deferred_at


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all in turns and return jobs per second of each, and milliseconds of processor time a job of ours."""
    times: dict[str, list[tuple[float, float]]] = {"aos": [], "one at a time": [], "16 at once": []}
    cpu: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="aos-bench-") as folder:
        Path(folder).chmod(0o711)
        async with (
            EmbeddedPostgres(Path(folder) / "postgres") as postgres,
            EmbeddedValkey(Path(folder) / "valkey") as valkey,
        ):
            await ensure_database(database_url(postgres.url("procrastinate")))
            app = procrastinate.App(
                connector=procrastinate.PsycopgConnector(conninfo=postgres.url("procrastinate"))
            )

            @app.task(name="nothing")
            async def nothing(index: int) -> None:
                del index

            network = Network(Path(folder), postgres, valkey)
            async with app.open_async(), network.running(options.operators):
                await app.schema_manager.apply_schema_async()
                await network.burst(50)
                await procrastinate_burst(app, 20, 16)
                for _ in range(options.rounds):
                    before = network.cpu()
                    times["aos"].append(await network.burst(options.jobs))
                    after = network.cpu()
                    cpu.append({name: 1e3 * (after[name] - before[name]) / options.jobs for name in after})
                    for name, at_once in (("one at a time", 1), ("16 at once", 16)):
                        times[name].append(await procrastinate_burst(app, options.jobs, at_once))
                lost = await network.lost()
    rates = {
        name: [statistics.median(options.jobs / one[part] for one in runs) for part in (0, 1)]
        for name, runs in times.items()
    }
    return {
        "jobs": options.jobs,
        "rounds": options.rounds,
        "operators": options.operators,
        "lost": lost,
        "load": os.getloadavg()[0],
        "rates": rates,
        "cpu": {name: statistics.median(one[name] for one in cpu) for name in cpu[0]},
        "limit": 1e3 * proofs_and_signatures(options.operators),
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures for people."""
    rates, cpu, limit = result["rates"], result["cpu"], result["limit"]
    cores = os.cpu_count() or 1
    print(
        f"{result['rounds']} rounds of {result['jobs']} jobs each, {result['operators']} operators, {result['lost']} jobs lost, "
        f"load average {result['load']:.1f} at the end; medians"
    )
    whole = rates["aos"][1]
    print(f"ours: {rates['aos'][0]:.0f} jobs taken in a second, {whole:.0f} through the whole path")
    for name in ("one at a time", "16 at once"):
        deferred, processed = rates[name]
        ratio = whole / processed
        print(
            f"procrastinate, {name}: {deferred:.0f} deferred a second, {processed:.0f} processed (ratio {ratio:.2f})"
        )
    spent = ", ".join(f"{name} {value:.2f}" for name, value in cpu.items())
    print(f"processor time in ms a job of ours: {spent}; together {sum(cpu.values()):.1f}")
    print(
        f"proofs and signatures alone: {limit:.2f} ms a job, so at most {1e3 * cores / limit:.0f} on {cores} cores"
    )


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=300, help="jobs a round (default: 300)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default: 5)")
    parser.add_argument("--operators", type=int, default=3, help="operator processes (default: 3)")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--operator", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.operator is not None:
        asyncio.run(operator_process(options.operator))
        return
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    if options.json:
        print(json.dumps(result))
        return
    show(result)


if __name__ == "__main__":
    main()
