"""A network started part by part, with the commands and files of the guides, whose parts a test stops and starts itself.

Every operator has a worker of its own. Workers are stopped (SIGSTOP) for as long as a step of a job is to last, so that nothing
depends on how quick a model is.
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from acceptance.processes import ANSWER_S, COMMAND_S, command
from acceptance.wire import Recorder
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_service.child import Child
from aos_service.settings import load_settings
from aos_tee_worker.simulator import ensure_root, measurements

PUBLISHED: dict[str, Any] = {
    "from": "projectid",
    "tag": "",
    "user": "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632",
    "job": {
        "tag": "opml",
        "prompt": "What is AI?",
        "model": "llama-2-7b-chat.Q4_0.gguf",
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024},
    },
    "verify": "4cc2e1f9-0ac2-4af6-98f8-b814917b49b0",
}
"""The published body of a submit, as it stands."""

OPERATORS = (1, 2, 3)
DATABASE_PASSWORD = "Wpr4-quite-unmistakable"
IMPATIENT_S = 1.0
PATIENT_S = 40.0
"""How long a dispatcher waits for a member that is away: not long, or longer than an operator's greatest pause between attempts."""


@dataclass
class Parts:
    """The parts of a network: its processes by name, and its operators' numbers by address.

    `tee`: its workers are simulated enclaves. With a `recorder`, operators find dispatcher and workers through its relays. With
    `telemetry`, a receiver's URL, every process sends its part of jobs' traces there.
    """

    folder: Path
    dispatcher_key: Signer
    url: str
    database: str
    tee: bool = False
    recorder: Recorder | None = None
    reached: int = 0
    telemetry: str | None = None
    operators_database: str = ""
    queue: str = ""
    token: str = ""
    children: dict[str, Child] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    operator_keys: list[Signer] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "dispatcher.yaml"

    @property
    def policy(self) -> Path:
        return self.folder / "attestation-policy.yaml"

    @property
    def job(self) -> dict[str, Any]:
        """The published job, of the type that this network runs."""
        return PUBLISHED["job"] | ({"tag": "tee"} if self.tee else {})

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=ANSWER_S)

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        child = Child(
            name, command(*arguments), log=self.folder / f"{name}.log", environment=os.environ | environment
        )
        self.children[name] = child
        child.start()

    def configure_dispatcher(self, reassign_after: float) -> None:
        """Write the dispatcher's settings: how many seconds it waits for a member that is away."""
        settings = {
            "database": {"url": self.database},
            "identity": {"signer_key": "${AOS_DISPATCHER_KEY}"},
            "listen": {"port": httpx.URL(self.url).port},
            "dispatch": {"reassign_after": reassign_after, "lease": 5, "draw_timeout": ANSWER_S},
            "verification": {"audit_share": 1},
            "telemetry": {"otlp_endpoint": self.telemetry},
        } | ({"attestation": {"policy": self.policy.name}} if self.tee else {})
        self.config.write_text(yaml.safe_dump(settings))

    def start_dispatcher(self) -> None:
        self.start("dispatcher", "dispatcher", "run", "-c", str(self.config), **self.secret())

    def start_dispatcher_again(self, reassign_after: float = PATIENT_S) -> None:
        self.configure_dispatcher(reassign_after)
        self.start_dispatcher()

    def secret(self) -> dict[str, str]:
        """The dispatcher's key, as its commands want it."""
        return {"AOS_DISPATCHER_KEY": self.dispatcher_key.secret.hex()}

    async def kill(self, name: str) -> None:
        child = self.children[name]
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        assert await child.until_ended() == -signal.SIGKILL

    async def kill_operator(self, address: str) -> None:
        await self.kill(f"operator-{self.operators[address]}")

    async def start_again(self, *addresses: str) -> None:
        """Start killed operators, and wait until everybody is connected."""
        for address in addresses:
            self.children[f"operator-{self.operators[address]}"].start()
        await self.ready(len(self.operators))

    def signal_workers(self, number: signal.Signals, *addresses: str) -> None:
        for address in addresses:
            pid = self.children[f"worker-{self.operators[address]}"].pid
            assert pid is not None
            os.kill(pid, number)

    def hold(self, *addresses: str) -> None:
        """Stop the workers of these operators in the middle of whatever they do."""
        self.signal_workers(signal.SIGSTOP, *addresses)

    def release(self, *addresses: str) -> None:
        self.signal_workers(signal.SIGCONT, *addresses)

    @contextmanager
    def all_held(self) -> Iterator[None]:
        """Let no worker do anything meanwhile, unless it is released."""
        self.hold(*self.operators)
        try:
            yield
        finally:
            self.release(*self.operators)

    async def ready(self, operators: int) -> None:
        async def connected() -> bool:
            try:
                return bool((await client.get("/readyz")).json()["operators"] == operators)
            except httpx.TransportError:
                return False

        async with self.client() as client:
            await self.children["dispatcher"].until_ready(connected, timeout_s=COMMAND_S)

    def worker(self, number: int) -> httpx.AsyncClient:
        """Ask a worker itself."""
        transport = httpx.AsyncHTTPTransport(uds=str(_socket(self, number)))
        return httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=ANSWER_S)

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=body)

    async def submit(self, **other: Any) -> str:
        body = PUBLISHED | {"verify": self.token, "job": self.job}
        answer = await self.post("/api/job/submit", body | other)
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["result"]
        return job_id

    async def evidence(self, job_id: str) -> dict[str, Any]:
        async with self.client() as client:
            document: dict[str, Any] = (await client.get(f"/api/job/evidence/{job_id}")).json()
            return document

    async def dispatched(self, job_id: str) -> list[str]:
        """Wait until a committee has the job; its members, the executor first."""
        while (document := await self.evidence(job_id))["job"]["status"] == "created":
            await asyncio.sleep(0.02)
        return [seat["operator"] for seat in document["rounds"][0]["committee"]]

    async def dispatched_with_reserves(self) -> tuple[str, list[str]]:
        """Submit until a job is with some operators, but not with all: nobody else could replace one of all."""
        members = list(self.operators)
        while len(members) == len(self.operators):
            job_id = await self.submit()
            members = await self.dispatched(job_id)
        return job_id, members

    async def answered(self, job_id: str, answers: int) -> None:
        """Wait until the dispatcher has stored so many operators' own answers to a job."""
        while len((await self.evidence(job_id))["rounds"][0]["results"]) < answers:
            await asyncio.sleep(0.02)

    async def seats(self, job_id: str) -> dict[str, tuple[str, str]]:
        """Role and end of each seat on a job's committee, by operator."""
        committee = (await self.evidence(job_id))["rounds"][0]["committee"]
        return {seat["operator"]: (seat["role"], seat["state"]) for seat in committee}

    async def ended(self, job_id: str) -> tuple[str, str]:
        """Wait for the job's end; its status, and the reason."""
        while (job := (await self.evidence(job_id))["job"])["status"] in {"created", "dispatched"}:
            await asyncio.sleep(0.05)
        return job["status"], job["reason"]

    async def completed(self, job_id: str, *, scored: bool = True) -> None:
        """Wait for the job's end, which must be a good one, with evidence of all that happened and a match, if it was `scored`."""
        while (document := await self.evidence(job_id))["job"]["status"] in {"created", "dispatched"}:
            await asyncio.sleep(0.05)
        assert document["job"]["status"] == "completed", document["job"]["reason"]
        policy = load_settings(self.policy, AttestationPolicy) if self.tee else None
        address = self.dispatcher_key.address
        checks = check_evidence(document, dispatcher=address, job_id=job_id, policy=policy)
        assert "AOS-MATCH-1" in {check.id for check in checks}
        open_without_scores = set() if scored else {"AOS-SCORE-1", "AOS-MATCH-1"}
        bad = [
            check
            for check in checks
            if check.status == "FAIL" or (check.status == "SKIP" and check.id not in open_without_scores)
        ]
        assert bad == [], bad


def with_password(url: str) -> str:
    """A database's address with a password, which no process may show although this PostgreSQL asks for none."""
    return url.replace("postgres@", f"postgres:{DATABASE_PASSWORD}@", 1)


async def run(*arguments: str, **environment: str) -> str:
    """Run one of our commands to its good end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, arguments
    return output.decode().strip()


@asynccontextmanager
async def started(
    folder: Path,
    port: int,
    model: Path,
    *,
    tee: bool = False,
    recorder: Recorder | None = None,
    telemetry: str | None = None,
) -> AsyncIterator[Parts]:
    """Databases, dispatcher, and three operators with their workers, all connected; nothing of it is left afterwards."""
    async with (
        EmbeddedPostgres(folder / "postgres", durable=False) as postgres,
        EmbeddedValkey(folder / "valkey", durable=False) as valkey,
    ):
        url = f"http://127.0.0.1:{port}"
        parts = Parts(
            folder, Signer.generate(), url, with_password(postgres.url("dispatcher")), tee, recorder, port
        )
        parts.telemetry = telemetry
        parts.operators_database, parts.queue = with_password(postgres.url("operators")), valkey.url()
        try:
            await _start(parts, model)
            await asyncio.gather(*(_start_operator(parts, number) for number in OPERATORS))
            await parts.ready(len(OPERATORS))
            yield parts
        finally:
            await asyncio.gather(*(child.stop() for child in parts.children.values()))


async def _start(parts: Parts, model: Path) -> None:
    name, digest = PUBLISHED["job"]["model"], hashlib.sha256(model.read_bytes()).hexdigest()
    if parts.tee:
        _write_policy(parts, name, digest)
    for number in OPERATORS:
        _start_worker(parts, number, model, name)
    if parts.recorder is not None:
        parts.reached = await parts.recorder.relay_port(parts.reached, "project and dispatcher")
        for number in OPERATORS:
            between = (_socket(parts, number), _relayed(parts, number))
            await parts.recorder.relay_socket(*between, "operator and enclave")
    parts.configure_dispatcher(IMPATIENT_S)
    here, secret = ("-c", str(parts.config)), parts.secret()
    await asyncio.gather(
        run("dispatcher", "migrate", *here, **secret),
        run("operator-runner", "-i", parts.operators_database),
    )
    parts.start_dispatcher()
    calibration = ("--calibration", str(model.with_suffix(".calibration.json")))
    pin = ("model", "pin", name, digest, "--job-type", parts.job["tag"], *calibration)
    parts.token, _ = await asyncio.gather(
        run("dispatcher", "project", "create", PUBLISHED["from"], *here, **secret),
        run("dispatcher", *pin, *here, **secret),
    )


def _start_worker(parts: Parts, number: int, model: Path, name: str) -> None:
    enclave = ("--enclave", "simulated", "--simulator", str(parts.folder / "simulator"))
    program = ("tee-worker", *enclave) if parts.tee else ("inference-worker",)
    options = ("--model", str(model), "--name", name, "--threads", "1", "--uds", str(_socket(parts, number)))
    traced = ("--otlp-endpoint", parts.telemetry) if parts.telemetry else ()
    parts.start(f"worker-{number}", *program, *options, *traced)


def _write_policy(parts: Parts, name: str, digest: str) -> None:
    builds = [{"name": "this checkout", "measurements": measurements()}]
    trusted = {"roots": [ensure_root(parts.folder / "simulator")], "builds": builds}
    models = {name: {"sha256": digest, "simulated": trusted}}
    policy = {"version": "aos-attestation-policy/1", "allow_simulated": True, "models": models}
    parts.policy.write_text(yaml.safe_dump(policy))


async def _start_operator(parts: Parts, number: int) -> None:
    signer, here = Signer.generate(), ("-c", str(parts.config))
    added = await run("dispatcher", "operator", "add", signer.address, *here, **parts.secret())
    assert int(added) >= 2
    worker = _relayed(parts, number) if parts.recorder else _socket(parts, number)
    settings = {
        "db": {"pg_db_url": parts.operators_database, "min_connect_pool": 1, "max_connect_pool": 3},
        "queue": {"queue_url": parts.queue},
        "net": {"dispatcher_url": f"ws://127.0.0.1:{parts.reached}/ws", "worker_url": f"unix://{worker}"},
        "node": {
            "signer_key": "${AOS_SIGNER_KEY}",
            "dispatcher_address": parts.dispatcher_key.address,
            "node_type": parts.job["tag"],
            # Seldom: an operator that looks at its worker while a test holds that would take it for gone, and decline draws.
            "heartbeat_interval": 10 if parts.tee else ANSWER_S,
        },
        "telemetry": {"otlp_endpoint": parts.telemetry},
    }
    file = parts.folder / f"operator-{number}.yaml"
    file.write_text(yaml.safe_dump(settings))
    parts.operators[signer.address] = number
    parts.operator_keys.append(signer)
    key = signer.secret.hex()
    parts.start(f"operator-{number}", "operator-runner", "-c", str(file), AOS_SIGNER_KEY=key)


def _socket(parts: Parts, number: int) -> Path:
    return parts.folder / f"worker-{number}.sock"


def _relayed(parts: Parts, number: int) -> Path:
    return parts.folder / f"relay-{number}.sock"
