"""Answers of backends that show no transcript: held against the job, and against what was offered, before they are signed."""

from typing import Any

import pytest

from aos_operator.answers import accept_answer
from aos_operator.backends.protocol import Execution
from aos_operator.errors import AnswerRejected
from aos_operator.statements import Author, statement
from aos_operator.stub import stub_answer
from aos_protocol.fields import EvidenceLevel, parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import Dispatch, JobResult
from aos_protocol.record import Record
from aos_protocol.shown import read_shown
from aos_protocol.typed_data import recover_typed
from aos_protocol.verification import result_claim
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()
PLAIN: Dispatch = WORLD.job("What is AI?")

TEXT = {"level": "text", "backend": "ollama"}
IDS = {"level": "token_ids", "backend": "llama.cpp", "output_tokens": [1, 2]}
LIKELY = [{"token": "x", "logprob": -0.5, "top": [["x", -0.5]]}]


def asked(**changes: Any) -> Dispatch:
    return PLAIN.model_copy(update={"job": parse_message(JobSpec, PLAIN.job.to_json() | changes)})


def accept(dispatch: Dispatch, offered: EvidenceLevel = "text", **answer: Any) -> Any:
    said = {"text": "an answer", "record": TEXT} | answer
    return accept_answer(said, dispatch, OPERATOR.address, offered=offered)


def test_a_record_stands_in_the_place_of_a_transcript() -> None:
    outcome = accept(asked(), record=IDS)
    assert (outcome.result, outcome.transcript, outcome.logprobs) == ("an answer", None, None)
    assert outcome.record == parse_message(Record, IDS).to_json()
    assert outcome.commitment == parse_message(Record, IDS).digest()


def test_logprobs_are_kept_as_they_travel() -> None:
    outcome = accept(asked(logprobs=1), logprobs=LIKELY)
    assert outcome.logprobs == [{"token": "x", "logprob": -0.5, "top": [("x", -0.5)]}]


@pytest.mark.parametrize(("record", "logprobs"), [(TEXT, None), (IDS, None), (TEXT, LIKELY)])
def test_what_is_signed_is_what_others_verify(record: dict[str, Any], logprobs: Any) -> None:
    dispatch = asked(logprobs=1) if logprobs else asked()
    outcome = accept(dispatch, record=record, logprobs=logprobs)
    author = Author(OPERATOR, WORLD.domain, WORLD.signer.address)
    method, said = statement(author, dispatch, outcome, {"2": "5"}, 5)
    result = parse_message(JobResult, said)
    claim = result_claim(result, dispatch.job.params.digest(), read_shown(result), seed=dispatch.seed)
    assert (method, claim.transcript) == ("job_result", outcome.commitment)
    assert recover_typed(WORLD.domain, claim, result.signature) == OPERATOR.address
    assert (result.transcript, result.logprobs is None) == (None, logprobs is None)


@pytest.mark.parametrize("offered", ["token_ids", "logprobs", "fingerprints"])
def test_it_shows_no_less_than_was_offered(offered: EvidenceLevel) -> None:
    with pytest.raises(AnswerRejected, match=f"shows text only, and what this operator offers is {offered}"):
        accept(asked(), offered)


def test_it_may_show_more_than_was_offered() -> None:
    assert accept(asked(), "text", record=IDS).record["level"] == "token_ids"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"record": None}, "does not fit: Record"), ({"record": TEXT | {"more": 1}}, "more"), ({"text": None}, "has no text"),
        ({"text": "\ud800"}, "surrogate"), ({"transcript": {}}, "both a transcript and a record"),
        ({"record": TEXT | {"level": "token_ids"}}, "output_tokens"), ({"logprobs": LIKELY}, "does not ask for"),
        ({"logprobs": "x"}, "are no list"), ({"logprobs": [{"token": "x"}]}, "logprobs are not usable"),
        ({"logprobs": [{"token": "x", "logprob": 1.0}]}, "logprobs are not usable"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_signed(answer: dict[str, Any], why: str) -> None:
    with pytest.raises(AnswerRejected, match=why):
        accept(asked(), **answer)


def test_no_record_comes_from_an_enclave() -> None:
    dispatch = asked()
    with pytest.raises(AnswerRejected):
        accept_answer(
            {"text": "x", "record": TEXT},
            dispatch,
            OPERATOR.address,
            Execution(dispatch.job_id, WORLD.domain),
        )


def test_a_transcript_comes_with_logprobs_if_they_were_asked_for_and_only_then() -> None:
    wanted, plain = asked(logprobs=1), asked()
    honest = stub_answer(plain.job, MODEL.sha256, plain.seed, OPERATOR.address)
    outcome = accept_answer(honest | {"logprobs": LIKELY}, wanted, OPERATOR.address)
    assert (outcome.record, len(outcome.logprobs or [])) == (None, 1)
    for dispatch, given in ((wanted, {}), (plain, {"logprobs": LIKELY})):
        with pytest.raises(AnswerRejected, match="the worker's logprobs do not fit"):
            accept_answer(honest | given, dispatch, OPERATOR.address)
