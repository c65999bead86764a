"""What is to be scored: only what its operator signed, for this very job, and not this operator's own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.stub import stub_answer
from aos_operator.subjects import Subject, check_subject, subject_of
from aos_operator.tickets import draw_ticket
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import open_frame, seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import Claim
from aos_protocol.messages import NO_DIGEST, Dispatch, ScoreCall
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import private_job
from unit.operator.world import EXECUTOR, MODEL, OPERATOR, World

WORLD = World()
JOB = WORLD.job()
STRANGER = Signer(b"\x33" * 32)


def check(call: ScoreCall) -> None:
    check_subject(call, WORLD.domain, WORLD.signer.address, OPERATOR.address)


def test_an_honest_answer_is_scored_as_what_its_operator_committed_itself_to() -> None:
    call = WORLD.call(JOB)
    check(call)
    subject, answer = subject_of(call), stub_answer(JOB.job, MODEL.sha256, JOB.seed, EXECUTOR.address)
    assert (subject.digest, subject.operator) == (answer["commitment"], EXECUTOR.address)
    assert (subject.claim.seed, subject.claim.prover) == (JOB.seed, EXECUTOR.address)
    assert subject.claim.output_tokens == answer["transcript"]["output_tokens"]
    assert subject.claim.fingerprints == answer["transcript"]["fingerprints"]
    assert subject.transcript is not None
    assert (subject.transcript.to_json(), subject.text) == (answer["transcript"], answer["text"])


@pytest.mark.parametrize("number", [1, 2, 77])
def test_a_challenge_scores_an_answer_of_another_round(number: int) -> None:
    call = WORLD.call(JOB, challenge=number)
    assert call.seed != call.job_seed == JOB.seed
    check(call)
    assert subject_of(call).operator == EXECUTOR.address


def test_the_answer_to_a_sealed_prompt_cannot_be_scored(enclave: SimulatedEnclave) -> None:
    job = private_job(WORLD, enclave)
    with pytest.raises(ProtocolError, match="nobody here can read it"):
        check(WORLD.call(JOB, job=job.job))


def test_an_answer_of_a_verifier_that_executed_can_be_challenged() -> None:
    check(WORLD.call(JOB, challenge=1, subject=WORLD.answer(JOB, role="verifier")))


FORGED: dict[str, tuple[Callable[[Dispatch], str], str]] = {
    "a frame sealed by a stranger": (lambda job: WORLD.answer(job, sealed_by=STRANGER), "signed its frame"),
    "a result signed by a stranger": (
        lambda job: WORLD.answer(job, signed_by=STRANGER),
        "the result is signed by",
    ),
    "a changed frame": (lambda job: WORLD.answer(job).replace("What is AI?", "What is BI?"), "hash"),
    "an answer to another job": (lambda _: WORLD.answer(WORLD.job()), "ticket|proof|drawn"),
    "another job's id": (lambda job: WORLD.answer(job, job_id="ab" * 32), "is not what was dispatched"),
    "another user": (lambda job: WORLD.answer(job, user="v"), "is not what was dispatched"),
    "another model's name": (
        lambda job: WORLD.answer(job, model=MODEL.model_copy(update={"name": "other.gguf"})),
        "names model other.gguf",
    ),
    "a transcript of another model": (
        lambda job: WORLD.answer(job, transcript={"model": "cd" * 32}),
        "made with model cdcd",
    ),
    "a transcript of another seed": (
        lambda job: WORLD.answer(job, transcript={"seed": "cd" * 32}),
        "another seed than the job's",
    ),
    "a transcript of another prover": (
        lambda job: WORLD.answer(job, transcript={"prover": STRANGER.address}),
        f"those of {STRANGER.address}",
    ),
    "a transcript of other parameters": (
        lambda job: WORLD.answer(
            job, transcript={"params": {**job.job.params.model_dump(), "temperature": 0.5}}
        ),
        "other parameters",
    ),
    "an answer without a transcript": (
        lambda job: WORLD.answer(job, transcript=None),
        "must come with its transcript",
    ),
    "a reason for having no answer": (
        lambda job: WORLD.answer(job, transcript=None, result="", reason="no"),
        "is no answer",
    ),
    "a ticket of somebody else": (
        lambda job: WORLD.answer(job, vrf=draw_ticket(STRANGER, job)),
        "does not belong to",
    ),
    "a ticket for another job": (
        lambda job: WORLD.answer(job, vrf=draw_ticket(EXECUTOR, WORLD.job())),
        "proof|output",
    ),
    "this operator's own answer": (lambda job: WORLD.answer(job, OPERATOR), "own answer"),
    "a clock that the call does not know": (
        lambda job: WORLD.answer(job, clock={**job.clock, "3": "6"}),
        "does not dominate",
    ),
    "another method": (
        lambda job: seal_request(EXECUTOR, "1", "job_score", open_frame(WORLD.answer(job)).params).text,
        "one job_result frame",
    ),
    "two results": (
        lambda job: seal_request(EXECUTOR, "1", "job_result", open_frame(WORLD.answer(job)).params * 2).text,
        "one job_result frame",
    ),
    "no result": (lambda _: seal_request(EXECUTOR, "1", "job_result", [{}]).text, "JobResult: "),
    "no frame": (lambda _: "nonsense", "JSON"),
    "nothing": (lambda _: "", "JSON|exceed"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_answer_is_not_scored(forged: str) -> None:
    make, reason = FORGED[forged]
    with pytest.raises(ProtocolError, match=reason):
        check(WORLD.call(JOB, subject=make(JOB)))


@given(st.integers(0, 10_000), st.characters(codec="utf-8", exclude_characters="\0"))
def test_no_character_of_an_answer_can_be_changed(place: int, character: str) -> None:
    honest = WORLD.answer(JOB)
    place %= len(honest)
    changed = honest[:place] + character + honest[place + 1 :]
    if changed == honest:
        return
    with pytest.raises(ProtocolError):
        check(WORLD.call(JOB, subject=changed))


@pytest.mark.parametrize(
    "claim",
    [
        Claim(text="What is AI?"),
        Claim(output_tokens=[1, 2, 3], seed="ab" * 32),
        Claim(output_tokens=[1], seed="ab" * 32, prover="x", fingerprints="A" * 22 + "=="),
    ],
)
def test_a_claim_is_scored_as_it_is(claim: Claim) -> None:
    call = WORLD.call(WORLD.job(claim=claim))
    check(call)
    assert subject_of(call) == Subject(claim.digest(), claim)


def test_there_is_a_claim_or_an_answer_and_not_both() -> None:
    claimed = WORLD.job(claim=Claim(text="x"))
    with pytest.raises(ProtocolError, match="not both"):
        check(WORLD.call(claimed, subject=WORLD.answer(JOB)))
    with pytest.raises(ProtocolError, match="not both"):
        check(WORLD.call(JOB, subject=None))
    with pytest.raises(ProtocolError, match="neither"):
        subject_of(WORLD.call(JOB, subject=None))


def test_an_answer_s_digest_is_never_that_of_nothing() -> None:
    assert subject_of(WORLD.call(JOB)).digest != NO_DIGEST
