"""A worker's answer is held against the job before anything is signed."""

from collections.abc import Callable
from typing import Any

import pytest

from aos_operator.answers import accept_answer
from aos_operator.errors import AnswerRejected
from aos_operator.stub import stub_answer
from aos_protocol.transcript import Transcript
from unit.operator.world import MODEL, OPERATOR, World

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
