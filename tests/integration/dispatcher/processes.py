"""One dispatcher as several real processes, with real operators (in this process, on stub workers) that know all of them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from aos_cli import ports
from aos_dispatcher.database import Database
from aos_dispatcher.operators import pin_model, register_operator
from aos_dispatcher.projects import create_project
from aos_operator.backends.protocol import Backend
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_protocol.identity import Signer
from aos_service.child import Child
from aos_service.database import create_engine, database_url
from integration.dispatcher.conftest import BRIEFLY
from integration.operator.processes import RUNNER
from support.calibration import calibration
from support.operators import MODEL

LEASE_S = 1.5
HEARTBEAT_S = 0.3
_START_S = 60.0
_ENDED = {"completed", "failed", "cancelled"}


class OneDispatcher:
    """Its processes by number, from 0 on."""

    def __init__(
        self, folder: Path, database: str, redis_url: str | None, ports_: Sequence[int], **waits: float
    ) -> None:
        self.signer = Signer.generate()
        self.urls = [f"http://{ports.LOOPBACK}:{port}" for port in ports_]
        self.sockets = [f"ws://{ports.LOOPBACK}:{port}/ws" for port in ports_]
        self.token = ""
        self.client = httpx.AsyncClient(timeout=30, trust_env=False, verify=False, limits=BRIEFLY)
        self.database = Database(
            create_engine(
                database_url(database), pool_min=1, pool_max=2, connect_timeout=10, acquire_timeout=10
            )
        )
        self.children = [
            self._child(folder, number, _settings(database, redis_url, port, **waits))
            for number, port in enumerate(ports_)
        ]

    def _child(self, folder: Path, number: int, settings: dict[str, Any]) -> Child:
        config = folder / f"dispatcher-{number}.yaml"
        config.write_text(yaml.safe_dump(settings))
        config.chmod(0o600)
        command = [str(RUNNER.with_name("dispatcher")), "run", "-c", str(config)]
        key = {"AOS_DISPATCHER_KEY": self.signer.secret.hex()}
        log = folder / f"dispatcher-{number}.log"
        return Child(f"dispatcher {number}", command, log=log, environment=os.environ | key)

    async def start(self, *numbers: int) -> None:
        """Start processes, and wait until they are ready."""
        for number in numbers:
            self.children[number].start()
        await asyncio.gather(*map(self._ready, numbers))

    async def _ready(self, number: int) -> None:
        async def answers() -> bool:
            try:
                return (await self.client.get(self.urls[number] + "/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await self.children[number].until_ready(answers, timeout_s=_START_S)

    def signal(self, number: int, sent: signal.Signals) -> None:
        pid = self.children[number].pid
        assert pid is not None
        os.kill(pid, sent)

    async def kill(self, number: int) -> None:
        self.signal(number, signal.SIGKILL)
        assert await self.children[number].until_ended() == -signal.SIGKILL

    def log(self, number: int) -> str:
        """What a process has logged so far."""
        return self.children[number].log.read_text(errors="replace")

    async def said(self, number: int, what: str) -> None:
        """Wait until a process has logged this."""
        async with asyncio.timeout(30):
            while what not in self.log(number):
                await asyncio.sleep(0.02)

    async def operators_known(self, number: int, count: int) -> None:
        """Wait until a process knows of so many operators."""
        async with asyncio.timeout(30):
            while (await self.client.get(self.urls[number] + "/readyz")).json()["operators"] != count:
                await asyncio.sleep(0.02)

    def body(self, **changes: Any) -> dict[str, Any]:
        job = {"tag": "opml", "prompt": "What is AI?", "model": MODEL.name, "params": {"max_tokens": 16}}
        return {"from": "shop", "tag": "", "user": "ann", "job": job, "verify": self.token} | changes

    async def submit(self, number: int, **changes: Any) -> str:
        answer = await self.client.post(self.urls[number] + "/api/job/submit", json=self.body(**changes))
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["result"]
        return job_id

    async def detail(self, number: int, job_id: str) -> dict[str, Any]:
        answer = await self.client.post(self.urls[number] + "/api/job/detail", json={"job_id": job_id})
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()["result"]
        return detail

    async def ended(self, number: int, job_id: str) -> dict[str, Any]:
        """Wait for a job's end; its detail."""
        async with asyncio.timeout(40):
            while (detail := await self.detail(number, job_id))["status"] not in _ENDED:
                await asyncio.sleep(0.05)
        return detail

    async def evidence(self, number: int, job_id: str) -> dict[str, Any]:
        document: dict[str, Any] = (
            await self.client.get(f"{self.urls[number]}/api/job/evidence/{job_id}")
        ).json()
        return document


@asynccontextmanager
async def one_dispatcher(
    folder: Path,
    database: str,
    redis_url: str | None,
    *,
    count: int = 2,
    drain: float = 0,
    away: float = 1,
    heartbeat: float = HEARTBEAT_S,
) -> AsyncIterator[OneDispatcher]:
    """Run a dispatcher as so many processes, with a project and a calibrated model; stop them on leaving.

    They wait `away` seconds for a member to come back, and serve for `drain` seconds more when they are told to stop. They miss each other
    after some heartbeats, with short ones also when the machine is busy.
    """
    async with AsyncExitStack() as stack:
        held = [stack.enter_context(ports.reserve(0)) for _ in range(count)]
        numbers = list(map(ports.number, held))
        running = OneDispatcher(
            folder, database, redis_url, numbers, drain=drain, away=away, heartbeat=heartbeat
        )
        stack.push_async_callback(running.database.close)
        stack.push_async_callback(running.client.aclose)
        for child in running.children:
            stack.push_async_callback(child.stop)
        await running.start(*range(count))
        running.token = await create_project(running.database, "shop", private=False)
        await pin_model(running.database, "opml", MODEL, calibration(MODEL.sha256))
        yield running


@asynccontextmanager
async def operator(
    dispatcher: OneDispatcher,
    database: str,
    redis_url: str,
    *,
    at: int = 0,
    worker: Backend | None = None,
    heartbeat: float = 0.5,
) -> AsyncIterator[str]:
    """Run an operator that connects to process `at` first, and knows the others; its address.

    It leaves a process that says nothing for three heartbeats.
    """
    signer = Signer.generate()
    await register_operator(dispatcher.database, signer.address)
    first = dispatcher.sockets[at:] + dispatcher.sockets[:at]
    settings = OperatorSettings.model_validate(
        {
            "db": {"pg_db_url": database, "min_connect_pool": 1, "max_connect_pool": 3},
            "queue": {"queue_url": redis_url},
            "net": {"dispatcher_url": first},
            "node": {
                "signer_key": "0x" + signer.secret.hex(),
                "dispatcher_address": dispatcher.signer.address,
                "heartbeat_interval": heartbeat,
            },
        }
    )
    stop = asyncio.Event()
    chosen = worker or StubWorker({MODEL.name: MODEL.sha256})
    async with asyncio.TaskGroup() as group:
        group.create_task(run_operator(settings, stop, worker=chosen))
        try:
            yield signer.address
        finally:
            stop.set()


def _settings(
    database: str, redis_url: str | None, port: int, *, drain: float, away: float, heartbeat: float
) -> dict[str, Any]:
    patience = {"draw_timeout": 10, "reassign_after": away, "member_timeout": 10, "job_timeout": 60}
    cluster = {} if redis_url is None else {"redis_url": redis_url, "heartbeat": heartbeat}
    return {
        "database": {"url": database, "min_connect_pool": 1, "max_connect_pool": 6},
        "identity": {"signer_key": "${AOS_DISPATCHER_KEY}"},
        "listen": {"port": port, "drain": drain},
        "dispatch": patience | {"lease": LEASE_S},
        "verification": {"audit_share": 1},
        "cluster": cluster,
    }
