"""Running a direct job: its client's prompt goes to the backend, the answer to the client alone, and to the dispatcher what it is signed by."""

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

import structlog

from aos_operator.answers import accept_answer
from aos_operator.backends.protocol import Backend
from aos_operator.backoff import until_available
from aos_operator.direct import DirectDesk, Visit
from aos_operator.errors import AnswerRejected, WorkerRefused, WorkerUnavailable
from aos_operator.tasks import Outcome
from aos_protocol.direct import Commitments, Ending, hidden_transcript
from aos_protocol.fields import EvidenceLevel, parse_message
from aos_protocol.messages import Dispatch
from aos_protocol.record import Record
from aos_protocol.transcript import Transcript

T = TypeVar("T")

LEFT: Final = "the client left before its answer was complete"
NO_ANSWER: Final = "the operator's backend gave no answer; its client was told why"
"""Reasons that the dispatcher is told: a backend's own words may quote the prompt."""

_log = structlog.get_logger(__name__)


async def run_direct(
    worker: Backend, desk: DirectDesk, dispatch: Dispatch, operator: str, offered: EvidenceLevel = "text"
) -> Outcome:
    """Run a direct job, if its client has come; return what the dispatcher is told. It is called while the job is attended to."""
    visit = desk.visit(dispatch)
    if isinstance(visit, str):
        _log.info("a direct job has no answer", reason=visit)
        return Outcome.failed(visit)
    try:
        return await _unless_left(visit, _answered(worker, visit, dispatch, operator, offered))
    except (WorkerUnavailable, WorkerRefused, AnswerRejected) as error:
        visit.fail(str(error))
        _log.warning("a direct job has no answer", reason=NO_ANSWER)
        return Outcome.failed(NO_ANSWER)
    except _Left:
        _log.info("a direct job has no answer", reason=LEFT)
        return Outcome.failed(LEFT)


class _Left(Exception):
    """The client has gone."""


async def _unless_left(visit: Visit, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for a client, and stop it when that leaves. Raises `_Left`, or whatever the work does."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(visit.left.wait())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _Left
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _answered(
    worker: Backend, visit: Visit, dispatch: Dispatch, operator: str, offered: EvidenceLevel
) -> Outcome:
    """Generate, tell the client all of it, and return what the operator signs."""
    opened = dispatch.model_copy(update={"job": visit.job})

    async def generate() -> dict[str, Any]:
        try:
            return await worker.generate(opened.job, opened.seed, operator, hear=visit.hear)
        except WorkerUnavailable as error:
            if visit.told:  # a second run may say something else, and the client has read the first
                raise WorkerRefused(f"the backend broke off: {error}") from error
            raise

    answer = await until_available(generate, "running a direct job on the backend")
    outcome = await asyncio.to_thread(accept_answer, answer, opened, operator, None, offered)
    rest = outcome.result.removeprefix(visit.told)
    if visit.told + rest != outcome.result:
        raise AnswerRejected("what the backend told piece by piece is not the beginning of its answer")
    return _closed(visit, outcome, rest)


def _closed(visit: Visit, outcome: Outcome, rest: str) -> Outcome:
    """Tell the client the rest of the answer, with all that was shown of it; return the commitments and the record without what would give it away."""
    salt = secrets.token_hex(32)
    record, transcript = _record(outcome, salt)
    visit.tell(rest)
    shown = None if outcome.record is None else parse_message(Record, outcome.record)
    visit.end(Ending(salt=salt, transcript=transcript, record=shown))
    result = Commitments.to(visit.commitment, salt, outcome.result).text()
    return replace(
        outcome,
        result=result,
        transcript=None,
        record=record.to_json(),
        commitment=record.digest(),
        logprobs=None,
    )


def _record(outcome: Outcome, salt: str) -> tuple[Record, dict[str, Any] | None]:
    """Return the record that everybody sees, and the transcript for the client, if the backend gave one."""
    if outcome.transcript is None:
        return parse_message(Record, outcome.record).model_copy(update={"output_tokens": None}), None
    transcript = Transcript.from_json(outcome.transcript)
    record = Record(
        level="fingerprints",
        backend="worker",
        engine=transcript.engine,
        finish_reason=transcript.finish_reason,
        prompt_tokens=len(transcript.prompt_tokens),
        completion_tokens=len(transcript.output_tokens),
        transcript=hidden_transcript(salt, outcome.commitment),
    )
    return record, outcome.transcript
