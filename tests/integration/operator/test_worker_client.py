"""The worker's client, over TCP and a unix socket, and what it makes of every kind of trouble."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aos_inference.schemas import GenerateRequest, ScoreRequest
from aos_operator.backends.protocol import Execution
from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.stub import stub_answer, stub_score
from aos_operator.subjects import Subject
from aos_protocol.job import Claim, JobSpec, Params
from aos_protocol.transcript import Transcript
from aos_tee_worker.schemas import EnclaveRequest
from integration.operator.fake_worker import FakeWorker
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import private_job
from unit.operator.world import EXECUTOR, MODEL, OPERATOR, SERVED, World

JOB = JobSpec(tag="opml", prompt="What is AI?", model=MODEL.name, params=Params(temperature=0.0, top_p=0.5))
SEED = "ab" * 32
WORLD = World()
CLAIMED = Subject("cd" * 32, Claim(text="What is AI?"))


@pytest_asyncio.fixture(params=["tcp", "unix"])
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FakeWorker]:
    path = tmp_path / "worker.sock" if request.param == "unix" else None
    async with FakeWorker().serving(path) as serving:
        yield serving


@pytest_asyncio.fixture
async def client(worker: FakeWorker) -> AsyncIterator[HttpWorker]:
    client = HttpWorker(worker.url, timeout=30)
    yield client
    await client.close()


async def test_it_lists_the_models(client: HttpWorker) -> None:
    assert await client.models() == [SERVED]


async def test_a_job_is_sent_with_its_seed_and_all_parameters(client: HttpWorker, worker: FakeWorker) -> None:
    answer = await client.generate(JOB, SEED, OPERATOR.address)
    assert answer["text"] == "What is AI?"
    assert worker.jobs == [
        {
            "model": MODEL.name,
            "prompt": "What is AI?",
            "params": {"temperature": 0.0, "top_p": 0.5, "max_tokens": 256, "stop": []},
            "seed": SEED,
            "prover": OPERATOR.address,
            "stream": False,
        }
    ]


async def test_an_answer_is_scored_with_the_job_s_own_prompt_and_all_that_it_says(
    client: HttpWorker, worker: FakeWorker
) -> None:
    answer = stub_answer(JOB, MODEL.sha256, SEED, EXECUTOR.address)
    transcript = Transcript.from_json(answer["transcript"])
    claim = Claim(
        output_tokens=list(transcript.output_tokens),
        seed=SEED,
        prover=EXECUTOR.address,
        fingerprints=transcript.fingerprints,
    )
    of = Subject(answer["commitment"], claim, EXECUTOR.address, transcript, answer["text"])
    scored = await client.score(JOB, of)
    assert scored == stub_score(JOB, MODEL.sha256, of)
    assert worker.scorings == [
        {
            "model": MODEL.name,
            "items": [
                {
                    "prompt": "What is AI?",
                    "params": {"temperature": 0.0, "top_p": 0.5, "max_tokens": 256, "stop": []},
                    "output_tokens": list(b"What is AI?"),
                    "seed": SEED,
                    "prover": EXECUTOR.address,
                    "fingerprints": transcript.fingerprints,
                    "answer": {
                        "text": "What is AI?",
                        "finish_reason": "eos",
                        "prompt_tokens": list(b"What is AI?"),
                    },
                    "subject": answer["commitment"],
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    "claim",
    [Claim(text="What is AI?"), Claim(output_tokens=[1, 2]), Claim(output_tokens=[1], seed=SEED)],
)
async def test_a_claim_is_sent_as_it_is(client: HttpWorker, worker: FakeWorker, claim: Claim) -> None:
    await client.score(JOB.model_copy(update={"claim": claim}), Subject(claim.digest(), claim))
    [item] = worker.scorings[0]["items"]
    assert set(item) == {"prompt", "params", "subject", *claim.to_json()}
    assert item["subject"] == claim.digest()


async def test_what_it_sends_is_what_the_worker_takes(client: HttpWorker, worker: FakeWorker) -> None:
    chat = JobSpec.model_validate(
        {"tag": "opml", "messages": [{"role": "user", "content": "é"}], "model": MODEL.name}
    )
    for job in (JOB, chat):
        await client.generate(job, SEED, OPERATOR.address)
        await client.score(job, Subject("ab" * 32, Claim(text="x")))
    for request in worker.jobs:
        GenerateRequest.model_validate(request)
    for request in worker.scorings:
        ScoreRequest.model_validate(request)


async def test_an_enclave_is_told_for_which_job_and_chain_it_is_to_sign(
    client: HttpWorker, worker: FakeWorker, enclave: SimulatedEnclave
) -> None:
    worker.enclave = enclave
    job, execution = JOB.model_copy(update={"tag": "tee"}), Execution("cd" * 32, WORLD.domain)
    answer = await client.generate(job, SEED, OPERATOR.address, execution)
    assert answer["enclave"]["attestation"]["kind"] == "simulated"
    [asked] = worker.jobs
    assert asked.pop("execution") == {
        "job_id": "cd" * 32,
        "chain_id": WORLD.domain.chain_id,
        "registry": WORLD.domain.registry,
    }
    assert set(asked) == {"model", "prompt", "params", "seed", "prover", "stream"}
    EnclaveRequest.model_validate(asked | {"execution": execution.to_json()})


async def test_a_sealed_prompt_is_sent_as_it_is_and_nothing_else_of_it(
    client: HttpWorker, worker: FakeWorker, enclave: SimulatedEnclave
) -> None:
    worker.enclave = enclave
    dispatch = private_job(WORLD, enclave)
    execution = Execution(dispatch.job_id, WORLD.domain)
    answer = await client.generate(dispatch.job, dispatch.seed, OPERATOR.address, execution)
    assert set(answer) == {"sealed", "enclave"}
    [asked] = worker.jobs
    assert set(asked) == {"model", "sealed", "params", "seed", "prover", "stream", "execution"}
    assert dispatch.job.sealed is not None
    assert asked["sealed"] == dispatch.job.sealed.to_json()
    EnclaveRequest.model_validate(asked)


async def test_an_attestation_is_asked_for_on_a_nonce(
    client: HttpWorker, worker: FakeWorker, enclave: SimulatedEnclave
) -> None:
    with pytest.raises(WorkerRefused, match=r"Not Found \(HTTP 404\)"):
        await client.attestation(SEED)
    worker.enclave = enclave
    assert (await client.attestation(SEED))["keyset"] == enclave.keyring.current().keyset.to_json()
    assert worker.nonces == [SEED]


async def test_messages_take_the_place_of_the_prompt(client: HttpWorker, worker: FakeWorker) -> None:
    turns = [{"role": "user", "content": "What is AI?"}]
    await client.generate(
        JobSpec.model_validate({"tag": "opml", "messages": turns, "model": MODEL.name}),
        SEED,
        OPERATOR.address,
    )
    assert worker.jobs[0]["messages"] == turns
    assert "prompt" not in worker.jobs[0]


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500])
async def test_a_job_that_cannot_be_done_is_refused_in_the_workers_words(
    client: HttpWorker, worker: FakeWorker, status: int
) -> None:
    worker.status = status
    with pytest.raises(WorkerRefused, match=rf"^told to \(HTTP {status}\)$"):
        await client.generate(JOB, SEED, OPERATOR.address)
    with pytest.raises(WorkerRefused, match=rf"^told to \(HTTP {status}\)$"):
        await client.score(JOB, CLAIMED)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_a_worker_that_is_full_or_away_may_be_asked_again(
    client: HttpWorker, worker: FakeWorker, status: int
) -> None:
    worker.status = status
    for asking in (client.generate(JOB, SEED, OPERATOR.address), client.score(JOB, CLAIMED)):
        with pytest.raises(WorkerUnavailable, match="told to") as caught:
            await asking
        assert isinstance(caught.value, WorkerBusy) == (status in {429, 503})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff"])
async def test_an_answer_that_is_no_json_object_is_none(
    client: HttpWorker, worker: FakeWorker, body: bytes
) -> None:
    worker.body = body
    with pytest.raises(WorkerUnavailable, match="is it an AOS worker"):
        await client.generate(JOB, SEED, OPERATOR.address)


async def test_an_error_without_a_message_shows_its_status(client: HttpWorker, worker: FakeWorker) -> None:
    worker.status, worker.body = 400, b"nonsense"
    with pytest.raises(WorkerRefused, match=r"^HTTP 400$"):
        await client.generate(JOB, SEED, OPERATOR.address)


@pytest.mark.parametrize("models", [{}, {"models": [{}]}, {"models": [{"name": "x", "sha256": "y"}]}, []])
async def test_a_list_of_models_that_is_none_is_not_believed(
    client: HttpWorker, worker: FakeWorker, models: object
) -> None:
    worker.models = models
    with pytest.raises(WorkerUnavailable, match=r"/v1/models|no JSON object"):
        await client.models()


async def test_a_slow_worker_is_given_up(worker: FakeWorker) -> None:
    worker.go.clear()
    client = HttpWorker(worker.url, timeout=0.05)
    with pytest.raises(WorkerUnavailable, match="no answer in time"):
        await client.generate(JOB, SEED, OPERATOR.address)
    await client.close()


async def test_who_cancels_leaves_the_worker(client: HttpWorker, worker: FakeWorker) -> None:
    worker.go.clear()
    running = asyncio.create_task(client.generate(JOB, SEED, OPERATOR.address))
    await worker.started.wait()
    running.cancel()
    await worker.left.wait()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:///nowhere/worker.sock", "vsock://4000000000:1"])
async def test_a_worker_that_is_not_there_cannot_be_reached(url: str) -> None:
    client = HttpWorker(url, timeout=5)
    with pytest.raises(WorkerUnavailable, match="cannot be reached"):
        await client.models()
    with pytest.raises(WorkerUnavailable, match="cannot be reached"):
        await client.generate(JOB, SEED, OPERATOR.address)
    await client.close()
