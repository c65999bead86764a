"""What a worker answers, held against what it was asked, before anything is signed."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import StringConstraints

from aos_operator.backends.protocol import Execution
from aos_operator.errors import AnswerRejected
from aos_operator.subjects import Subject
from aos_operator.tasks import Outcome, Scored
from aos_protocol.attestation.statement import check_statement
from aos_protocol.canonical import digest
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence_work import check_extent
from aos_protocol.fields import Base64, EvidenceLevel, Message, parse_message
from aos_protocol.messages import Dispatch, ModelOffer, ScoreCall, TokenLogprob
from aos_protocol.score_document import Score
from aos_protocol.shown import check_level, check_logprobs, check_record, read_record
from aos_protocol.transcript import Transcript

_MOST_SEALED: Final = 4 << 20
"""Characters of a sealed answer: no frame takes more."""


class SealedAnswer(Message):
    """What an enclave answers to a sealed prompt, and nothing else: whatever else it told would be told to everybody."""

    sealed: Annotated[Base64, StringConstraints(min_length=1, max_length=_MOST_SEALED)]
    enclave: dict[str, Any]


@dataclass(frozen=True)
class _Claimed:
    """What will be this operator's result, as far as the enclave's statement speaks of it (`statement.Answered`)."""

    job_id: str
    operator: str
    result: str
    model: ModelOffer
    enclave: dict[str, Any] | None


def accept_answer(
    answer: dict[str, Any],
    dispatch: Dispatch,
    prover: str,
    execution: Execution | None = None,
    offered: EvidenceLevel = "text",
) -> Outcome:
    """Turn a backend's answer into an outcome; `prover` is this operator's address, `execution` what an enclave had to sign for.

    An answer that shows no transcript has a record of what it shows, which must fit the job, and be no less than was `offered`. Of any other:
    1. It has a text that can be sent.  2. Its transcript parses, with as many fingerprints as output tokens.  3. The transcript was
    made with the dispatched model,  4. the job's effective parameters,  5. and its seed, by this operator.  6. Its commitment is the
    transcript's, computed again.  7. An enclave's keyset is for the dispatched model, and its key has signed all that; of a sealed answer,
    that is all that anybody but the project can check. What vouches for the keyset, the dispatcher appraises.
    Raises `AnswerRejected` with the first of these that fails.
    """
    if execution is None:
        if "enclave" in answer:
            raise AnswerRejected("an enclave's statement came with the answer to a job that was for none")
        if "record" in answer:
            return _recorded_answer(answer, dispatch, offered)
        return _open_answer(answer, dispatch, prover)
    sealed = dispatch.job.sealed is not None
    outcome = _sealed_answer(answer) if sealed else _open_answer(answer, dispatch, prover)
    if not isinstance(answer.get("enclave"), dict):
        raise AnswerRejected("no enclave has signed the worker's answer: is it a tee-worker?")
    claimed = _Claimed(dispatch.job_id, prover, outcome.result, dispatch.model, answer["enclave"])
    try:
        statement = check_statement(
            claimed, dispatch.job, dispatch.seed, outcome.commitment, execution.domain
        )
    except ProtocolError as error:
        raise AnswerRejected(f"what the enclave says of its answer does not hold: {error}") from error
    return replace(outcome, enclave=statement.to_json())


def _sealed_answer(answer: dict[str, Any]) -> Outcome:
    try:
        return Outcome(parse_message(SealedAnswer, answer).sealed, "", None)
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's answer to a sealed prompt is not usable: {error}") from error


def _recorded_answer(answer: dict[str, Any], dispatch: Dispatch, offered: EvidenceLevel) -> Outcome:
    if "transcript" in answer:
        raise AnswerRejected("the backend's answer has both a transcript and a record: it shows one of them")
    text, logprobs = _text(answer.get("text")), _logprobs(answer.get("logprobs"))
    try:
        record = read_record(answer["record"])
        check_record(record, text, logprobs, dispatch.job)
        check_level(record, offered, "what this operator offers")
    except ProtocolError as error:
        raise AnswerRejected(f"what the backend shows of its answer does not fit: {error}") from error
    return Outcome(text, "", None, record.digest(), record=record.to_json(), logprobs=_kept(logprobs))


def _open_answer(answer: dict[str, Any], dispatch: Dispatch, prover: str) -> Outcome:
    text = _text(answer.get("text"))
    transcript = _transcript(answer.get("transcript"))
    if transcript.model != dispatch.model.sha256:
        raise AnswerRejected(f"the worker ran model {transcript.model}, not {dispatch.model.sha256}")
    if digest(transcript.params.model_dump(mode="json")) != dispatch.job.params.digest():
        raise AnswerRejected("the worker ran with other parameters than the job's")
    if transcript.seed != dispatch.seed:
        raise AnswerRejected(
            f"the worker ran with seed {transcript.seed}, not with the job's, {dispatch.seed}"
        )
    if transcript.prover != prover:
        raise AnswerRejected(
            f"the worker's fingerprints are those of {transcript.prover!r}, not of this operator, {prover}"
        )
    commitment = transcript.commitment()
    if answer.get("commitment") != commitment:
        raise AnswerRejected("the worker's commitment is not that of its transcript")
    logprobs = _logprobs(answer.get("logprobs"))
    try:
        check_logprobs(logprobs, dispatch.job)
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's logprobs do not fit: {error}") from error
    return Outcome(text, "", transcript.to_json(), commitment, logprobs=_kept(logprobs))


def accept_score(answer: dict[str, Any], call: ScoreCall, subject: Subject) -> Scored:
    """Turn a worker's answer to one item into what came of the call.

    1. There is one score, and it parses.  2. It is of this subject,  3. made with the named model,  4. of all its positions, at the level
    that the subject allows. Raises `AnswerRejected` with the first of these that fails.
    """
    score = _only_score(answer.get("scores"))
    if score.subject != subject.digest:
        raise AnswerRejected(f"the worker scored {score.subject}, not {subject.digest}")
    if score.model != call.model.sha256:
        raise AnswerRejected(f"the worker scored with model {score.model}, not {call.model.sha256}")
    try:
        check_extent(score, call.job, subject.shown)
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's score does not fit: {error}") from error
    return Scored(subject.digest, subject.operator, score.to_json())


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise AnswerRejected("the worker's answer has no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AnswerRejected("the worker's text holds half of a surrogate pair") from None
    return text


def _transcript(value: object) -> Transcript:
    try:
        return Transcript.from_json(value)
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's transcript is not usable: {error}") from error


def _logprobs(said: object) -> list[TokenLogprob] | None:
    if said is None:
        return None
    if not isinstance(said, list):
        raise AnswerRejected("the worker's logprobs are no list")
    try:
        return [parse_message(TokenLogprob, token) for token in said]
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's logprobs are not usable: {error}") from error


def _kept(logprobs: list[TokenLogprob] | None) -> list[dict[str, Any]] | None:
    return None if logprobs is None else [token.to_json() for token in logprobs]


def _only_score(scores: object) -> Score:
    if not isinstance(scores, list) or len(scores) != 1:
        raise AnswerRejected("the worker must give exactly one score for one item")
    try:
        return parse_message(Score, scores[0])
    except ProtocolError as error:
        raise AnswerRejected(f"the worker's score is not usable: {error}") from error
