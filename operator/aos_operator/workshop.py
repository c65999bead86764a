"""Where tasks are worked on: the worker is asked, and what it answers is held against the task before anything is signed."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, TypeVar

import structlog

from aos_operator.answers import accept_answer, accept_score
from aos_operator.backends.protocol import Backend, Execution
from aos_operator.backoff import until_available
from aos_operator.direct import DirectDesk
from aos_operator.direct_work import run_direct
from aos_operator.errors import AnswerRejected, Unavailable, WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.streams import Streams, Telling
from aos_operator.studio import Studio
from aos_operator.subjects import subject_of
from aos_operator.tasks import Outcome, Product, Request, Scored
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import EvidenceLevel
from aos_protocol.messages import NO_DIGEST, Dispatch, ScoreCall
from aos_protocol.typed_data import Domain

T = TypeVar("T")

_UNREADABLE: Final = Scored(NO_DIGEST, None, None)
_SHORT_TOKENS: Final = 512
_SHORT_FRAME: Final = 8192
"""A transcript with so many tokens, and a subject with so many characters, is checked and hashed within a millisecond."""

_log = structlog.get_logger(__name__)


class Workshop:
    """Works on requests with one worker; `operator` is the address whose fingerprints its answers carry.

    `domain` waits, if it must, for the EIP-712 domain in which an enclave has to sign: the dispatcher's. Images are made in the `studio`,
    and what comes of streamed jobs goes to `streams`. `offered` is what answers of a model must show, by its name.
    """

    def __init__(
        self,
        worker: Backend,
        operator: str,
        domain: Callable[[], Awaitable[Domain]],
        studio: Studio | None = None,
        direct: DirectDesk | None = None,
        *,
        streams: Streams | None = None,
        offered: Callable[[str], EvidenceLevel] = lambda _: "text",
    ) -> None:
        self._worker = worker
        self.operator = operator
        self._domain = domain
        self._studio = studio
        self._direct = direct or DirectDesk(operator, None)
        self._streams = streams
        self._offered = offered

    @asynccontextmanager
    async def attending(self, request: Request) -> AsyncIterator[None]:
        """Wait until a request can be worked on, which takes no worker yet: a direct job's client has to come first, or not to come in time."""
        if isinstance(request, ScoreCall) or request.job.direct is None:
            yield
            return
        async with self._direct.attending(request):
            yield

    def retell(self, request: Request) -> None:
        """Have what comes of a streamed job told from the start once more, for it was asked for again."""
        if self._streams is not None:
            self._streams.retell(request)

    async def work(self, request: Request) -> Product:
        """Run or score what is asked for. However long the worker is away, it is asked again; what it cannot do has a reason.

        A job for an enclave that is away, or breaks off, is given up at once: its successor has other keys, and the dispatcher other
        enclaves to ask. One that is merely full is asked again.
        """
        if isinstance(request, ScoreCall):
            return await self._score(request)
        if request.job.direct is not None:
            offered = self._offered(request.model.name)
            return await run_direct(self._worker, self._direct, request, self.operator, offered)
        if request.job.image is None:
            return await self._generate(request)
        if self._studio is None:
            return Outcome.failed("this operator makes no images")
        return await self._studio.paint(request, request.job.image)

    async def _generate(self, dispatch: Dispatch) -> Outcome:
        execution, again = None, Unavailable
        if dispatch.job.tag == "tee":
            execution, again = Execution(dispatch.job_id, await self._domain()), WorkerBusy
        with self._streams.telling(dispatch) if self._streams else nullcontext() as telling:
            try:
                answer = await until_available(
                    lambda: self._attempt(dispatch, execution, telling),
                    "running the job on the worker",
                    again,
                )
                outcome = await _aside(
                    lambda: accept_answer(
                        answer, dispatch, self.operator, execution, self._offered(dispatch.model.name)
                    ),
                    short=_tokens(answer) <= _SHORT_TOKENS,
                )
                if telling is not None:
                    telling.check(outcome)
            except (WorkerUnavailable, WorkerRefused, AnswerRejected) as error:
                _log.warning("the job has no answer", reason=str(error), node_type=dispatch.job.tag)
                return Outcome.failed(str(error))
        return outcome

    async def _attempt(
        self, dispatch: Dispatch, execution: Execution | None, telling: Telling | None
    ) -> dict[str, Any]:
        """Ask the worker once; what it streams is told from the beginning."""
        if telling is not None:
            telling.begin()
        hear = None if telling is None else telling.hear
        return await self._worker.generate(dispatch.job, dispatch.seed, self.operator, execution, hear)

    async def _score(self, call: ScoreCall) -> Scored:
        short = call.subject is not None and len(call.subject) <= _SHORT_FRAME
        try:
            subject = await _aside(lambda: subject_of(call), short=short)
        except ProtocolError as error:
            # It was checked when it was taken: somebody else has written into the queue or the store since.
            _log.error("the stored subject of a call for a score cannot be read", reason=str(error))
            return _UNREADABLE.withdrawn(f"the subject cannot be read: {error}")
        try:
            answer = await until_available(
                lambda: self._worker.score(call.job, subject), "having the worker score an answer"
            )
            return await _aside(lambda: accept_score(answer, call, subject), short=short)
        except (WorkerRefused, AnswerRejected) as error:
            _log.warning("there is no score", reason=str(error))
            return Scored(subject.digest, subject.operator, None).withdrawn(str(error))


async def _aside(work: Callable[[], T], *, short: bool) -> T:
    """Do what takes no time at once, and anything else in a thread: waking one costs as much as a short transcript."""
    return work() if short else await asyncio.to_thread(work)


def _tokens(answer: dict[str, Any]) -> float:
    """How many tokens a worker's answer shows; of one that shows none, nobody knows."""
    match answer:
        case {"transcript": {"prompt_tokens": list(prompt), "output_tokens": list(output)}}:
            return len(prompt) + len(output)
        case _:
            return math.inf
