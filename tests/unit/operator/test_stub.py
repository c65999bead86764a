"""The stub worker keeps the protocol's rules, so that what is tested with it holds with a model, too."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.errors import WorkerRefused
from aos_operator.stub import ENGINE, LEVEL, VOCABULARY, StubWorker, stub_answer, stub_score
from aos_operator.subjects import Subject
from aos_protocol.job import Claim, JobSpec, Params
from aos_protocol.sampling import sample, sampling_seed
from aos_protocol.scoring import FORBIDDEN
from aos_protocol.transcript import Transcript
from unit.operator.world import EXECUTOR, MODEL, OPERATOR

SEED = "5a" * 32


def job(prompt: str = "What is AI?", **params: Any) -> JobSpec:
    return JobSpec(tag="opml", prompt=prompt, model=MODEL.name, params=Params(**params))


def subject(asked: JobSpec, **changes: Any) -> Subject:
    """An honest answer as a verifier sees it, with members of what it claims replaced."""
    answer = stub_answer(asked, MODEL.sha256, SEED, EXECUTOR.address)
    transcript = Transcript.from_json(answer["transcript"])
    claim = Claim(
        output_tokens=list(transcript.output_tokens),
        seed=transcript.seed,
        prover=transcript.prover,
        fingerprints=transcript.fingerprints,
    )
    changed = claim.model_copy(update=changes)
    return Subject(answer["commitment"], changed, EXECUTOR.address, transcript, answer["text"])


def claimed(**members: Any) -> Subject:
    """A claim."""
    claim = Claim(**members)
    return Subject(claim.digest(), claim)


def score(asked: JobSpec, of: Subject) -> dict[str, Any]:
    [only] = stub_score(asked, MODEL.sha256, of)["scores"]
    return dict(only)


def test_its_answers_name_it() -> None:
    assert (
        stub_answer(job(), MODEL.sha256, SEED, OPERATOR.address)["transcript"]["engine"] == ENGINE == "stub"
    )
    assert score(job(), subject(job()))["engine"] == ENGINE


@given(st.floats(0, 5), st.floats(0.01, 1), st.integers(0, 2**16), st.integers(0, 255))
def test_no_noise_makes_it_write_anything_else(
    temperature: float, top_p: float, position: int, byte: int
) -> None:
    logits = np.zeros(VOCABULARY, dtype=np.float32)
    logits[byte] = LEVEL
    assert sample(logits, sampling_seed(bytes.fromhex(SEED)), position, temperature, top_p) == byte


@pytest.mark.parametrize("temperature", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("top_p", [0.1, 1.0])
def test_an_honest_answer_scores_without_a_flaw(temperature: float, top_p: float) -> None:
    asked = job(temperature=temperature, top_p=top_p)
    found = score(asked, subject(asked))
    assert found["level"] == "fingerprint"
    assert found["distances"] == [0.0] * 11
    assert found["margins"] == [0.0] * 11
    assert bytes(found["winners"]) == b"What is AI?"


def test_an_edited_token_shows_in_its_margin() -> None:
    found = score(job(), subject(job(), output_tokens=list(b"What Xs AI?")))
    assert [place for place, margin in enumerate(found["margins"]) if margin] == [5]
    assert found["margins"][5] == FORBIDDEN
    assert found["winners"][5] == ord("i")


@pytest.mark.parametrize("changes", [{"prover": OPERATOR.address}, {"seed": "00" * 32}])
def test_a_copied_answer_shows_in_its_fingerprints(changes: dict[str, str]) -> None:
    found = score(job(), subject(job(), **changes))
    assert min(found["distances"]) > 1


def test_an_answer_to_another_prompt_shows_in_both() -> None:
    found = score(job("What was it?"), subject(job()))
    assert max(found["distances"]) > 1
    assert max(found["margins"]) == FORBIDDEN


@pytest.mark.parametrize(
    ("temperature", "members", "level"),
    [
        (1.0, {"output_tokens": [87], "seed": SEED}, "seeded"),
        (1.0, {"output_tokens": [87]}, "likelihood"),
        (0.0, {"output_tokens": [87]}, "greedy"),
        (0.0, {"text": "W"}, "greedy"),
    ],
)
def test_what_a_claim_brings_gives_its_level(temperature: float, members: dict[str, Any], level: str) -> None:
    found = score(job(temperature=temperature), claimed(**members))
    assert (found["level"], found["winners"]) == (level, [87])


def test_a_text_is_its_bytes() -> None:
    found = score(job(), claimed(text="What is BI?"))
    assert found["positions"] == 11
    assert [place for place, surprise in enumerate(found["surprisals"]) if surprise > 1] == [8]


def test_it_writes_zeros_after_the_prompt() -> None:
    found = score(job("Hi"), claimed(output_tokens=[*b"Hi", 0, 0], seed=SEED))
    assert found["margins"] == [0.0] * 4


def test_an_answer_that_contradicts_its_tokens_is_named() -> None:
    honest = subject(job())
    assert "contradiction" not in score(job(), honest)
    assert score(job(), replace(honest, text="What is BI?"))["contradiction"] == "text"
    assert score(job("What was AI?"), honest)["contradiction"] == "prompt"


def test_tokens_that_are_no_bytes_are_refused() -> None:
    with pytest.raises(WorkerRefused, match="token 256 is not in the vocabulary"):
        score(job(), claimed(output_tokens=[1, 256]))


async def test_a_model_that_it_does_not_have_is_refused() -> None:
    worker = StubWorker({"other.gguf": "cd" * 32})
    with pytest.raises(WorkerRefused, match=r"there are: other\.gguf"):
        await worker.generate(job(), SEED, OPERATOR.address)
    with pytest.raises(WorkerRefused, match=r"there are: other\.gguf"):
        await worker.score(job(), subject(job()))
