"""Executor and verifier on the real worker and the demo model: what the one answers, the other confirms or finds out."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest_asyncio

from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerUnavailable
from aos_operator.statements import Author, statement
from aos_operator.subjects import check_subject
from aos_operator.tasks import Outcome, Scored
from aos_operator.workshop import Workshop
from aos_protocol.calibration import Calibration
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import Claim
from aos_protocol.messages import Dispatch, ScoreCall, ServedModel
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain
from aos_protocol.verdict import Verdict, judge
from aos_service.child import Child
from unit.operator.world import EXECUTOR, MODEL, OPERATOR, World

WORLD = World()
PROMPT = "Once upon a time there was"


async def no_domain() -> Domain:
    raise AssertionError("only an enclave has anything to sign")


@dataclass
class Network:
    """A worker that an executor and a verifier share, and the model's calibration."""

    worker: HttpWorker
    model: ServedModel
    calibration: Calibration

    def job(self, prompt: str = PROMPT, claim: Claim | None = None) -> Dispatch:
        return WORLD.job(prompt, claim=claim, model=self.model)

    async def answer(self, job: Dispatch, by: Signer = EXECUTOR) -> Outcome:
        outcome = await Workshop(self.worker, by.address, no_domain).work(job)
        assert isinstance(outcome, Outcome)
        assert outcome.reason == ""
        return outcome

    def call(self, job: Dispatch, outcome: Outcome) -> ScoreCall:
        """The call to score an answer, which its executor signs whatever it says."""
        author = Author(EXECUTOR, WORLD.domain, WORLD.signer.address)
        method, param = statement(author, job, outcome, {**job.clock, "3": "5"}, 5)
        call = WORLD.call(job, subject=seal_request(EXECUTOR, "1", method, [param]).text)
        check_subject(call, WORLD.domain, WORLD.signer.address, OPERATOR.address)
        return call

    async def verdict(self, call: ScoreCall) -> Verdict:
        scored = await Workshop(self.worker, OPERATOR.address, no_domain).work(call)
        assert isinstance(scored, Scored)
        assert scored.reason == ""
        return judge(parse_message(Score, scored.score), self.calibration)


@pytest_asyncio.fixture
async def network(demo_model: Path, tmp_path: Path) -> AsyncIterator[Network]:
    program = Path(sys.executable).with_name("inference-worker")
    socket = tmp_path / "worker.sock"
    arguments = ["--model", str(demo_model), "--uds", str(socket), "--name", MODEL.name, "--threads", "1"]
    child = Child("worker", [str(program), *arguments], log=tmp_path / "worker.log")
    child.start()
    worker = HttpWorker(f"unix://{socket}", timeout=30)
    try:
        model = MODEL.model_copy(update={"sha256": hashlib.sha256(demo_model.read_bytes()).hexdigest()})
        while True:
            try:
                [served] = await worker.models()
                assert (served.name, served.sha256) == (model.name, model.sha256)
                break
            except WorkerUnavailable:
                await asyncio.sleep(0.05)
        measured = demo_model.with_suffix(".calibration.json")
        yield Network(worker, model, Calibration.from_json(json.loads(measured.read_text())))
    finally:
        await worker.close()
        await child.stop()


async def test_an_honest_answer_matches(network: Network) -> None:
    job = network.job()
    verdict = await network.verdict(network.call(job, await network.answer(job)))
    assert (verdict.outcome, verdict.level) == ("match", "fingerprint"), verdict


async def test_what_was_changed_afterwards_does_not(network: Network) -> None:
    job = network.job()
    honest = await network.answer(job)
    transcript = Transcript.from_json(honest.transcript)
    tokens = list(transcript.output_tokens)
    tokens[4] = tokens[4] + 1
    edited = transcript.model_copy(update={"output_tokens": tuple(tokens)})
    copied = Transcript.from_json((await network.answer(job, by=OPERATOR)).transcript)
    stolen = copied.model_copy(update={"prover": EXECUTOR.address})
    for cheat in (
        replace(honest, result=honest.result + " Believe me."),
        replace(honest, transcript=edited.to_json(), commitment=edited.commitment()),
        replace(honest, transcript=stolen.to_json(), commitment=stolen.commitment()),
    ):
        verdict = await network.verdict(network.call(job, cheat))
        assert verdict.outcome == "mismatch", verdict


async def test_an_answer_to_another_prompt_does_not(network: Network) -> None:
    job, other = network.job(), network.job("A hidden prompt. " + PROMPT)
    answer = await network.answer(other.model_copy(update={"seed": job.seed}))
    verdict = await network.verdict(network.call(job, answer))
    assert verdict.outcome == "mismatch", verdict


async def test_a_text_claim_can_be_scored(network: Network) -> None:
    claim = Claim(text=(await network.answer(network.job())).result)
    verdict = await network.verdict(WORLD.call(network.job(claim=claim)))
    assert verdict.level == "likelihood"
    assert verdict.outcome != "mismatch", verdict
