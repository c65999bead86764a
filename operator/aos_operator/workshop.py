"""Where tasks are worked on: the worker is asked, and what it answers is held against the task before anything is signed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from aos_operator.answers import accept_answer, accept_score
from aos_operator.backoff import until_available
from aos_operator.errors import AnswerRejected, Unavailable, WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import subject_of
from aos_operator.tasks import Outcome, Product, Request, Scored
from aos_operator.worker import Execution, Worker
from aos_protocol.errors import ProtocolError
from aos_protocol.messages import NO_DIGEST, Dispatch, ScoreCall
from aos_protocol.typed_data import Domain

_UNREADABLE: Final = Scored(NO_DIGEST, None, None)

_log = structlog.get_logger(__name__)


class Workshop:
    """Works on requests with one worker; `operator` is the address whose fingerprints its answers carry.

    `domain` waits, if it must, for the EIP-712 domain in which an enclave has to sign: the dispatcher's.
    """

    def __init__(self, worker: Worker, operator: str, domain: Callable[[], Awaitable[Domain]]) -> None:
        self._worker = worker
        self._operator = operator
        self._domain = domain

    async def work(self, request: Request) -> Product:
        """Run or score what is asked for. However long the worker is away, it is asked again; what it cannot do has a reason.

        A job for an enclave that is away, or breaks off, is given up at once: its successor has other keys, and the dispatcher other
        enclaves to ask. One that is merely full is asked again.
        """
        if isinstance(request, ScoreCall):
            return await self._score(request)
        return await self._generate(request)

    async def _generate(self, dispatch: Dispatch) -> Outcome:
        execution, again = None, Unavailable
        if dispatch.job.tag == "tee":
            execution, again = Execution(dispatch.job_id, await self._domain()), WorkerBusy
        try:
            answer = await until_available(
                lambda: self._worker.generate(dispatch.job, dispatch.seed, self._operator, execution),
                "running the job on the worker",
                again,
            )
            # In a thread, like what else takes long for a long transcript: hashing it.
            return await asyncio.to_thread(accept_answer, answer, dispatch, self._operator, execution)
        except (WorkerUnavailable, WorkerRefused, AnswerRejected) as error:
            _log.warning("the job has no answer", reason=str(error), node_type=dispatch.job.tag)
            return Outcome.failed(str(error))

    async def _score(self, call: ScoreCall) -> Scored:
        try:
            subject = await asyncio.to_thread(subject_of, call)
        except ProtocolError as error:
            # It was checked when it was taken: somebody else has written into the queue or the store since.
            _log.error("the stored subject of a call for a score cannot be read", reason=str(error))
            return _UNREADABLE.withdrawn(f"the subject cannot be read: {error}")
        try:
            answer = await until_available(
                lambda: self._worker.score(call.job, subject), "having the worker score an answer"
            )
            return await asyncio.to_thread(accept_score, answer, call, subject)
        except (WorkerRefused, AnswerRejected) as error:
            _log.warning("there is no score", reason=str(error))
            return Scored(subject.digest, subject.operator, None).withdrawn(str(error))
