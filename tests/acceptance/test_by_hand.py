"""The parts started one by one, with the commands and files of the guides: and killed in the middle of a job.

The worker is stopped (SIGSTOP) for as long as a job is to last, so that nothing here depends on how quick a model is.
"""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from acceptance.processes import command
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_service.child import Child

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


@dataclass
class Parts:
    """A network whose parts a test stops and starts itself."""

    folder: Path
    dispatcher_key: Signer
    token: str
    url: str
    children: dict[str, Child] = field(default_factory=dict)
    operators: dict[str, str] = field(default_factory=dict)  # address to the name of its part

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20)

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        child = Child(
            name, command(*arguments), log=self.folder / f"{name}.log", environment=os.environ | environment
        )
        self.children[name] = child
        child.start()

    def start_dispatcher(self) -> None:
        key = self.dispatcher_key.secret.hex()
        self.start(
            "dispatcher",
            "dispatcher",
            "run",
            "-c",
            str(self.folder / "dispatcher.yaml"),
            AOS_DISPATCHER_KEY=key,
        )

    async def kill(self, name: str) -> None:
        child = self.children[name]
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        assert await child.until_ended() == -signal.SIGKILL

    def hold_worker(self, number: signal.Signals) -> None:
        pid = self.children["worker"].pid
        assert pid is not None
        os.kill(pid, number)

    async def ready(self, operators: int) -> None:
        async def connected() -> bool:
            try:
                return (await client.get("/readyz")).json()["operators"] == operators
            except httpx.TransportError:
                return False

        async with self.client() as client:
            await self.children["dispatcher"].until_ready(connected, timeout_s=40)

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=body)

    async def submit(self) -> str:
        answer = await self.post("/api/job/submit", PUBLISHED | {"verify": self.token})
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["result"]
        return job_id

    async def evidence(self, job_id: str) -> dict[str, Any]:
        async with self.client() as client:
            document: dict[str, Any] = (await client.get(f"/api/job/evidence/{job_id}")).json()
            return document

    async def dispatched(self, job_id: str) -> list[str]:
        """Wait until operators have the job; who has it."""
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

    async def seat_of(self, job_id: str, operator: str) -> str:
        """How an operator's seat on the job's committee ended."""
        seats = (await self.evidence(job_id))["rounds"][0]["committee"]
        state: str = next(seat["state"] for seat in seats if seat["operator"] == operator)
        return state

    async def completed(self, job_id: str) -> None:
        """Wait for the job's end, which must be a good one, with evidence of all that happened."""
        while (document := await self.evidence(job_id))["job"]["status"] in {"created", "dispatched"}:
            await asyncio.sleep(0.05)
        assert document["job"]["status"] == "completed", document["job"]["reason"]
        checks = check_evidence(document, dispatcher=self.dispatcher_key.address, job_id=job_id)
        bad = [check for check in checks if check.status != "PASS"]
        assert bad == []


async def run(*arguments: str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, arguments
    return output.decode().strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(demo_model: Path) -> AsyncIterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="aos-test-") as place, closing(socket.socket()) as holder:
        folder = Path(place)
        folder.chmod(0o711)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))  # kept, so that a restarted dispatcher finds its port free
        port = holder.getsockname()[1]
        async with (
            EmbeddedPostgres(folder / "postgres", durable=False) as postgres,
            EmbeddedValkey(folder / "valkey", durable=False) as valkey,
        ):
            made = Parts(folder, Signer.generate(), "", f"http://127.0.0.1:{port}")
            try:
                await _start(made, postgres, valkey, port, demo_model)
                yield made
            finally:
                for child in made.children.values():
                    await child.stop()


async def _start(
    made: Parts, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, port: int, model: Path
) -> None:
    folder, socket_path = made.folder, made.folder / "worker.sock"
    served_as = PUBLISHED["job"]["model"]
    made.start(
        "worker", "inference-worker", "--model", str(model), "--name", served_as, "--uds", str(socket_path)
    )
    config = folder / "dispatcher.yaml"
    settings = {
        "database": {"url": postgres.url("dispatcher")},
        "identity": {"signer_key": "${AOS_DISPATCHER_KEY}"},
        "listen": {"port": port},
        "dispatch": {"reassign_after": 1, "lease": 2},
    }
    config.write_text(yaml.safe_dump(settings))
    key = {"AOS_DISPATCHER_KEY": made.dispatcher_key.secret.hex()}
    await asyncio.gather(
        run("dispatcher", "migrate", "-c", str(config), **key),
        run("operator-runner", "-i", postgres.url("operators")),
    )
    made.start_dispatcher()
    made.token = await run("dispatcher", "project", "create", PUBLISHED["from"], "-c", str(config), **key)
    await asyncio.gather(*(_operator(made, n, postgres, valkey, port, config, key) for n in (1, 2, 3)))
    await made.ready(3)


async def _operator(
    made: Parts,
    number: int,
    postgres: EmbeddedPostgres,
    valkey: EmbeddedValkey,
    port: int,
    config: Path,
    key: dict[str, str],
) -> None:
    signer, name = Signer.generate(), f"operator-{number}"
    assert int(await run("dispatcher", "operator", "add", signer.address, "-c", str(config), **key)) >= 2
    file = made.folder / f"{name}.yaml"
    settings = {
        "db": {"pg_db_url": postgres.url("operators"), "min_connect_pool": 1, "max_connect_pool": 3},
        "queue": {"queue_url": valkey.url()},
        "net": {
            "dispatcher_url": f"ws://127.0.0.1:{port}/ws",
            "worker_url": f"unix://{made.folder / 'worker.sock'}",
        },
        "node": {"signer_key": "${AOS_SIGNER_KEY}", "dispatcher_address": made.dispatcher_key.address},
    }
    file.write_text(yaml.safe_dump(settings))
    made.operators[signer.address] = name
    made.start(name, "operator-runner", "-c", str(file), AOS_SIGNER_KEY=signer.secret.hex())


@pytest.mark.asyncio(loop_scope="module")
async def test_the_published_bodies(parts: Parts) -> None:
    """The submit needs a token of this network's; everything else is posted as it was published."""
    assert (await parts.post("/api/job/submit", PUBLISHED)).status_code == 401
    job_id = await parts.submit()
    await parts.completed(job_id)
    unknown = {"job_id": "5814075a7a4b7bc4db5450e7bc3ee2893562e3b2d9deb66a14da4e99d7276e0a"}
    for path in ("/api/job/result", "/api/job/detail"):
        answer = await parts.post(path, unknown)
        assert answer.status_code == 404
        assert answer.json() == {"code": 404, "message": f"there is no job {unknown['job_id']} here"}

    rows = (await parts.post("/api/job/result", {"job_id": job_id})).json()["result"]
    for row in rows:
        assert row["id"] == f"{row['operator']}_{job_id}_"
        assert {key: type(value) for key, value in row.items()}.items() >= {
            "id": str,
            "job_id": str,
            "operator": str,
            "result": str,
            "verify_id": str,
            "vrf": dict,
            "clock": dict,
            "signature": str,
            "job_type": str,
            "tag": str,
            "created_at": str,
        }.items()
        assert list(row["vrf"]) == [
            "selected",
            "vrf_prompt_hash",
            "vrf_random_value",
            "vrf_verify_pubkey",
            "vrf_proof",
        ]
    detail = (await parts.post("/api/job/detail", {"job_id": job_id})).json()["result"]
    assert detail["job"] == PUBLISHED["job"]
    assert (detail["id"], detail["user"], detail["status"]) == (job_id, PUBLISHED["user"], "completed")
    assert {"job_type", "tag", "clock", "created_at"} <= set(detail)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_operator_is_replaced(parts: Parts) -> None:
    parts.hold_worker(signal.SIGSTOP)
    try:
        job_id, members = await parts.dispatched_with_reserves()
        await parts.kill(parts.operators[members[0]])
    finally:
        parts.hold_worker(signal.SIGCONT)
    await parts.completed(job_id)
    assert await parts.seat_of(job_id, members[0]) == "lost"
    parts.children[parts.operators[members[0]]].start()
    await parts.ready(3)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_killed_dispatcher_goes_on_where_it_was(parts: Parts) -> None:
    parts.hold_worker(signal.SIGSTOP)
    try:
        job_id = await parts.submit()
        members = await parts.dispatched(job_id)
        await parts.kill("dispatcher")
    finally:
        parts.hold_worker(signal.SIGCONT)
    parts.start_dispatcher()
    await parts.ready(3)
    await parts.completed(job_id)
    seats = (await parts.evidence(job_id))["rounds"][0]["committee"]
    assert [seat["operator"] for seat in seats][: len(members)] == members


@pytest.mark.asyncio(loop_scope="module")
async def test_an_operator_that_died_with_its_dispatcher_is_replaced(parts: Parts) -> None:
    parts.hold_worker(signal.SIGSTOP)
    try:
        job_id, members = await parts.dispatched_with_reserves()
        await parts.kill("dispatcher")
        await parts.kill(parts.operators[members[0]])
    finally:
        parts.hold_worker(signal.SIGCONT)
    parts.start_dispatcher()
    await parts.ready(2)
    await parts.completed(job_id)
    assert await parts.seat_of(job_id, members[0]) == "lost"
    parts.children[parts.operators[members[0]]].start()
    await parts.ready(3)
