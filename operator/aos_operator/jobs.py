"""Carries every task from its request to its accepted result or score, whatever stops or restarts in between.

1. `take`: the request goes into the store and the queue; only then is it acknowledged.
2. The queue gives it to `_finish`, at once or after a restart.
3. The worker runs or scores it, unless the store already has its outcome. The outcome is stored before it is sent.
4. The result or score is sent until the dispatcher accepts it or refuses it for good.
5. The store closes the task; then the queue forgets its entry.

A crash between any two steps repeats the step after it, and every step may be repeated.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from aos_operator.backoff import Backoff, until_available
from aos_operator.errors import QueueUnavailable, Refused, Unavailable
from aos_operator.events import Settled
from aos_operator.queue import Entry, Queue
from aos_operator.store import Store
from aos_operator.tasks import Method, Outcome, Product, Request, Task, TaskKey, TaskState, sayable
from aos_operator.workshop import Workshop
from aos_protocol.messages import Dispatch
from aos_service.tracing import Span, span, where

_BLOCK_S = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Events:
    """What the log calls the steps of a task, by what is asked for."""

    taken: str
    accepted: str
    refused: str
    postponed: str
    repeated: str


_EVENTS: Final = {
    Method.DISPATCH: _Events(
        taken="took a job",
        accepted="the dispatcher accepted the result",
        refused="the dispatcher refused the result for good",
        postponed="the dispatcher cannot take the result now",
        repeated="the result will be sent again",
    ),
    Method.SCORE: _Events(
        taken="took an answer to score",
        accepted="the dispatcher accepted the score",
        refused="the dispatcher refused the score for good",
        postponed="the dispatcher cannot take the score now",
        repeated="the score will be sent again",
    ),
}


class Post(Protocol):
    """Sends results and scores. `result` raises `Unavailable` when it must be sent again."""

    async def result(self, task: Task) -> Settled:
        """Send what came of a task and return the dispatcher's reply."""
        ...


@dataclass(frozen=True)
class Limits:
    """How many tasks may be open, how many run on the worker at once, how many are read from the store at a time."""

    open_tasks: int
    running: int
    page: int


@dataclass
class _Work:
    """An open task in this process; `entry` and `job` follow once the queue has given it.

    `task` is how the store has it, if this process has asked: an entry of an earlier process brings its request only.
    """

    request: Request
    task: Task | None = None
    entry: str | None = None
    job: asyncio.Task[None] | None = None


class Jobs:
    """The open tasks of this operator."""

    def __init__(self, store: Store, queue: Queue, workshop: Workshop, post: Post, limits: Limits) -> None:
        self._store = store
        self._queue = queue
        self._workshop = workshop
        self._post = post
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.running)
        self._open: dict[TaskKey, _Work] = {}
        self._taking = 0

    @property
    def full(self) -> bool:
        """True when no further task is taken."""
        return len(self._open) + self._taking >= self._limits.open_tasks

    @property
    def open_count(self) -> int:
        """How many tasks are open in this process."""
        return len(self._open)

    async def take(self, request: Request) -> None:
        """Put a checked request into store and queue; taken before, it only brings its clock.

        Raises `Refused` (429 when there are too many tasks), `StoreUnavailable` or `QueueUnavailable`.
        """
        key = TaskKey.of(request)
        if key not in self._open and self.full:
            raise Refused(429, f"{self._limits.open_tasks} jobs are queued here already")
        self._taking += 1
        try:
            await self._take(key, request)
        finally:
            self._taking -= 1

    async def _take(self, key: TaskKey, request: Request) -> None:
        task = await self._store.take(request)
        known = self._open.get(key)
        if known is not None:
            known.request = task.request
            self._workshop.retell(request)
            return
        if not task.open:
            return
        self._open[key] = _Work(task.request, task)
        try:
            await self._queue.add(task.request)
        except QueueUnavailable:
            del self._open[key]
            raise
        role = request.role if isinstance(request, Dispatch) else "verifier"
        _log.info(_EVENTS[key.method].taken, **_named(key), role=role, model=request.model.name)

    async def cancel(self, keys: Iterable[TaskKey]) -> None:
        """Stop working on tasks that nobody waits for. Raises `StoreUnavailable` or `QueueUnavailable`."""
        for key in keys:
            await self._cancel(key)

    async def _cancel(self, key: TaskKey) -> None:
        work = self._open.pop(key, None)
        if work is not None and work.job is not None:
            work.job.cancel()
        await self._store.close(key, TaskState.CANCELLED, "cancelled by the dispatcher")
        if work is not None and work.entry is not None:
            await self._queue.done(work.entry)
        if work is not None:
            _log.info("dropped what the dispatcher cancelled", **_named(key), method=key.method)

    async def run(self) -> None:
        """Work on whatever the queue gives, for ever; what earlier processes left undone comes first."""
        async with asyncio.TaskGroup() as group:
            backoff = Backoff()
            while True:
                try:
                    await self._recover(group)
                    backoff.reset()
                    while True:
                        await self._begin(group, await self._queue.read(_BLOCK_S))
                except Unavailable as error:
                    _log.error("waiting to read the queue again", problem=str(error))
                await backoff.wait()

    async def idle(self) -> None:
        """Return when no task is open."""
        while self._open:
            jobs = [work.job for work in self._open.values() if work.job is not None]
            await (asyncio.wait(jobs) if jobs else asyncio.sleep(0.01))

    async def _recover(self, group: asyncio.TaskGroup) -> None:
        """Bring queue and store together: each of them may have lost what the other still has."""
        await self._queue.open()
        await self._begin(group, await self._queue.take_over())
        while entries := await self._queue.read(0):
            await self._begin(group, entries)
        last: TaskKey | None = None
        while page := await self._store.open_tasks(last, self._limits.page):
            for task in page:
                work = self._open.get(task.key)
                if work is None or work.job is None:
                    await self._queue.add(task.request)
                    _log.info("put a stored task back into the queue", **_named(task.key))
            last = page[-1].key

    async def _begin(self, group: asyncio.TaskGroup, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.request is None:
                _log.error("dropped a queue entry that cannot be read", entry=entry.id)
                await self._queue.done(entry.id)
                continue
            key = TaskKey.of(entry.request)
            work = self._open.setdefault(key, _Work(entry.request))
            if work.job is None:
                work.entry = entry.id
                work.job = group.create_task(self._finish(key, work, entry.id))
            elif work.entry != entry.id:  # the same task once more, from bringing queue and store together
                await self._queue.done(entry.id)

    async def _finish(self, key: TaskKey, work: _Work, entry_id: str) -> None:
        structlog.contextvars.bind_contextvars(**_named(key))
        with _traced(key, self._workshop.operator):
            await self._carry(key, work, entry_id)

    async def _carry(self, key: TaskKey, work: _Work, entry_id: str) -> None:
        task = work.task or await self._find(work)
        if task.open:
            outcome = task.outcome or await self._produce(work)
            state, verdict = await self._deliver(work, outcome)
            await until_available(
                lambda: self._store.close(key, state, verdict), "closing the task in the store"
            )
        if self._open.get(key) is work:
            del self._open[key]
        await until_available(lambda: self._queue.done(entry_id), "removing the task from the queue")

    async def _find(self, work: _Work) -> Task:
        """The task as the store has it; a store that lost it gets it back from the queue."""

        async def find() -> Task:
            return await self._store.load(TaskKey.of(work.request)) or await self._store.take(work.request)

        task = await until_available(find, "reading the task from the store")
        work.request = task.request
        return task

    async def _produce(self, work: _Work) -> Product:
        async with self._workshop.attending(work.request), self._slots:
            outcome = await self._workshop.work(work.request)
        return await until_available(lambda: self._store.finish(work.request, outcome), "storing the outcome")

    async def _deliver(self, work: _Work, outcome: Product) -> tuple[TaskState, str]:
        backoff, says = Backoff(), _EVENTS[Method.of(work.request)]
        while True:
            try:
                with span("send", kind="client"):
                    reply = await self._post.result(Task(work.request, outcome=outcome))
            except Unavailable as error:
                _log.warning(says.repeated, problem=str(error))
            else:
                if reply.code == 200:
                    _log.info(says.accepted, answered=outcome.reason == "", **_attested(outcome))
                    return TaskState.ACCEPTED, sayable(reply.message)
                if reply.code == 400:
                    _log.error(says.refused, reason=reply.message)
                    return TaskState.REFUSED, sayable(reply.message)
                _log.warning(says.postponed, code=reply.code, reason=reply.message)
            await backoff.wait()


def _traced(key: TaskKey, operator: str) -> AbstractContextManager[Span]:
    """Trace a task below the dispatcher's call for it, at the place that the dispatcher puts what comes of it below."""
    call = key.job_id, key.tag, key.challenge, key.method, operator
    return span("task", at=where(*call, "task"), parent=where(*call), kind="consumer", operator=operator)


def _attested(outcome: Product) -> dict[str, str]:
    """How the log names the enclave that answered: a simulated one is called so wherever it shows."""
    kind = outcome.attestation if isinstance(outcome, Outcome) else None
    return {} if kind is None else {"attestation": kind}


def _named(key: TaskKey) -> dict[str, Any]:
    """How the log names a task: a challenge's number only where there is one."""
    named = {"job_id": key.job_id, "tag": key.tag}
    return {**named, "challenge": key.challenge} if key.challenge else named
