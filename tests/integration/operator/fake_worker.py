"""A worker over HTTP for the operator's tests: stub answers, and a test decides when and with which status."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aos_operator.backends.protocol import Execution
from aos_operator.errors import WorkerRefused
from aos_operator.stub import stub_answer, stub_score
from aos_operator.subjects import Subject
from aos_protocol.fields import WorkerType
from aos_protocol.job import Claim, JobSpec
from aos_protocol.typed_data import Domain
from support.enclave_workers import SimulatedEnclave
from unit.operator.world import MODEL


class FakeWorker:
    """Answers `/v1/models`, `/v1/generate` and `/v1/score`; waits for `go` before it answers one of the last two.

    With an `enclave` it is a tee-worker: that answers jobs, and `/attestation`.
    """

    def __init__(self, enclave: SimulatedEnclave | None = None) -> None:
        self.enclave = enclave
        self.url = ""
        self.nonces: list[str] = []
        self.models: object = {
            "models": [{"name": MODEL.name, "sha256": MODEL.sha256, "size": 1, "engine": "stub"}]
        }
        self.jobs: list[dict[str, Any]] = []
        self.scorings: list[dict[str, Any]] = []
        self.status = 200
        self.body: bytes | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.started = asyncio.Event()
        self.left = asyncio.Event()

    @asynccontextmanager
    async def serving(self, path: Path | None = None, port: int = 0) -> AsyncIterator["FakeWorker"]:
        """Listen on loopback, or on a unix socket at `path`."""
        if path is not None:
            server: asyncio.Server = await asyncio.start_unix_server(self._serve, path)
            self.url = f"unix://{path}"
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", port)
            self.port = server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (line.split(":")[1] for line in head.lower().split("\r\n") if "content-length" in line), "0"
            )
            body = await reader.readexactly(int(length))
            status, answer = await self._answer(head.split(" ")[1], body, reader)
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(answer))
            )
            writer.write(answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()

    async def _answer(self, path: str, body: bytes, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        if path == "/v1/models":
            return 200, json.dumps(self.models).encode()
        if path.startswith("/attestation?nonce=") and self.enclave is not None:
            self.nonces.append(path.split("=")[1])
            await self._wait(reader)
            return 200, json.dumps(await self.enclave.attestation(self.nonces[-1])).encode()
        if not body:
            return 404, b'{"code": 404, "message": "Not Found"}'
        request = json.loads(body)
        scoring = path == "/v1/score"
        (self.scorings if scoring else self.jobs).append(request)
        self.started.set()
        await self._wait(reader)
        if self.body is not None or self.status != 200:
            said = (
                self.body
                if self.body is not None
                else json.dumps({"code": self.status, "message": "told to"}).encode()
            )
            return self.status, said
        try:
            answer = _scored(request) if scoring else await self._generated(request)
        except WorkerRefused as error:
            return 422, json.dumps({"code": 422, "message": str(error)}).encode()
        return 200, json.dumps(answer).encode()

    async def _generated(self, request: dict[str, Any]) -> dict[str, Any]:
        seed, prover = request["seed"], request["prover"]
        if self.enclave is None:
            return stub_answer(_job(request, request["model"]), MODEL.sha256, seed, prover)
        said = request["execution"]
        execution = Execution(said["job_id"], Domain(said["chain_id"], said["registry"]))
        return await self.enclave.generate(_job(request, request["model"], "tee"), seed, prover, execution)

    async def _wait(self, reader: asyncio.StreamReader) -> None:
        """Wait for `go`, and notice a client that leaves in the meantime."""
        going, leaving = asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.left.set()
                raise ConnectionResetError
        finally:
            going.cancel()
            leaving.cancel()


def _scored(request: dict[str, Any]) -> dict[str, Any]:
    [item] = request["items"]
    claim = {name: item[name] for name in Claim.model_fields if name in item}
    subject = Subject(item["subject"], Claim.model_validate(claim))
    return stub_score(_job(item, request["model"]), MODEL.sha256, subject)


def _job(asked: dict[str, Any], model: str, kind: WorkerType = "opml") -> JobSpec:
    job = {name: asked[name] for name in ("prompt", "messages", "sealed", "params") if name in asked}
    return JobSpec.model_validate({**job, "model": model, "tag": kind})
