"""One dispatcher as a process on an embedded PostgreSQL, and what it and its database cost: shared by latency, growth and operators.

Operators are simulated: real keys, frames, tickets, results and scores over real WebSockets (`tests/support/operators.py`), many in one
other process, with no worker, queue or database of their own. So what is measured is the dispatcher.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from sqlalchemy import insert, text

from aos_cli.embedded import EmbeddedPostgres
from aos_cli.ports import number, reserve
from aos_dispatcher.database import Database
from aos_dispatcher.operators import operator_entry, record
from aos_dispatcher.projects import create_project
from aos_dispatcher.tables import Operator
from aos_protocol.identity import Signer
from aos_service.database import create_engine
from aos_service.postgres import connect, database_url

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROMPT = "What is AI?"
ACCEPTED, AWAY = 200, 503


def signer_of(index: int) -> Signer:
    """The key of a simulated operator: the same in every run."""
    return Signer((index + 1).to_bytes(32, "big"))


@dataclass
class Cpu:
    """Processor time in seconds of the dispatcher and of its PostgreSQL, ended backends included."""

    dispatcher: float
    postgres: float

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu(self.dispatcher - other.dispatcher, self.postgres - other.postgres)

    def of(self, jobs: int) -> dict[str, float]:
        """Milliseconds a job."""
        return {"dispatcher": 1e3 * self.dispatcher / jobs, "postgres": 1e3 * self.postgres / jobs}


class OneDispatcher:
    """A running dispatcher with `registered` operators in its registry, none of them connected yet."""

    def __init__(self, postgres: EmbeddedPostgres, name: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.postgres = postgres
        self._database_url = postgres.url(name)
        self.token = ""
        self.database: Database
        self.process: asyncio.subprocess.Process

    def cpu(self) -> Cpu:
        """What was used so far."""
        return Cpu(seconds(self.process.pid), sum(map(seconds, tree(self.postgres.child.pid or 0))))

    def rss(self) -> int:
        """The dispatcher's resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    async def query(self, statement: str, **parameters: object) -> Sequence[Any]:
        """Run a statement of ours on the dispatcher's database, and return its rows, if any."""
        async with self.database.begin() as connection:
            result = await connection.execute(text(statement), parameters)
            return result.all() if result.returns_rows else []

    async def fill(self, statements: Sequence[str]) -> None:
        """Run these statements each by itself, without looking up whether rows that are referred to exist, and write all of it out."""
        connection = await connect(database_url(self._database_url))
        try:
            await connection.execute("set session_replication_role = replica; set synchronous_commit = off")
            for statement in (*statements, "vacuum analyze", "checkpoint"):
                await connection.execute(statement, timeout=600)
        finally:
            await connection.close()

    def body(self, index: int, **more: object) -> bytes:
        """The body of a submission."""
        job = {
            "tag": "opml",
            "prompt": PROMPT,
            "model": "tiny.gguf",
            "params": {"temperature": 1.0, "top_p": 0.5},
        }
        said = {"from": "bench", "tag": "", "user": f"user {index}", "job": job, "verify": self.token}
        return json.dumps(said | more).encode()

    async def until_ended(self, pause: float = 0.05) -> None:
        """Return when no job of ours waits or is at work."""
        open_jobs = (
            "select count(*) from rounds where status in ('created', 'dispatched') and model = 'tiny.gguf'"
        )
        while (await self.query(open_jobs))[0][0]:
            await asyncio.sleep(pause)

    async def until_connected(self, operators: int) -> None:
        """Return when so many operators are connected."""
        async with httpx.AsyncClient(base_url=self.url) as client:
            await ready(client, operators)


@asynccontextmanager
async def own_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """Run a PostgreSQL, with fsync on, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="aos-bench-") as folder:
        Path(folder).chmod(0o711)
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            yield postgres


@asynccontextmanager
async def one_dispatcher(
    postgres: EmbeddedPostgres,
    registered: int,
    *,
    name: str = "dispatcher",
    command: Sequence[str] | None = None,
    **settings: dict[str, Any],
) -> AsyncIterator[OneDispatcher]:
    """Run a dispatcher on a database of this name with these settings beside the defaults; it is stopped by its pid at the end."""
    async with AsyncExitStack() as stack:
        folder = postgres.data.parent
        with reserve(0) as reserved:
            port = number(reserved)
        here = OneDispatcher(postgres, name, port)
        config = _configured(folder / f"{name}.yaml", postgres.url(name), port, settings)
        program = command or [
            str(Path(sys.executable).with_name("dispatcher")),
            "run",
            "--log-level",
            "error",
        ]
        here.process = await child(stack, folder / f"{name}.log", *program, "-c", str(config))
        engine = create_engine(
            database_url(postgres.url(name)), pool_min=1, pool_max=2, connect_timeout=5, acquire_timeout=5
        )
        here.database = Database(engine)
        stack.push_async_callback(here.database.close)
        await here.until_connected(0)
        here.token = await create_project(here.database, "bench", private=False)
        await _register(here.database, registered)
        yield here


async def child(stack: AsyncExitStack, log: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start a process that is stopped by its pid when the stack closes; its input is a pipe, and so is its output unless it goes to `log`."""
    kept = stack.enter_context(log.open("ab"))
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=asyncio.subprocess.PIPE, stdout=kept, stderr=kept
    )

    async def stop() -> None:
        if process.returncode is None:
            process.terminate()
            await process.wait()

    stack.push_async_callback(stop)
    return process


class Client:
    """One kept-alive HTTP connection that posts JSON, with as little of its own as there can be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def to(cls, url: str) -> "Client":
        """Connect to `http://host:port`."""
        host = url.removeprefix("http://")
        name, _, port = host.partition(":")
        return cls(*await asyncio.open_connection(name, int(port)), host)

    async def post(self, path: str, body: bytes) -> int:
        """Send a request and return the status of its answer, which is read whole."""
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await self._reader.readexactly(length)
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def burst(here: OneDispatcher, jobs: int, clients: int = 32, **more: object) -> int:
    """Submit jobs as fast as so many clients can, each until it is accepted; returns how many 503 that took.

    Raises `RuntimeError` for any other answer than 200 and 503.
    """
    todo, again = iter(range(jobs)), 0

    async def submit() -> None:
        nonlocal again
        client = await Client.to(here.url)
        for index in todo:
            while (status := await client.post("/api/job/submit", here.body(index, **more))) != ACCEPTED:
                if status != AWAY:
                    raise RuntimeError(f"a submission was answered {status}")
                again += 1
                await asyncio.sleep(0.1)
        client.close()

    await asyncio.gather(*(submit() for _ in range(clients)))
    return again


async def ready(client: httpx.AsyncClient, operators: int) -> None:
    """Return when the dispatcher says that so many operators are connected."""
    async with asyncio.timeout(120):
        while True:
            try:
                if (await client.get("/readyz")).json().get("operators") == operators:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


def _configured(path: Path, url: str, port: int, settings: dict[str, dict[str, Any]]) -> Path:
    path.touch(0o600)
    fixed: dict[str, dict[str, Any]] = {
        "database": {"url": url},
        "identity": {"signer_key": Signer.generate().secret.hex()},
        "listen": {"port": port},
    }
    path.write_text(yaml.safe_dump({**settings, **fixed}))
    return path


async def _register(database: Database, count: int) -> None:
    """Put operators into the registry, and the log, in one transaction."""
    async with database.begin() as connection:
        rows = [{"address": signer_of(index).address, "number": index + 2} for index in range(count)]
        if rows:
            await connection.execute(insert(Operator), rows)
        for row in rows:
            record(connection, operator_entry(row["address"], row["number"]))


def tree(root: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    return [root, *(pid for direct in children for pid in tree(int(direct)))]


def seconds(pid: int) -> float:
    """Of a process and its children that ended: user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * TICK_S
