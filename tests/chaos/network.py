"""The network of a run: its servers, processes and the proxies between them."""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import yaml
from typer.testing import CliRunner

from acceptance.processes import command
from aos_cli.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from aos_cli.ports import number, reserve
from aos_dispatcher.main import app as dispatcher
from aos_operator.database import prepare_database
from aos_protocol.identity import Signer
from aos_service.database import database_url
from chaos import leases
from chaos.plan import REAL_MODEL, STUB_MODEL, Options
from chaos.processes import Process
from support.calibration import calibration
from support.tcp_proxy import Address, TcpProxy

STUB_DIGEST = "ab" * 32
_MODELS = Path(__file__).resolve().parents[2] / "models"
_STUB_PROGRAM = Path(__file__).with_name("stub_worker.py")
_RUNS = 200
_START_S = 60.0

_DISPATCH = {
    "draw_timeout": 2,
    "reassign_after": 3,
    "member_timeout": 20,
    "job_timeout": 400,
    "lease": 6,
}
"""Shorter than the defaults, so that what they are for happens; but a lease must outlive a statement that PostgreSQL leaves unanswered."""


@dataclass
class Network:
    """All parts, by name; `folder` has their settings and logs."""

    folder: Path
    options: Options
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    dispatcher_key: Signer = field(default_factory=Signer.generate)
    token: str = ""
    urls: list[str] = field(default_factory=list)
    direct: list[str] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    proxies: dict[str, TcpProxy] = field(default_factory=dict)
    reserved: list[socket.socket] = field(default_factory=list)
    _supervisors: list[asyncio.Task[None]] = field(default_factory=list)

    def named(self, kind: str) -> list[str]:
        """The names of all processes and proxies of a kind."""
        return [name for name in (*self.processes, *self.proxies) if name.rpartition(":")[0] == kind]

    async def database(self) -> asyncpg.Connection:
        """A connection of the test's own to the dispatcher's database, past the proxies."""
        host = str(self.postgres.socket.parent)
        return await asyncpg.connect(host=host, user="postgres", database="dispatcher", timeout=5)

    async def proxy(self, name: str, target: Address, *, websocket: bool = False) -> int:
        """Put a proxy before an address; its port."""
        chance = random.Random(f"{name} {self.options.seed}")
        proxy = self.proxies[name] = TcpProxy(target, chance, websocket)
        await proxy.start()
        return proxy.port

    def add(self, name: str, line: Callable[[int], list[str]]) -> None:
        """Start a process, `line` being the command line of each of its runs, and start it again whenever it ends by itself."""
        process = self.processes[name] = Process(name.replace(":", "-"), line, self.folder)
        process.start()
        self._supervisors.append(asyncio.create_task(process.supervise()))

    def write(self, name: str, settings: dict[str, Any]) -> Path:
        """Write a settings file that only its owner reads."""
        file = self.folder / f"{name}.yaml"
        file.touch(0o600)
        file.write_text(yaml.safe_dump(settings))
        return file

    async def restart_server(self, server: EmbeddedServer, down_s: float) -> None:
        """Kill PostgreSQL's postmaster or Valkey, and start it on the same data."""
        child = server.child
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await child.until_ended()
        await asyncio.sleep(down_s)
        await server.stop()
        await server.start()

    async def stop(self) -> None:
        """End every process and proxy."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(process.stop() for process in self.processes.values()))
        await asyncio.gather(*(proxy.stop() for proxy in self.proxies.values()))
        for port in self.reserved:
            port.close()


@asynccontextmanager
async def running(folder: Path, options: Options) -> AsyncIterator[Network]:
    """Start everything, and wait until all operators are connected; in the end, stop it."""
    async with EmbeddedPostgres(folder / "postgres") as postgres, EmbeddedValkey(folder / "valkey") as valkey:
        network = Network(folder, options, postgres, valkey)
        try:
            await _start(network)
            yield network
        finally:
            await network.stop()


async def _start(network: Network) -> None:
    options = network.options
    file = network.write("setup", _dispatcher_settings(network, network.postgres.url("dispatcher"), 0))
    _start_workers(network)
    await prepare_database(database_url(network.postgres.url("operators")))
    await _run("migrate", "-c", str(file))
    await _prepare(network, "-c", str(file))
    await network.proxy("postgres-link:operators", network.postgres.socket)
    for index in range(1, options.dispatchers + 1):
        await _start_dispatcher(network, index)
    for index in range(1, options.operators + options.real_operators + 1):
        signer = Signer.generate()
        await _run("operator", "add", signer.address, "-c", str(file))
        await _start_operator(network, index, signer)
    await _ready(network, options.operators + options.real_operators)


async def _prepare(network: Network, *here: str) -> None:
    connection = await network.database()
    try:
        await leases.install(connection, network.options.dispatchers, _RUNS)
    finally:
        await connection.close()
    made_up = network.folder / "stub.calibration.json"
    made_up.write_text(json.dumps(calibration(STUB_DIGEST).to_json()))
    network.token = await _run("project", "create", "chaos", *here)
    await _run("model", "pin", STUB_MODEL, STUB_DIGEST, "--calibration", str(made_up), *here)
    if network.options.real_operators:
        model = _MODELS / REAL_MODEL
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        judged = ("--calibration", str(model.with_suffix(".calibration.json")))
        await _run("model", "pin", REAL_MODEL, digest, *judged, *here)


def _dispatcher_settings(network: Network, database: str, port: int) -> dict[str, Any]:
    return {
        "database": {"url": database, "min_connect_pool": 4, "max_connect_pool": 16},
        "identity": {"signer_key": network.dispatcher_key.secret.hex()},
        "listen": {"port": port},
        "dispatch": _DISPATCH,
        "verification": {"audit_share": 0.2},
    }


async def _start_dispatcher(network: Network, index: int) -> None:
    reserved = reserve(0)
    network.reserved.append(reserved)
    port = number(reserved)
    link = await network.proxy(f"postgres-link:dispatcher-{index}", network.postgres.socket)
    cluster: dict[str, Any] = {}
    if network.options.dispatchers > 1:
        redis = await network.proxy(f"redis-link:dispatcher-{index}", network.valkey.socket)
        cluster = {"cluster": {"redis_url": f"redis://127.0.0.1:{redis}/1"}}

    def start(run: int) -> list[str]:
        user = leases.user_of(index, run)
        database = f"postgresql://{user}@127.0.0.1:{link}/dispatcher?sslmode=disable"
        settings = _dispatcher_settings(network, database, port) | cluster
        file = network.write(f"dispatcher-{index}", settings)
        return command("dispatcher", "run", "-c", str(file))

    clients = await network.proxy(f"clients-dispatcher:{index}", ("127.0.0.1", port))
    network.urls.append(f"http://127.0.0.1:{clients}")
    network.direct.append(f"http://127.0.0.1:{port}")
    network.add(f"dispatcher:{index}", start)


def _start_workers(network: Network) -> None:
    for index in range(1, network.options.operators + 1):
        stub = [sys.executable, str(_STUB_PROGRAM), str(_socket(network, index)), STUB_MODEL, STUB_DIGEST]
        network.add(f"worker:{index}", partial(_always, stub))
    if network.options.real_operators:
        model = ("--model", str(_MODELS / REAL_MODEL), "--name", REAL_MODEL, "--threads", "1")
        real = command("inference-worker", *model, "--uds", str(_socket(network, 0)))
        network.add("worker:real", partial(_always, real))


def _always(line: list[str], _run: int) -> list[str]:
    return line


async def _start_operator(network: Network, index: int, signer: Signer) -> None:
    redis = await network.proxy(f"redis-link:{index}", network.valkey.socket)
    urls = []
    for place, direct in enumerate(network.direct, 1):
        target = ("127.0.0.1", httpx.URL(direct).port or 0)
        port = await network.proxy(f"operator-dispatcher:{index}-{place}", target, websocket=True)
        urls.append(f"ws://127.0.0.1:{port}/ws")
    home = index % len(urls)
    link = network.proxies["postgres-link:operators"].port
    worker = _socket(network, index if index <= network.options.operators else 0)
    settings = {
        "db": {
            "pg_db_url": f"postgresql://postgres@127.0.0.1:{link}/operators?sslmode=disable",
            "min_connect_pool": 1,
            "max_connect_pool": 6,
        },
        "queue": {"queue_url": f"redis://127.0.0.1:{redis}/0"},
        "net": {
            "dispatcher_url": [*urls[home:], *urls[:home]],
            "worker_url": f"unix://{worker}",
            "worker_timeout": 20,
            "worker_concurrency": 8,
        },
        "node": {
            "signer_key": signer.secret.hex(),
            "dispatcher_address": network.dispatcher_key.address,
            "heartbeat_interval": 2,
        },
    }
    file = network.write(f"operator-{index}", settings)
    network.add(f"operator:{index}", partial(_always, command("operator-runner", "-c", str(file))))


async def _ready(network: Network, operators: int) -> None:
    async with asyncio.timeout(_START_S):
        while sum([await _operators(url) or 0 for url in network.direct]) < operators:
            await asyncio.sleep(0.1)


async def _operators(url: str) -> int | None:
    """How many operators a dispatcher has connected, None while it does not answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            return int((await client.get(f"{url}/readyz")).json()["operators"])
        except (httpx.TransportError, KeyError, ValueError):
            return None


def _socket(network: Network, index: int) -> Path:
    return network.folder / f"worker-{index}.sock"


async def _run(*arguments: str) -> str:
    """Run a command of the dispatcher in this process, since a process of its own takes two seconds; what it printed."""
    result = await asyncio.to_thread(CliRunner().invoke, dispatcher, arguments)
    assert result.exit_code == 0, (arguments, result.output)
    return result.stdout.strip()
