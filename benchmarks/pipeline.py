"""Jobs per second through the whole path, beside procrastinate's defer-and-process rate on the same PostgreSQL.

    python benchmarks/pipeline.py [--jobs 200] [--rounds 5] [--operators 3] [--json]

Ours: submit over HTTP, draw, verify tickets, dispatch, run (a stub worker that answers at once), sign, verify, store. The
dispatcher and every operator are processes of their own, as deployed. Theirs: defer as many no-op tasks, then run a worker until
all are done. Both use one embedded PostgreSQL with its default durability (fsync on), in turns (A B A B ...).

Needs the `bench` extra: pip install --require-hashes -r requirements/bench.txt.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import procrastinate
import yaml
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
from aos_protocol.identity import Signer
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
                await self._ready(client, 0)
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
                await self._ready(client, operators)
            yield
            await self.database.close()

    async def burst(self, jobs: int) -> tuple[float, float]:
        """Submit jobs from 32 clients and wait for all to end; seconds until all were accepted, and until all ended."""
        todo = iter(range(jobs))
        before = time.perf_counter()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=30) as client:
            await asyncio.gather(*(self._submit(client, todo) for _ in range(CLIENTS)))
        accepted = time.perf_counter() - before
        while await self._count("status in ('created', 'dispatched')"):
            await asyncio.sleep(0.02)
        return accepted, time.perf_counter() - before

    async def lost(self) -> int:
        """How many jobs did not complete."""
        return await self._count("status <> 'completed'")

    async def _count(self, where: str) -> int:
        async with self.database.connect() as connection:
            count: int = (
                await connection.execute(text(f"select count(*) from jobs where {where}"))
            ).scalar_one()
            return count

    async def _submit(self, client: httpx.AsyncClient, todo: Any) -> None:  # noqa: ANN401 - an iterator that clients share
        for index in todo:
            job = {
                "tag": "opml",
                "prompt": "What is AI?",
                "model": MODEL,
                "params": {"temperature": 1.0, "top_p": 0.5},
            }
            body = {"from": "bench", "tag": "", "user": f"user {index}", "job": job, "verify": self._token}
            answer = await client.post("/api/job/submit", json=body)
            answer.raise_for_status()

    async def _ready(self, client: httpx.AsyncClient, operators: int) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await client.get("/readyz")).json().get("operators") == operators:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)

    async def _child(self, stack: AsyncExitStack, name: str, *arguments: str) -> None:
        log = stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = await asyncio.create_subprocess_exec(*arguments, stdout=log, stderr=log)

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


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


async def procrastinate_burst(app: procrastinate.App, jobs: int) -> tuple[float, float]:
    """Defer no-op tasks from 32 clients, then process them; seconds until all were deferred, and until all were done."""
    todo = iter(range(jobs))

    async def client() -> None:
        for index in todo:
            await app.configure_task("nothing").defer_async(index=index)

    before = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    deferred = time.perf_counter() - before
    await app.run_worker_async(wait=False, concurrency=16, install_signal_handlers=False, listen_notify=False)
    return deferred, time.perf_counter() - before


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both in turns and return jobs per second: for each, taking in, and the whole."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
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
                await network.burst(20)
                await procrastinate_burst(app, 20)
                for _ in range(options.rounds):
                    ours.append(await network.burst(options.jobs))
                    theirs.append(await procrastinate_burst(app, options.jobs))
                lost = await network.lost()
    rates = {
        name: [statistics.median(options.jobs / times[part] for times in runs) for part in (0, 1)]
        for name, runs in (("aos", ours), ("procrastinate", theirs))
    }
    return {
        "jobs": options.jobs,
        "rounds": options.rounds,
        "operators": options.operators,
        "lost": lost,
        **rates,
    }


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=200, help="jobs a round (default: 200)")
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
    aos, peer = result["aos"], result["procrastinate"]
    print(
        f"{result['rounds']} rounds of {result['jobs']} jobs each, {result['operators']} operators, {result['lost']} jobs lost"
    )
    print(f"{'':34}{'aos':>10}{'procrastinate':>16}{'ratio':>8}   (medians, jobs a second)")
    print(f"{'taken in (submit / defer)':34}{aos[0]:>10.0f}{peer[0]:>16.0f}{aos[0] / peer[0]:>8.2f}")
    print(f"{'whole path (until the last ended)':34}{aos[1]:>10.0f}{peer[1]:>16.0f}{aos[1] / peer[1]:>8.2f}")


if __name__ == "__main__":
    main()
