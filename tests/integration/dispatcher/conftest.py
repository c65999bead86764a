"""A real dispatcher on real PostgreSQL, over real sockets, in this process; operators are scripted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from aos_dispatcher.app import create_app
from aos_dispatcher.committee import Patience
from aos_dispatcher.console import open_database
from aos_dispatcher.draining import Draining
from aos_dispatcher.http_bounds import bounded_protocol
from aos_dispatcher.operators import pin_model, register_operator
from aos_dispatcher.projects import create_project
from aos_dispatcher.server import Server
from aos_dispatcher.service import Dispatcher, assemble
from aos_dispatcher.settings import DispatcherSettings, Verification
from aos_dispatcher.tls import server_options
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.evidence import Check, check_evidence
from aos_protocol.identity import Signer
from support.calibration import calibration
from support.enclaves import policy
from support.operators import MODEL, ScriptedOperator
from support.tee_operators import TeeOperator, enclave

PROJECT = "shop"
# Bounds of hangs, that a busy machine does not reach; whoever tests what happens at one of them sets its own.
_CONNECTIONS = {
    "min_connect_pool": 1,
    "max_connect_pool": 8,
    "connect_timeout": 20,
    "acquire_timeout": 20,
    "statement_timeout": 20,
}
BRIEFLY = httpx.Limits(keepalive_expiry=1)
"""Servers keep a connection for five seconds; a client that does so as well meets its end now and then."""
ENDS_S = 45
"""What has not ended by then never will."""


class Network:
    """A dispatcher, a project with a token, and the operators that a test adds."""

    def __init__(self, url: str, *, audit_share: float = 0, **dispatch: float) -> None:
        patience = {
            "draw_timeout": 10,
            "reassign_after": 0.2,
            "member_timeout": ENDS_S,
            "job_timeout": ENDS_S,
            "lease": 10,
        }
        self.signer = Signer.generate()
        self.policy: AttestationPolicy | None = None
        self.settings = DispatcherSettings.model_validate(
            {
                "database": {"url": url} | _CONNECTIONS,
                "identity": {},
                "listen": {"port": 0},
                "limits": {"frame_bytes": 65_536, "body_bytes": 32_768},
                "dispatch": patience | dispatch,
                "verification": {"audit_share": audit_share},
            }
        )
        self.token = ""
        self.operators: list[ScriptedOperator] = []
        self.client = httpx.AsyncClient(
            verify=False
        )  # over TLS is nothing, and to read all authorities takes 25 ms
        self.stalled = 10.0
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def rule(self, policy: AttestationPolicy | None) -> None:
        """Start the dispatcher anew with another attestation policy; nobody is connected then."""
        await self.stop()
        self.policy = policy
        await self.start()

    async def start(self) -> None:
        """Start (or, after `stop`, restart) the dispatcher on the same database."""
        database = open_database(self.settings)
        self.dispatcher: Dispatcher = assemble(self.settings, database, self.signer, self.policy)
        config = uvicorn.Config(
            create_app(self.dispatcher),
            host="127.0.0.1",
            port=0,
            log_config=None,
            ws_max_size=1 << 20,
            **server_options(self.settings.listen.tls),
            http=bounded_protocol(self.settings.limits),
        )
        draining = Draining(self.dispatcher)
        self._server = Server(config, draining, drain=self.settings.listen.drain, stalled=self.stalled)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False, limits=BRIEFLY
        )
        self.ws = f"ws://127.0.0.1:{port}/ws"

    async def stop(self) -> None:
        assert self._server is not None
        assert self._serving is not None
        await self.client.aclose()
        self._server.should_exit = True
        await self._serving

    def patient(self, away: float = 60) -> None:
        """Have members that are away, after a restart, say, waited for so long: from now on, and in rounds that are at work."""
        dispatch = self.settings.dispatch.model_copy(update={"reassign_after": away})
        self.settings = self.settings.model_copy(update={"dispatch": dispatch})
        driver = self.dispatcher.loop._driver
        driver._settings = dispatch
        for round_ in driver.active.values():
            round_.committee.patience = Patience(away, dispatch.member_timeout)
            round_.poke.set()

    async def project(self, name: str = PROJECT, *, private: bool = False) -> str:
        self.token = await create_project(self.dispatcher.database, name, private=private)
        return self.token

    async def operator(self, *, connect: bool = True, signer: Signer | None = None) -> ScriptedOperator:
        """Register an operator and, unless told otherwise, connect it."""
        operator = ScriptedOperator(signer or Signer.generate(), self.ws)
        await register_operator(self.dispatcher.database, operator.signer.address)
        self.operators.append(operator)
        if connect:
            assert (await operator.connect())["code"] == 200
        return operator

    async def enclave(self, number: int, *, connect: bool = True) -> TeeOperator:
        """Register an operator with a simulated enclave, the same for the same number, and connect it."""
        operator = TeeOperator(Signer.generate(), self.ws, enclave(number))
        await register_operator(self.dispatcher.database, operator.signer.address)
        self.operators.append(operator)
        if connect:
            assert (await operator.connect())["code"] == 200
        return operator

    def body(self, **changes: Any) -> dict[str, Any]:
        """The published example, for the scripted operators' model."""
        job = {
            "tag": "opml",
            "prompt": "What is AI?",
            "model": "tiny.gguf",
            "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024},
        }
        user = "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632"
        return {"from": PROJECT, "tag": "", "user": user, "job": job, "verify": self.token} | changes

    async def submit(self, **changes: Any) -> str:
        answer = await self.client.post("/api/job/submit", json=self.body(**changes))
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["result"]
        return job_id

    async def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return await self.client.post(path, json=body, **options)

    async def detail(self, job_id: str) -> dict[str, Any]:
        answer = await self.post("/api/job/detail", {"job_id": job_id})
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()["result"]
        return detail

    async def finished(self, job_id: str) -> dict[str, Any]:
        """Wait for the job's end; its detail."""
        async with asyncio.timeout(ENDS_S):
            while (detail := await self.detail(job_id))["status"] in {"created", "dispatched"}:
                await asyncio.sleep(0.02)
        return detail

    async def results(self, job_id: str) -> list[dict[str, Any]]:
        answer = await self.post("/api/job/result", {"job_id": job_id})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["result"]
        return rows

    async def checks(self, job_id: str) -> list[Check]:
        """Every check on the job's evidence, by the dispatcher's own policy."""
        document = await self.evidence(job_id)
        return check_evidence(document, dispatcher=self.signer.address, job_id=job_id, policy=self.policy)

    async def unpassed(self, job_id: str) -> list[str]:
        """Every check on the job's evidence that does not pass."""
        checks = await self.checks(job_id)
        return [f"{check.id} {check.status} {check.what}" for check in checks if check.status != "PASS"]

    async def restart(self, **verification: Any) -> None:
        """Start the dispatcher anew with other settings of verification; nobody is connected then."""
        changed = self.settings.verification.model_dump() | verification
        update = {"verification": Verification.model_validate(changed)}
        await self.stop()
        self.settings = self.settings.model_copy(update=update)
        await self.start()

    async def calibrate(self) -> None:
        """Let the scripted operators' model have a calibration, by which their scores are judged."""
        await pin_model(self.dispatcher.database, "opml", MODEL, calibration(MODEL.sha256))

    async def closed(self, job_id: str, rounds: int) -> dict[str, Any]:
        """Wait until the job has this many rounds and all of them have ended; its detail."""
        async with asyncio.timeout(ENDS_S):
            while True:
                detail = await self.detail(job_id)
                open_ = [r for r in detail["rounds"] if r["status"] in {"created", "dispatched"}]
                if len(detail["rounds"]) >= rounds and not open_:
                    return detail
                await asyncio.sleep(0.02)

    async def evidence(self, job_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/api/job/evidence/{job_id}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


class _HastyAsyncio:
    """`asyncio` as uvicorn's server has it here: it sleeps a tenth of what it wants to."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float) -> None:
        await asyncio.sleep(delay / 10)


@pytest.fixture(autouse=True)
def _hasty_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers look a hundred times a second whether they are to stop, and not wait for a tenth of one then: else that is most of a test."""
    monkeypatch.setattr("uvicorn.server.asyncio", _HastyAsyncio())


@pytest_asyncio.fixture
async def network(new_database: Any) -> AsyncIterator[Network]:
    running = Network(await new_database("dispatcher"))
    await running.start()
    await running.calibrate()
    await running.project()
    yield running
    for operator in running.operators:
        await operator.close()
    await running.stop()


@pytest.fixture
def make_network() -> type[Network]:
    """For a test that makes a network on a database of its own; it starts and stops it itself."""
    return Network


@pytest_asyncio.fixture
async def unstarted(new_database: Any) -> Network:
    """A network on a fresh database, for a test that starts and stops it itself."""
    return Network(await new_database("dispatcher"))


@pytest_asyncio.fixture
async def enclaved(new_database: Any) -> AsyncIterator[Network]:
    """A dispatcher whose policy trusts simulated enclaves for the scripted operators' model."""
    running = Network(await new_database("dispatcher"))
    running.policy = policy(MODEL.name)
    await running.start()
    await pin_model(running.dispatcher.database, "tee", MODEL, calibration(MODEL.sha256))
    await running.project()
    yield running
    for operator in running.operators:
        await operator.close()
    await running.stop()
