"""A worker's answer is held against the job before anything is signed."""

from collections.abc import Callable
from typing import Any

import pytest

from aos_operator.answers import accept_answer, accept_score
from aos_operator.errors import AnswerRejected
from aos_operator.stub import stub_answer, stub_score
from aos_operator.subjects import subject_of
from aos_protocol.job import Claim
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from unit.operator.world import EXECUTOR, MODEL, OPERATOR, World

JOB = World().job("What is AI?")
STRANGER = "0x" + "99" * 20
Answer = dict[str, Any]


def honest() -> Answer:
    return stub_answer(JOB.job, MODEL.sha256, JOB.seed, OPERATOR.address)


def with_transcript(**changes: Any) -> Answer:
    """An honest answer whose transcript was changed, with the commitment that fits the change."""
    transcript = {**honest()["transcript"], **changes}
    return {
        **honest(),
        "transcript": transcript,
        "commitment": Transcript.from_json(transcript).commitment(),
    }


def test_an_honest_answer_becomes_the_outcome() -> None:
    answer = honest()
    outcome = accept_answer(answer, JOB, OPERATOR.address)
    assert (outcome.result, outcome.reason) == ("What is AI?", "")
    assert outcome.transcript == answer["transcript"]
    assert outcome.commitment == answer["commitment"]


def test_a_text_may_hold_what_json_escapes() -> None:
    assert accept_answer({**honest(), "text": 'a\0b"\n'}, JOB, OPERATOR.address).result == 'a\0b"\n'


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (dict, "no text"),
        (lambda: {**honest(), "text": None}, "no text"),
        (lambda: {**honest(), "text": "\ud800"}, "surrogate"),
        (lambda: {**honest(), "transcript": None}, "transcript is not usable"),
        (lambda: {**honest(), "transcript": {"rule": 1}}, "transcript is not usable"),
        (lambda: with_transcript(model="cd" * 32), "ran model cdcd"),
        (
            lambda: with_transcript(params={**honest()["transcript"]["params"], "temperature": 0.5}),
            "parameters",
        ),
        (
            lambda: with_transcript(params={**honest()["transcript"]["params"], "max_tokens": 17}),
            "parameters",
        ),
        (lambda: {**honest(), "commitment": "00" * 32}, "commitment"),
        (lambda: {**honest(), "commitment": None}, "commitment"),
        (lambda: {**with_transcript(engine="another"), "commitment": honest()["commitment"]}, "commitment"),
        (lambda: with_transcript(seed="cd" * 32), "ran with seed cdcd"),
        (lambda: with_transcript(prover=STRANGER), f"those of '{STRANGER}'"),
        (
            lambda: {**honest(), "transcript": {**honest()["transcript"], "output_tokens": [1]}},
            "Fingerprints of 1 tokens",
        ),
        (
            lambda: {**honest(), "transcript": {**honest()["transcript"], "fingerprints": ""}},
            "Fingerprints of 11 tokens",
        ),
    ],
)
def test_a_dishonest_one_is_rejected(made: Callable[[], Answer], reason: str) -> None:
    with pytest.raises(AnswerRejected, match=reason):
        accept_answer(made(), JOB, OPERATOR.address)


CALL = World().call()
SUBJECT = subject_of(CALL)


def scores(**changes: Any) -> Answer:
    """An honest answer to one item, with members of the score replaced."""
    [score] = stub_score(CALL.job, MODEL.sha256, SUBJECT)["scores"]
    return {"scores": [{**score, **changes}]}


def short(**changes: Any) -> Answer:
    """A score of one position less than there are."""
    [score] = scores()["scores"]
    lists = {name: score[name][1:] for name in ("distances", "margins", "surprisals", "winners")}
    return {"scores": [{**score, **lists, "positions": score["positions"] - 1, **changes}]}


def test_an_honest_score_is_kept_with_whose_answer_it_is_of() -> None:
    answer = scores()
    scored = accept_score(answer, CALL, SUBJECT)
    assert (scored.subject, scored.subject_operator, scored.reason) == (SUBJECT.digest, EXECUTOR.address, "")
    assert scored.score == answer["scores"][0] == Score.model_validate(scored.score).to_json()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (dict, "exactly one score"),
        (lambda: {"scores": {}}, "exactly one score"),
        (lambda: {"scores": []}, "exactly one score"),
        (lambda: {"scores": scores()["scores"] * 2}, "exactly one score"),
        (lambda: {"scores": ["none"]}, "not usable"),
        (lambda: scores(margins=[0.0]), "not usable"),
        (lambda: scores(entropy=float("inf")), "not usable"),
        (lambda: scores(subject="cd" * 32), "scored cdcd"),
        (lambda: scores(model="cd" * 32), "model cdcd"),
        (short, "10 positions are scored, of 11"),
        (lambda: scores(level="seeded", distances=None), "level seeded, where fingerprint can be had"),
    ],
)
def test_a_score_that_does_not_fit_the_call_is_rejected(made: Callable[[], Answer], reason: str) -> None:
    with pytest.raises(AnswerRejected, match=reason):
        accept_score(made(), CALL, SUBJECT)


def test_only_the_worker_knows_how_many_tokens_a_text_has() -> None:
    call = World().call(World().job(claim=Claim(text="What is AI?")))
    subject = subject_of(call)
    [score] = stub_score(call.job, MODEL.sha256, subject)["scores"]
    assert accept_score({"scores": [score]}, call, subject).score == score
