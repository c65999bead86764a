"""A task: one request of the dispatcher, from being taken to the acceptance of what came of it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self, TypeAlias

from aos_operator.errors import Refused
from aos_protocol.clock import VectorClock
from aos_protocol.messages import NO_DIGEST, Dispatch, ScoreCall

Request: TypeAlias = Dispatch | ScoreCall
"""What a dispatcher asks of an operator: to run a job, or to score what somebody says came of it."""


class Method(StrEnum):
    """The methods that ask for work, as they travel."""

    DISPATCH = "dispatch_job"
    SCORE = "score_job"

    @classmethod
    def of(cls, request: Request) -> Self:
        """Name the method that this request came by."""
        return cls.SCORE if isinstance(request, ScoreCall) else cls.DISPATCH


class TaskKey(NamedTuple):
    """What makes a task one and the same: a job in one round (tag and challenge), and what is to be done with it."""

    job_id: str
    tag: str
    challenge: int = 0
    method: Method = Method.DISPATCH

    @classmethod
    def of(cls, request: Request) -> Self:
        """Name the task that this request asks for."""
        challenge = request.challenge if isinstance(request, ScoreCall) else 0
        return cls(request.job_id, request.tag, challenge, Method.of(request))


class TaskState(StrEnum):
    """Where a task stands; only an open one still owes the dispatcher something."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Outcome:
    """What came of a dispatch, unsigned: an answer with its transcript, or with a record in its place, or a reason for having none.

    `commitment` is the transcript's, or the record's digest, 64 hex digits, computed once; zeros of neither. The answer to a `tee` job has its
    `enclave` statement (`aos_protocol.attestation.statement.EnclaveStatement`), the same at every sending. `logprobs` are those of
    `aos_protocol.messages.TokenLogprob`, as JSON.
    """

    result: str
    reason: str
    transcript: dict[str, Any] | None
    commitment: str = NO_DIGEST
    enclave: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    logprobs: list[dict[str, Any]] | None = None

    @property
    def attestation(self) -> str | None:
        """What vouches for the enclave that answered, as it says itself (`simulated`: nothing does); None without one."""
        return None if self.enclave is None else str(self.enclave["attestation"]["kind"])

    @property
    def images(self) -> list[str]:
        """The digests of the images that the answer names, each once."""
        return list(dict.fromkeys(image["sha256"] for image in (self.record or {}).get("images") or []))

    @classmethod
    def failed(cls, reason: str) -> Self:
        """State why there is no answer, cut and cleaned to what a result may carry."""
        return cls("", sayable(reason) or "no answer, and no reason was given", None)

    def withdrawn(self, reason: str) -> Self:
        """Return what to say when this answer cannot be sent."""
        return self.failed(reason)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored; what it holds is not copied."""
        return dict(vars(self))


@dataclass(frozen=True)
class Scored:
    """What came of a call for a score, unsigned: the score (`Score.to_json`), or a reason for having none.

    `subject` is the digest of what was to be scored, 64 hex digits, and `subject_operator` whose answer that is (None: a claim).
    """

    subject: str
    subject_operator: str | None
    score: dict[str, Any] | None
    reason: str = ""

    def withdrawn(self, reason: str) -> Self:
        """Return what to say when there is no score after all, cut and cleaned to what a message may carry."""
        said = sayable(reason) or "no score, and no reason was given"
        return replace(self, score=None, reason=said)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored; what it holds is not copied."""
        return dict(vars(self))


Product: TypeAlias = Outcome | Scored


@dataclass(frozen=True)
class Task:
    """A request that was taken, its state, and what came of it as soon as anything did."""

    request: Request
    state: TaskState = TaskState.OPEN
    outcome: Product | None = None

    @property
    def key(self) -> TaskKey:
        """What names this task."""
        return TaskKey.of(self.request)

    @property
    def open(self) -> bool:
        """True while its result or score is still owed."""
        return self.state is TaskState.OPEN

    def retaken(self, request: Request) -> Self:
        """Return the task after another request for it.

        A result must dominate the clock of every dispatch that the operator acknowledged, and a score that of every call, so
        clocks are merged. What the dispatcher says of role and position counts as it said it last. A cancelled task opens
        again; an accepted or refused one stays as it is. Raises `Refused` when the job or the subject is not the one that was taken.
        """
        if _content(self.request) != _content(request):
            raise Refused(400, f"job {request.job_id} was dispatched before with another content")
        if self.state in {TaskState.ACCEPTED, TaskState.REFUSED}:
            return self
        known = VectorClock.from_map(self.request.clock).merge(VectorClock.from_map(request.clock))
        merged = request.model_copy(update={"clock": known.to_map()})
        return replace(self, request=merged, state=TaskState.OPEN)


def read_request(method: str, value: object) -> Request:
    """Read what a request's `to_json` gave. Raises `ValueError` (pydantic's `ValidationError` is one) for anything else."""
    if Method(method) is Method.DISPATCH:
        return Dispatch.model_validate(value)
    return ScoreCall.model_validate(value)


def request_text(request: Request) -> str:
    """Return the JSON text of a request, as store and queue keep it."""
    return request.model_dump_json(by_alias=True, exclude_none=True)


def read_outcome(method: str, value: dict[str, Any]) -> Product:
    """Read a stored outcome of a task that was asked for by this method."""
    return Scored(**value) if Method(method) is Method.SCORE else Outcome(**value)


def _content(request: Request) -> tuple[object, ...]:
    """What may not change when the same thing is asked for again."""
    job = (request.job, request.user, request.seed, request.model)
    return (*job, request.job_seed, request.subject) if isinstance(request, ScoreCall) else job


def sayable(reason: str) -> str:
    """Return a reason cut and cleaned to what a message may carry."""
    return reason.replace("\0", "").encode(errors="replace").decode()[:4096]
