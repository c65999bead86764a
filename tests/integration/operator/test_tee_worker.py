"""An operator's jobs on the real tee-worker and the demo model, over its unix socket; the enclave is simulated, and is killed."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest_asyncio

from aos_operator.answers import accept_answer
from aos_operator.attesting import Attesting
from aos_operator.backends.protocol import Execution, Piece, Queued
from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerUnavailable
from aos_operator.tasks import Outcome
from aos_operator.workshop import Workshop
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.statement import Attestation, EnclaveStatement
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec, Params
from aos_protocol.messages import Attest, Dispatch, ServedModel
from aos_protocol.sealing import open_answer, seal_prompt
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain
from aos_service.child import Child
from aos_service.transport import WorkerTransport
from support.enclave_workers import policy_of
from unit.operator.private import REPLY
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()
PROMPT = "Once upon a time there was"
NONCE = "5a" * 32
SHORT = Params(max_tokens=16)
LONG = Params(max_tokens=65_536, temperature=5.0)
"""Words without end: at this temperature hardly any token ends an answer before its context is full."""
AT_ONCE = 4


@dataclass
class Enclave:
    """A running tee-worker, as an operator reaches it."""

    child: Child
    url: str
    worker: HttpWorker
    model: ServedModel
    folder: Path

    def job(self, params: Params = SHORT) -> Dispatch:
        spec = JobSpec(tag="tee", prompt=PROMPT, model=self.model.name, params=params)
        return WORLD.job(job=spec, model=self.model)

    async def private_job(self) -> Dispatch:
        """A job for the keyset that the enclave has now."""
        spec = self.job().job
        reader = (OPERATOR.address, (await self.attestation()).keyset)
        job = (spec.model, spec.params)
        return WORLD.job(
            kind="tee",
            sealed=seal_prompt({"prompt": PROMPT}, job, REPLY.public, [reader]),
            model=self.model,
        )

    async def attestation(self) -> Attestation:
        call = Attest(model=self.model.name, nonce=NONCE)
        return parse_message(Attestation, await Attesting(self.worker).attest(call, self.model))

    async def answer(self, job: Dispatch) -> Outcome:
        async def domain() -> Domain:
            return WORLD.domain

        outcome = await Workshop(self.worker, OPERATOR.address, domain).work(job)
        assert isinstance(outcome, Outcome)
        return outcome

    def appraised(self, attestation: Attestation, nonce: str) -> str:
        policy = policy_of(self.folder, self.model)
        now = attestation.issued_at
        return appraise(attestation, policy, model=self.model.name, nonce=nonce, now=now).kind

    async def busy(self) -> None:
        """Wait until it runs all of `AT_ONCE` jobs."""
        transport = WorkerTransport(self.url)
        async with httpx.AsyncClient(transport=transport, base_url=transport.base_url) as client:
            while (await client.get("/healthz")).json()["active"] < AT_ONCE:
                pass

    def inside(self) -> int:
        """The process that is the enclave; its parent keeps it running."""
        [inside] = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return int(inside)


@pytest_asyncio.fixture
async def enclave(demo_model: Path, tmp_path: Path) -> AsyncIterator[Enclave]:
    program = Path(sys.executable).with_name("tee-worker")
    socket, folder = tmp_path / "enclave.sock", tmp_path / "simulator"
    place = ["--enclave", "simulated", "--simulator", str(folder), "--uds", str(socket)]
    model = ["--model", str(demo_model), "--name", MODEL.name, "--threads", "1"]
    child = Child("tee-worker", [str(program), *place, *model], log=tmp_path / "worker.log")
    child.start()
    worker = HttpWorker(f"unix://{socket}", timeout=30)
    offer = MODEL.model_copy(update={"sha256": hashlib.sha256(demo_model.read_bytes()).hexdigest()})
    try:
        while True:
            try:
                [served] = await worker.models()
                assert (served.name, served.sha256) == (offer.name, offer.sha256)
                break
            except WorkerUnavailable:
                await asyncio.sleep(0.05)
        yield Enclave(child, f"unix://{socket}", worker, offer, folder)
    finally:
        await worker.close()
        await child.stop()


async def test_its_answers_and_attestations_are_what_a_dispatcher_wants(enclave: Enclave) -> None:
    assert enclave.appraised(await enclave.attestation(), NONCE) == "simulated"
    job = enclave.job()
    outcome = await enclave.answer(job)
    assert outcome.reason == ""
    statement = parse_message(EnclaveStatement, outcome.enclave)
    assert enclave.appraised(statement.attestation, job.seed) == "simulated"
    assert Transcript.from_json(outcome.transcript).commitment() == outcome.commitment


async def test_a_private_job_is_answered_to_its_project_alone(enclave: Enclave) -> None:
    job = await enclave.private_job()
    outcome = await enclave.answer(job)
    assert (outcome.reason, outcome.transcript) == ("", None)
    assert job.job.sealed is not None
    statement = parse_message(EnclaveStatement, outcome.enclave)
    told = open_answer(
        REPLY,
        outcome.result,
        job.job.sealed,
        seed=job.seed,
        prover=OPERATOR.address,
        keyset=statement.attestation.keyset.digest(),
    )
    made = Transcript.from_json(told["transcript"])
    assert (told["commitment"], made.seed) == (made.commitment(), job.seed)
    assert told["text"]


async def test_one_that_dies_is_left_at_once_and_its_successor_has_other_keys(enclave: Enclave) -> None:
    private, before = await enclave.private_job(), (await enclave.attestation()).keyset
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(enclave.answer(enclave.job(LONG))) for _ in range(AT_ONCE)]
        await enclave.busy()
        os.kill(enclave.inside(), signal.SIGKILL)
    for broken in running:
        assert "cannot be reached" in broken.result().reason
        assert broken.result().enclave is None
    after = await enclave.answer(enclave.job())  # waits in the socket that the successor inherits
    assert after.reason == ""
    assert parse_message(EnclaveStatement, after.enclave).attestation.keyset != before
    refused = await enclave.answer(private)
    assert "it was restarted, or its keyset has expired" in refused.reason


async def test_an_open_prompt_is_streamed_and_its_last_event_is_what_the_enclave_has_signed(
    enclave: Enclave,
) -> None:
    job, told = enclave.job(), list[Piece | Queued]()
    execution = Execution(job.job_id, WORLD.domain)
    answer = await enclave.worker.generate(job.job, job.seed, OPERATOR.address, execution, told.append)
    pieces = [piece.text for piece in told if isinstance(piece, Piece)]
    assert len(pieces) > 1
    outcome = accept_answer(answer, job, OPERATOR.address, execution)
    assert outcome.result == "".join(pieces)
    assert outcome.attestation == "simulated"
