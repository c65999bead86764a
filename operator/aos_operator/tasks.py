"""A task: one dispatch of a job under a tag, from being taken to its result's acceptance."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

from aos_operator.errors import Refused
from aos_protocol.clock import VectorClock
from aos_protocol.messages import NO_DIGEST, Dispatch


class TaskKey(NamedTuple):
    """What makes a task one and the same: a job under one tag."""

    job_id: str
    tag: str

    @classmethod
    def of(cls, dispatch: Dispatch) -> Self:
        """Name the task that this dispatch asks for."""
        return cls(dispatch.job_id, dispatch.tag)


class TaskState(StrEnum):
    """Where a task stands; only an open one still owes the dispatcher something."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Outcome:
    """What came of a task, unsigned: an answer with its transcript, or a reason for having none.

    `commitment` is the transcript's, 64 hex digits, computed once; zeros without a transcript.
    """

    result: str
    reason: str
    transcript: dict[str, Any] | None
    commitment: str = NO_DIGEST

    @classmethod
    def failed(cls, reason: str) -> Self:
        """State why there is no answer, cut and cleaned to what a result may carry."""
        storable = reason.replace("\0", "").encode(errors="replace").decode()
        return cls("", storable[:4096] or "no answer, and no reason was given", None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """A dispatch that was taken, its state, and its outcome as soon as there is one."""

    dispatch: Dispatch
    state: TaskState = TaskState.OPEN
    outcome: Outcome | None = None

    @property
    def key(self) -> TaskKey:
        """The job and tag that name this task."""
        return TaskKey.of(self.dispatch)

    @property
    def open(self) -> bool:
        """True while its result is still owed."""
        return self.state is TaskState.OPEN

    def retaken(self, dispatch: Dispatch) -> Self:
        """Return the task after another dispatch of it.

        A result must dominate the clock of every dispatch that the operator acknowledged, so clocks are merged. What the
        dispatcher says of role and position counts as it said it last. A cancelled task opens again; an accepted
        or refused one stays as it is. Raises `Refused` when the job itself is not the one that was taken.
        """
        mine = self.dispatch
        if (mine.job, mine.user, mine.seed, mine.model) != (
            dispatch.job,
            dispatch.user,
            dispatch.seed,
            dispatch.model,
        ):
            raise Refused(400, f"job {dispatch.job_id} was dispatched before with another content")
        if self.state in {TaskState.ACCEPTED, TaskState.REFUSED}:
            return self
        known = VectorClock.from_map(mine.clock).merge(VectorClock.from_map(dispatch.clock))
        merged = dispatch.model_copy(update={"clock": known.to_map()})
        return replace(self, dispatch=merged, state=TaskState.OPEN)
