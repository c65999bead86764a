"""Executor and verifier on the real worker and the demo model: what the one answers, the other confirms or finds out."""

import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aos_operator.backends.dialects import Source
from aos_operator.backends.text import TextBackend
from aos_operator.backends.worker import HttpWorker
from aos_operator.statements import Author, statement
from aos_operator.subjects import check_subject
from aos_operator.tasks import Outcome, Scored
from aos_operator.workshop import Workshop
from aos_protocol.calibration import Calibration
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import Claim, Params
from aos_protocol.messages import Dispatch, ScoreCall, ServedModel
from aos_protocol.record import Record
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain
from aos_protocol.verdict import Verdict, judge
from integration.worker.conftest import RunningWorker
from support.model_servers import llama_server
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

    def job(self, prompt: str = PROMPT, claim: Claim | None = None, **wishes: Any) -> Dispatch:
        return WORLD.job(prompt, claim=claim, model=self.model, wishes=wishes)

    async def answer(self, job: Dispatch, by: Signer = EXECUTOR) -> Outcome:
        outcome = await Workshop(self.worker, by.address, no_domain).work(job)
        assert isinstance(outcome, Outcome)
        assert outcome.reason == ""
        return outcome

    async def answered(self, **wishes: Any) -> tuple[Dispatch, Outcome]:
        """A job with its answer, of as many tokens as a verdict needs: by its seed, a model may end at once."""
        while True:
            job = self.job(**wishes)
            outcome = await self.answer(job)
            if len(Transcript.from_json(outcome.transcript).output_tokens) >= 8:
                return job, outcome

    async def matched(self, **wishes: Any) -> tuple[Verdict, Outcome]:
        """An honest answer and its verdict, which is a match: of few tokens, noise may leave it open now and then."""
        while True:
            job, answer = await self.answered(**wishes)
            verdict = await self.verdict(self.call(job, answer))
            assert verdict.outcome != "mismatch", verdict
            if verdict.outcome == "match":
                return verdict, answer

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


@pytest.fixture(scope="module")
def worker_url(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One worker process for all of these tests."""
    folder, program = tmp_path_factory.mktemp("worker"), Path(sys.executable).with_name("inference-worker")
    socket = folder / "worker.sock"
    arguments = ["--model", str(demo_model), "--uds", str(socket), "--name", MODEL.name, "--threads", "1"]
    arguments += ["--fim", "custom:<|system|>{prefix}\n{suffix}<|user|>"]
    environment = {"PATH": str(program.parent), "XDG_CACHE_HOME": str(folder)}
    running = RunningWorker([str(program), *arguments], environment)
    try:
        assert running.address == f"unix:{socket}"
        yield f"unix://{socket}"
    finally:
        running.close()


@pytest_asyncio.fixture
async def network(worker_url: str, demo_model: Path) -> AsyncIterator[Network]:
    worker = HttpWorker(worker_url, timeout=30)
    model = MODEL.model_copy(update={"sha256": hashlib.sha256(demo_model.read_bytes()).hexdigest()})
    [served] = await worker.models()
    assert (served.name, served.sha256) == (model.name, model.sha256)
    assert (served.evidence, set(served.able)) == ("fingerprints", {"chat", "fim", "logprobs"})
    measured = demo_model.with_suffix(".calibration.json")
    yield Network(worker, model, Calibration.from_json(json.loads(measured.read_text())))
    await worker.close()


async def test_an_honest_answer_matches(network: Network) -> None:
    verdict, _ = await network.matched()
    assert verdict.level == "fingerprint"


async def test_what_was_filled_in_matches_and_shows_how_likely_it_was(network: Network) -> None:
    verdict, answer = await network.matched(suffix=" and they lived happily ever after.", logprobs=2)
    assert {len(token["top"]) for token in answer.logprobs or []} == {2}
    assert verdict.level == "fingerprint"


async def test_what_was_filled_in_before_another_suffix_does_not(network: Network) -> None:
    job = network.job(suffix=" and they lived happily ever after.")
    other = job.job.model_copy(update={"suffix": " and then the cat died."})
    verdict = await network.verdict(
        network.call(job, await network.answer(job.model_copy(update={"job": other})))
    )
    assert (verdict.outcome, verdict.reason) == ("mismatch", "the transcript's prompt is not the job's"), (
        verdict
    )


async def test_tokens_of_another_server_are_scored_as_likely_or_not(network: Network) -> None:
    """The same model behind a server that shows its tokens only: what it says can be told from what it would not, and no more."""
    job = network.job()
    honest = await network.answer(job)
    tokens = list(Transcript.from_json(honest.transcript).output_tokens)
    for text, drawn, outcomes in (
        (honest.result, tokens, {"match", "inconclusive"}),
        (honest.result + " Believe me.", tokens, {"mismatch"}),
    ):
        record = Record(level="token_ids", backend="llama.cpp", output_tokens=drawn)
        shown = replace(
            honest, result=text, transcript=None, record=record.to_json(), commitment=record.digest()
        )
        verdict = await network.verdict(network.call(job, shown))
        assert verdict.level == "likelihood"
        assert verdict.outcome in outcomes, verdict


@pytest.fixture
def llama(demo_model: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of llama.cpp's own server. It is waited for where no event loop waits with it."""
    with llama_server(demo_model, tmp_path) as url:
        yield url


@pytest_asyncio.fixture
async def theirs(llama: str, demo_model: Path) -> AsyncIterator[TextBackend]:
    names = {"models": {MODEL.name: demo_model.name}, "files": {MODEL.name: demo_model}}
    backend = TextBackend(Source(kind="llamacpp", url=llama, timeout=30, **names))
    yield backend
    await backend.close()


async def test_llama_cpp_s_own_server_is_believed_as_far_as_its_tokens_go(
    network: Network, theirs: TextBackend
) -> None:
    """Its own sampler draws, so nothing is forced: what it says is likely, greedy is greedy, and other parameters than the job's show."""
    for asked, ran, outcomes in (
        (Params(max_tokens=200, top_p=0.5), None, {"match", "inconclusive"}),
        (Params(max_tokens=200, temperature=0), None, {"match", "inconclusive"}),
        (
            Params(max_tokens=200, temperature=0.2),
            Params(max_tokens=200, temperature=3.0),
            {"mismatch"},
        ),
    ):
        least = 32 if outcomes == {"mismatch"} else 0  # of fewer tokens, nothing follows
        record = None
        while record is None or len(record.output_tokens or ()) < least:
            job = network.job("What is AI?", params=asked)
            run = job if ran is None else network.job("What is AI?", params=ran)
            answer = await theirs.generate(run.job, job.seed, EXECUTOR.address)
            record = parse_message(Record, answer["record"])
        assert record.level == "token_ids"
        shown = Outcome(answer["text"], "", None, record.digest(), record=record.to_json())
        verdict = await network.verdict(network.call(job, shown))
        assert verdict.outcome in outcomes, verdict
        assert verdict.level == ("greedy" if asked.temperature == 0 else "likelihood")


async def test_what_was_changed_afterwards_does_not(network: Network) -> None:
    job, honest = await network.answered()
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
    while not (text := (await network.answer(network.job())).result):
        pass  # the model may end at once, by the job's seed
    claim = Claim(text=text)
    verdict = await network.verdict(WORLD.call(network.job(claim=claim)))
    assert verdict.level == "likelihood"
    assert verdict.outcome != "mismatch", verdict
