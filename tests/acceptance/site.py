"""A site to run the runbook on: PostgreSQL, Valkey and dispatchers, and a `systemctl` that stops and starts them."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import httpx
import yaml

from acceptance.parts import PUBLISHED
from acceptance.processes import ANSWER_S, COMMAND_S, SCRIPTS, command
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_dispatcher.database import Database
from aos_dispatcher.operators import pin_model
from aos_dispatcher.projects import create_project
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer
from aos_service.child import Child
from aos_service.database import create_engine, database_url, ensure_database, migrate

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
NOT_TRIED = "# not tried"

_STUB = """#!{python}
import socket, sys
with socket.socket(socket.AF_UNIX) as control:
    control.connect({path!r})
    control.sendall(" ".join(sys.argv[1:]).encode() + b"\\n")
    said = control.makefile().read()
print(said, end="", file=sys.stderr)
sys.exit(said != "")
"""


def sections() -> dict[str, list[str]]:
    """The page's blocks of shell commands by heading, those aside that it says were not tried."""
    found: dict[str, list[str]] = {}
    heading = ""
    for title, block in re.findall(
        r"^#+ ([^\n]+)$|^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    ):
        heading = title or heading
        if block and not block.startswith(NOT_TRIED):
            found.setdefault(heading, []).append(block)
    return found


@dataclass
class Site:
    """What the page's names stand for here, and the processes by the names of their units."""

    folder: Path
    ports: dict[str, int]
    signer: Signer
    postgres: EmbeddedPostgres
    redis: str
    processes: dict[str, Child] = field(default_factory=dict)
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['aos-dispatcher']}"

    @cached_property
    def names(self) -> dict[str, str]:
        owner = self.postgres.data.stat()
        return {
            "CONFIG": str(self.config("aos-dispatcher")),
            "URL": self.url,
            "DISPATCHER_DB": self.postgres.url("dispatcher"),
            "OPERATOR_DB": self.postgres.url("operator"),
            "REHEARSAL_DB": self.postgres.url("rehearsal"),
            "RESTORED_DB": self.postgres.url("operator_restored"),
            "ADMIN_DB": self.postgres.url("postgres"),
            "PGDATA": str(self.postgres.data / "cluster"),
            "PGOWNER": f"{owner.st_uid}:{owner.st_gid}",
            "BACKUP": str(self.folder / "backup"),
            "MONITOR": str(self.folder / "monitor.json"),
        }

    @property
    def environment(self) -> dict[str, str]:
        """What commands of the page, and ours, run with: the programs of this PostgreSQL before any other's."""
        programs = str(self.postgres._find_programs())
        path = os.pathsep.join([str(self.folder / "bin"), programs, str(SCRIPTS), os.environ["PATH"]])
        return os.environ | {"PATH": path, "AOS_DISPATCHER_KEY": self.signer.secret.hex(), "LC_ALL": "C"}

    def config(self, unit: str) -> Path:
        return self.folder / f"{unit}.yaml"

    def configure(self, unit: str, database: str = "dispatcher") -> None:
        settings = {
            "database": {"url": self.postgres.url(database), "min_connect_pool": 1, "max_connect_pool": 4},
            "identity": {"signer_key": "${AOS_DISPATCHER_KEY}"},
            "listen": {"port": self.ports[unit]},
        } | ({"cluster": {"redis_url": self.redis}} if database == "dispatcher" else {})
        self.config(unit).write_text(yaml.safe_dump(settings))

    async def shell(self, blocks: list[str], **names: str) -> tuple[int, str]:
        """Run blocks of the page in one shell; its exit status, and all that was said."""
        known = "".join(f"{name}='{value}'\n" for name, value in (self.names | names).items())
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-eu",
            "-o",
            "pipefail",
            "-c",
            known + "\n".join(blocks),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def submit(self, count: int) -> None:
        """Have the log grow: jobs wait, since there is no operator."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=ANSWER_S) as client:
            for _ in range(count):
                answer = await client.post("/api/job/submit", json=PUBLISHED | {"verify": self.token})
                assert answer.status_code == 200, answer.text

    async def may_submit(self, project: str, token: str) -> int:
        """Submit a job for a project by this token; the answer's status."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=ANSWER_S) as client:
            body = PUBLISHED | {"from": project, "verify": token}
            return (await client.post("/api/job/submit", json=body)).status_code

    async def start(self, unit: str) -> None:
        if unit == "postgresql":
            await self.postgres.start()
            return
        if unit in self.processes:
            return
        run_it = command("dispatcher", "run", "-c", str(self.config(unit)))
        child = Child(unit, run_it, log=self.folder / f"{unit}.log", environment=self.environment)
        self.processes[unit] = child
        child.start()
        await child.until_ready(lambda: self._ready(unit), timeout_s=COMMAND_S)

    async def stop(self, unit: str) -> None:
        if unit == "postgresql":
            await self.postgres.stop()
        elif unit in self.processes:
            await self.processes.pop(unit).stop()

    async def _ready(self, unit: str) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as client:
                return (await client.get(f"http://127.0.0.1:{self.ports[unit]}/readyz")).is_success
        except httpx.TransportError:
            return False

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what `systemctl` was asked for; what is said is an error."""
        asked = (await reader.readline()).decode().split()
        try:
            match asked:
                case ["start", unit]:
                    await self.start(unit)
                case ["stop", unit]:
                    await self.stop(unit)
                case ["restart", unit]:
                    await self.stop(unit)
                    await self.start(unit)
                case _:
                    writer.write(f"not understood: {asked}\n".encode())
        except Exception as error:  # noqa: BLE001 - it is the shell that shows it, and fails
            writer.write(f"{asked}: {error}\n".encode())
        writer.close()


@asynccontextmanager
async def open_site(folder: Path, ports: list[int]) -> AsyncIterator[Site]:
    """A dispatcher that runs, with a project and a model, and nobody connected to it; nothing is left afterwards."""
    units = ["aos-dispatcher", "aos-dispatcher-2", "forked"]
    async with EmbeddedValkey(folder / "valkey", durable=False) as valkey:
        postgres = EmbeddedPostgres(folder / "postgres", durable=False)
        await postgres.start()
        site = Site(folder, dict(zip(units, ports, strict=True)), Signer.generate(), postgres, valkey.url())
        socket = folder / "control.sock"
        (folder / "bin").mkdir()
        stub = folder / "bin" / "systemctl"
        stub.write_text(_STUB.format(python=sys.executable, path=str(socket)))
        stub.chmod(0o755)
        server = await asyncio.start_unix_server(site.control, socket)
        try:
            await _furnish(site, units)
            yield site
        finally:
            server.close()
            for unit in list(site.processes):
                await site.stop(unit)
            await postgres.stop()
            shutil.rmtree(folder / "backup", ignore_errors=True)


async def _furnish(site: Site, units: list[str]) -> None:
    for unit in units[:2]:
        site.configure(unit)
    for program, name in (("dispatcher", "DISPATCHER_DB"), ("operator", "OPERATOR_DB")):
        url = database_url(site.names[name])
        await ensure_database(url)
        await migrate(url, program)
    engine = create_engine(
        database_url(site.names["DISPATCHER_DB"]),
        pool_min=1,
        pool_max=1,
        connect_timeout=ANSWER_S,
        acquire_timeout=ANSWER_S,
    )
    database = Database(engine)
    site.token = await create_project(database, PUBLISHED["from"], private=False)
    await pin_model(database, "opml", ModelOffer(name=PUBLISHED["job"]["model"], sha256="ab" * 32))
    await database.close()
    await site.start("aos-dispatcher")
