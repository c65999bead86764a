"""Several backends as one: each job goes to one that serves its model, and the next is tried when that cannot take it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import structlog

from aos_operator.backends.protocol import Backend, Execution, Hear, Painter, Piece, Queued
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.fields import EVIDENCE_LEVELS
from aos_protocol.job import ImageSpec, JobSpec
from aos_protocol.messages import ServedModel

_TRIPS_AFTER: Final = 3
_FIRST_REST_S: Final = 5.0
_LONGEST_REST_S: Final = 60.0
_MOST_INSTANCES: Final = 64

_log = structlog.get_logger(__name__)


@runtime_checkable
class _Closes(Protocol):
    async def close(self) -> None: ...


@dataclass
class _Member:
    """A backend, what it served when it was last asked (or why it did not say), and how it has done since.

    After three failures in a row it rests until `resting_until`, twice as long after each further one.
    """

    backend: Backend
    served: dict[str, ServedModel] = field(default_factory=dict)
    away: str = ""
    running: int = 0
    failures: int = 0
    resting_until: float = 0.0
    turn: int = 0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= _TRIPS_AFTER:
            doubled = self.failures - _TRIPS_AFTER
            self.resting_until = now + min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** min(doubled, 10))

    def worked(self) -> None:
        self.failures, self.resting_until = 0, 0.0


class Router:
    """`Backend` and `Painter` of several backends, which may come and go by their keys; `clock` tells seconds.

    Of those that serve a model, the least busy one is asked, in turn where there are several; one that fails again and again rests for a
    while. A backend that is taken out finishes what it runs, and is closed then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._members: dict[Hashable, _Member] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._clock = clock
        self._turns = 0
        self._conflicts: set[str] = set()

    def put(self, key: Hashable, backend: Backend) -> None:
        """Use a backend from now on, in the place of one of the same key; what it serves is found out at the next `models`, or job."""
        self.remove(key)
        self._members[key] = _Member(backend)

    def remove(self, key: Hashable) -> None:
        """Use it no more; unknown keys are passed over."""
        member = self._members.pop(key, None)
        if member is not None and member.running == 0:
            self._part_with(member)

    def busy(self, key: Hashable) -> bool:
        """Whether a backend is at work on something."""
        member = self._members.get(key)
        return member is not None and member.running > 0

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`: what those serve that answer and do not rest. Raises `WorkerUnavailable` when there are some, and none answers."""
        members = list(self._members.values())
        await asyncio.gather(*map(self._look, members))
        if members and all(member.away for member in members):
            raise WorkerUnavailable("; ".join(member.away for member in members))
        return self._merged()

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`. Another backend is tried only while nothing of an answer was told."""
        told = False

        def listen(news: Piece | Queued) -> None:
            nonlocal told
            told = told or isinstance(news, Piece)
            if hear is not None:
                hear(news)

        async def run(backend: Backend) -> dict[str, Any]:
            return await backend.generate(job, seed, prover, execution, listen if hear is not None else None)

        return await self._first(job, await self._serving(job), run, lambda: told)

    async def paint(self, job: JobSpec, image: ImageSpec, source: bytes | None) -> dict[str, Any]:
        """See `Painter.paint`."""

        async def run(backend: Backend) -> dict[str, Any]:
            if not isinstance(backend, Painter):
                raise WorkerRefused(f"the backend of {job.model} makes no images")
            return await backend.paint(job, image, source)

        return await self._first(job, await self._serving(job), run, lambda: False)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`: those are asked that show transcripts, since only they score."""
        able = [
            member
            for member in await self._serving(job)
            if member.served[job.model].evidence == EVIDENCE_LEVELS[0]
        ]
        if not able:
            raise WorkerRefused(
                f"no backend here can score {job.model}: that takes an AOS worker (docs/worker.md)"
            )
        return await self._first(job, able, lambda backend: backend.score(job, subject), lambda: False)

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`: always refused, an enclave is an operator's only backend."""
        del nonce
        raise WorkerRefused("none of several backends is an enclave: node_type tee has one worker")

    async def close(self) -> None:
        """Close all backends, those also that still run something."""
        for member in self._members.values():
            self._part_with(member)
        self._members.clear()
        while self._leaving:
            await asyncio.gather(*self._leaving)

    async def _look(self, member: _Member) -> None:
        try:
            served = await member.backend.models()
        except WorkerUnavailable as error:
            member.served, member.away = {}, str(error)
        else:
            member.served, member.away = {model.name: model for model in served}, ""

    async def _serving(self, job: JobSpec) -> list[_Member]:
        """Those that serve the job's model for such jobs, whether they rest or not. Raises `WorkerUnavailable` or `WorkerRefused` for none."""
        if any(not member.served and not member.away for member in self._members.values()):
            await self.models()
        file = self._file(job.model)
        found = [
            member
            for member in self._members.values()
            if (model := member.served.get(job.model)) is not None
            and model.sha256 == file
            and job.kind in model.kinds
        ]
        if found:
            return found
        away = [member.away for member in self._members.values() if member.away]
        if away:
            raise WorkerUnavailable(f"no backend serves {job.model} now; not asked: {'; '.join(away)}")
        raise WorkerRefused(f"no backend here serves {job.model} for jobs of kind {job.kind}")

    async def _first(
        self,
        job: JobSpec,
        members: Sequence[_Member],
        run: Callable[[Backend], Awaitable[dict[str, Any]]],
        told: Callable[[], bool],
    ) -> dict[str, Any]:
        ready = sorted(filter(self._ready, members), key=lambda member: (member.running, member.turn))
        problem = WorkerUnavailable(f"every backend of {job.model} has failed again and again, and rests")
        for member in ready:
            try:
                return await self._on(member, run)
            except WorkerUnavailable as error:
                problem = error
                if told():
                    break
        raise problem

    async def _on(
        self, member: _Member, run: Callable[[Backend], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        self._turns += 1
        member.turn = self._turns
        member.running += 1
        try:
            answer = await run(member.backend)
        except WorkerBusy:
            raise
        except WorkerUnavailable:
            member.failed(self._clock())
            raise
        except WorkerRefused:
            member.worked()  # it is there, and has read the job
            raise
        else:
            member.worked()
            return answer
        finally:
            member.running -= 1
            if member.running == 0 and not any(member is other for other in self._members.values()):
                self._part_with(member)

    def _ready(self, member: _Member) -> bool:
        return member.resting_until <= self._clock()

    def _merged(self) -> list[ServedModel]:
        """One offer for each name: what all those that are ready can, of its file as the first backend has it, ready or not."""
        merged: dict[str, ServedModel] = {}
        conflicts: set[str] = set()
        for member in self._members.values():
            for name, model in member.served.items():
                if model.sha256 != self._file(name):
                    conflicts.add(name)
                elif self._ready(member):
                    merged[name] = _common(merged[name], model) if name in merged else model
        if conflicts - self._conflicts:
            _log.error(
                "backends serve different files under one name: the first one's is offered, rename the others",
                models=sorted(conflicts),
            )
        self._conflicts = conflicts
        return list(merged.values())

    def _file(self, name: str) -> str | None:
        """The digest that stands for a name: that of the first backend which serves it."""
        served = (member.served.get(name) for member in self._members.values())
        return next((model.sha256 for model in served if model is not None), None)

    def _part_with(self, member: _Member) -> None:
        if isinstance(member.backend, _Closes):
            task = asyncio.get_running_loop().create_task(member.backend.close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


def _common(one: ServedModel, other: ServedModel) -> ServedModel:
    weaker = max(one.evidence, other.evidence, key=EVIDENCE_LEVELS.index)
    return one.model_copy(
        update={
            "evidence": weaker,
            "kinds": sorted({*one.kinds, *other.kinds}),  # a job goes to one that does its kind
            "able": [ability for ability in one.able if ability in other.able],
            "instances": [*one.instances, *other.instances][:_MOST_INSTANCES],
        }
    )
