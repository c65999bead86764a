"""What surrounds `Jobs` in its tests: what outlives a process, and the process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.events import Settled
from aos_operator.jobs import Jobs, Limits
from aos_operator.memory import MemoryQueue, MemoryStore
from aos_operator.stub import StubWorker
from aos_operator.subjects import Subject
from aos_operator.tasks import Product, Request, Task, TaskKey, TaskState
from aos_operator.workshop import Workshop
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel
from aos_protocol.typed_data import Domain
from unit.operator.world import MODEL, OPERATOR, World


class Post:
    """A dispatcher's end: `say` decides the replies, `accepted` keeps what was accepted, by task."""

    def __init__(self) -> None:
        self.sent: list[Task] = []
        self.accepted: dict[TaskKey, list[Product]] = {}
        self.say: Callable[[Task], Settled] = lambda _: Settled("1", 200, "success")
        self.progress = asyncio.Event()

    async def domain(self) -> Domain:
        return World().domain

    async def result(self, task: Task) -> Settled:
        self.sent.append(task)
        reply = self.say(task)
        if reply.code == 200:
            assert task.outcome is not None
            self.accepted.setdefault(task.key, []).append(task.outcome)
        self.progress.set()
        return reply


class Worker:
    """A worker around another, a stub unless one is given, that counts, waits for `go`, and raises what `trouble` holds first."""

    def __init__(self, inner: StubWorker | None = None) -> None:
        self.inner = inner or StubWorker({MODEL.name: MODEL.sha256})
        self.runs = 0
        self.scorings = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = asyncio.Event()
        self.go.set()
        self.started = asyncio.Event()
        self.trouble: list[Exception] = []

    async def models(self) -> Sequence[ServedModel]:
        return await self.inner.models()

    async def attestation(self, nonce: str) -> dict[str, Any]:
        return await self.inner.attestation(nonce)

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.started.set()
        try:
            await self.go.wait()
            if self.trouble:
                raise self.trouble.pop(0)
            return await self.inner.generate(job, seed, prover, execution, hear)
        finally:
            self.at_once -= 1

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        self.scorings += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.started.set()
        try:
            await self.go.wait()
            if self.trouble:
                raise self.trouble.pop(0)
            return await self.inner.score(job, subject)
        finally:
            self.at_once -= 1


@dataclass
class Parts:
    """What outlives a process (store, queue, dispatcher), and the worker."""

    store: MemoryStore = field(default_factory=MemoryStore)
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    post: Post = field(default_factory=Post)
    worker: Worker = field(default_factory=Worker)
    limits: Limits = field(default_factory=lambda: Limits(open_tasks=10, running=2, page=2))

    def jobs(self) -> Jobs:
        workshop = Workshop(self.worker, OPERATOR.address, self.post.domain)
        return Jobs(self.store, self.queue, workshop, self.post, self.limits)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Jobs]:
        """One process's life; it ends abruptly."""
        jobs = self.jobs()
        running = asyncio.create_task(jobs.run())
        try:
            yield jobs
        finally:
            running.cancel()
            await asyncio.wait([running])

    def state(self, request: Request) -> TaskState:
        return self.store.tasks[TaskKey.of(request)].state
