"""What a worker answers, held against the job before anything is signed."""

from typing import Any

from aos_operator.errors import AnswerRejected
from aos_operator.tasks import Outcome
from aos_protocol.canonical import digest
from aos_protocol.errors import ProtocolError
from aos_protocol.messages import Dispatch
from aos_protocol.transcript import Transcript


def accept_answer(answer: dict[str, Any], dispatch: Dispatch) -> Outcome:
    """Turn a worker's answer into an outcome.

    1. It has a text that can be sent.  2. Its transcript parses.  3. The transcript was made with the dispatched
    model, and 4. with the job's effective parameters.  5. Its commitment is the transcript's, computed again.
    Raises `AnswerRejected` with the first of these that fails.
    """
    text = _text(answer.get("text"))
    transcript = _transcript(answer.get("transcript"))
    if transcript.model != dispatch.model.sha256:
        raise AnswerRejected(f"the worker ran model {transcript.model}, not {dispatch.model.sha256}")
    if digest(transcript.params.model_dump(mode="json")) != dispatch.job.params.digest():
        raise AnswerRejected("the worker ran with other parameters than the job's")
    commitment = transcript.commitment()
    if answer.get("commitment") != commitment:
        raise AnswerRejected("the worker's commitment is not that of its transcript")
    return Outcome(text, "", transcript.to_json(), commitment)


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
