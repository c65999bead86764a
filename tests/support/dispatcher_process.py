"""A `dispatcher` as a real process, on a database that is there: what the fuzzers attack."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from sysconfig import get_path
from typing import Any

import httpx
import yaml

from aos_cli import ports
from aos_dispatcher.database import Database
from aos_dispatcher.operators import pin_model, register_operator
from aos_dispatcher.projects import create_project
from aos_protocol.identity import Signer
from aos_service.child import Child
from aos_service.database import create_engine, database_url
from support.calibration import calibration
from support.operators import MODEL, ScriptedOperator

PROJECT = "shop"
FRAME_BYTES = 65_536
_KEY = "0x" + "22" * 32
_START_TIMEOUT_S = 60.0
_PATIENCE = {"draw_timeout": 3, "reassign_after": 1, "member_timeout": 60, "job_timeout": 120}


class DispatcherProcess:
    """One dispatcher, its project's token, and a client of its HTTP API; `dispatcher_process` makes one."""

    def __init__(self, folder: Path, database: str, port: int) -> None:
        self.signer = Signer.from_hex(_KEY)
        self.port = port
        self.url = f"http://{ports.LOOPBACK}:{port}"
        self.ws = f"ws://{ports.LOOPBACK}:{port}/ws"
        self.token = ""
        self.client = httpx.AsyncClient(base_url=self.url, timeout=30, trust_env=False)
        self._engine = create_engine(
            database_url(database), pool_min=1, pool_max=2, connect_timeout=10, acquire_timeout=10
        )
        self.database = Database(self._engine)
        config = folder / "dispatcher.yaml"
        config.write_text(yaml.safe_dump(_settings(database, port)))
        config.chmod(0o600)
        command = [f"{get_path('scripts')}/dispatcher", "run", "-c", str(config)]
        self.child = Child("dispatcher", command, log=folder / "dispatcher.log")

    async def answers(self) -> bool:
        """Whether it is ready."""
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def start(self) -> None:
        """Start it on a database with a model, its calibration and a project."""
        self.child.start()
        await self.child.until_ready(self.answers, timeout_s=_START_TIMEOUT_S)
        self.token = await create_project(self.database, PROJECT, private=False)
        await pin_model(self.database, "opml", MODEL, calibration(MODEL.sha256))

    async def stop(self) -> None:
        """Stop it, and let go of the database."""
        await self.client.aclose()
        await self.database.close()
        await self.child.stop()

    async def register(self) -> Signer:
        """Put a new operator into the registry; its key."""
        signer = Signer.generate()
        await register_operator(self.database, signer.address)
        return signer

    async def operator(self) -> ScriptedOperator:
        """Register an operator and connect it."""
        operator = ScriptedOperator(await self.register(), self.ws)
        assert (await operator.connect())["code"] == 200
        return operator

    def body(self, **changes: Any) -> dict[str, Any]:
        """A job for the scripted operators' model."""
        job = {"tag": "opml", "prompt": "What is AI?", "model": MODEL.name, "params": {"max_tokens": 16}}
        return {"from": PROJECT, "tag": "", "user": "ann", "job": job, "verify": self.token} | changes

    async def submit(self, **changes: Any) -> str:
        """Submit a job; its id."""
        answer = await self.client.post("/api/job/submit", json=self.body(**changes))
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["result"]
        return job_id

    async def detail(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.post("/api/job/detail", json={"job_id": job_id})
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()["result"]
        return detail

    def log(self) -> str:
        """What it has logged so far."""
        return self.child.log.read_text(errors="replace")


@asynccontextmanager
async def dispatcher_process(folder: Path, database: str) -> AsyncIterator[DispatcherProcess]:
    """Run a dispatcher on this database, its file and log in this folder, and stop it on leaving."""
    with ports.reserve(0) as port:
        running = DispatcherProcess(folder, database, ports.number(port))
        try:
            await running.start()
            yield running
        finally:
            await running.stop()


def _settings(database: str, port: int) -> dict[str, Any]:
    return {
        "database": {"url": database, "min_connect_pool": 2, "max_connect_pool": 8},
        "identity": {"signer_key": _KEY},
        "listen": {"port": port},
        "limits": {"frame_bytes": FRAME_BYTES, "body_bytes": 32_768, "wrong_tokens": 1_000_000},
        "dispatch": _PATIENCE,
        "verification": {"audit_share": 0.5, "challenge_window": 3600},
    }
