"""The engine: one thread that owns the model's context, and the asyncio side that hands it jobs and reads what becomes of them.

The thread asks the scheduler what to run, runs it, lets each job make of its logits what it wants, and posts the outcome to the
event loop. The event loop submits and removes jobs. Both touch the scheduler under one lock, which is never held while the
model computes, so a job that is removed stops at the next step.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple, Protocol

import structlog

from aos_inference.errors import EngineFailed, EngineStopping, PromptTooLong, RequestError, UnusableLogits
from aos_inference.jobs import Claim, Event, Generation, Job, Logits, Queued, Scoring, Step
from aos_inference.scheduler import Cut, Limits, Scheduler, Span
from aos_inference.writing import Vocabulary
from aos_protocol.score_document import Score
from aos_protocol.transcript import Params

_log = structlog.get_logger(__name__)


class Backend(Protocol):
    """What computes: `llama.Context`, or a stand-in for tests. Called from the engine's thread only."""

    trims: bool

    def keep(self, slot: int, length: int) -> None:
        """Let a slot forget all but its first `length` tokens; 0 is always possible, less than all if `trims`."""
        ...

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> Logits:
        """Feed rows of (slot, token, position, logits wanted?), of each slot in order.

        The logits after the rows that want them, shape (such rows, vocabulary), valid until the next call.
        """
        ...


class Load(NamedTuple):
    """Jobs that hold a slot, jobs that wait for one, and their tokens."""

    active: int
    queued: int
    queued_tokens: int


class Engine:
    """Generates and scores for several requests at once. `start` and all else but the thread belong to one event loop."""

    def __init__(self, backend: Backend, vocabulary: Vocabulary, context: int, limits: Limits) -> None:
        self.context = context
        self.slots = limits.slots
        self._backend = backend
        self._vocabulary = vocabulary
        self._scheduler = Scheduler(limits, trims=backend.trims)
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._numbers = count()
        self._steps = 0
        self._refusal: type[RequestError] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def alive(self) -> bool:
        """Whether the thread runs: started, not failed, not stopped."""
        return not self._running.done()

    @property
    def load(self) -> Load:
        """How busy the engine is."""
        with self._changed:
            return Load(self._scheduler.active, self._scheduler.queued, self._scheduler.queued_tokens)

    def start(self) -> None:
        """Start the thread, from within the event loop that will use the engine."""
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.wrap_future(self._executor.submit(self._run))
        self._running.add_done_callback(self._ended)

    async def wait(self) -> None:
        """Return when the thread has stopped; raise what it failed with."""
        await asyncio.shield(self._running)

    def stop(self) -> None:
        """Refuse new jobs, fail the present ones with EngineStopping, and let the thread end after its step."""
        self._refuse(EngineStopping)

    @property
    def steps(self) -> int:
        """Batches that have been computed since the start: while jobs are active and this stands still, the engine computes, or hangs."""
        return self._steps

    @contextmanager
    def generate(
        self,
        prompt: Sequence[int],
        params: Params,
        seed: bytes,
        prover: str,
        *,
        private: bool = False,
        logprobs: int | None = None,
    ) -> Iterator[AsyncIterator[Step | Queued]]:
        """Submit a prompt; give its steps, the last of which has `finish`, after its places in the queue, if it must wait.

        `seed` is the job's (32 bytes), `prover` whose fingerprints these will be. A `private` prompt neither uses nor leaves anything in a
        slot's memory, so that the time of other jobs tells nothing of it. With `logprobs`, steps say how likely their token and that many
        others were. Leaving the context cancels the job.
        Raises PromptTooLong, QueueFull, EngineStopping and EngineFailed at once; the steps raise UnusableLogits and the last two.
        """
        if len(prompt) >= self.context:
            raise PromptTooLong(
                f"The prompt has {len(prompt):,} tokens; the context of {self.context:,} leaves no room to answer. "
                "Shorten the prompt."
            )
        job = Generation(
            next(self._numbers),
            prompt,
            params,
            seed,
            prover,
            self._vocabulary,
            self.context,
            private,
            logprobs,
        )
        with self._submitted([job]):
            yield _steps(job)

    async def score(self, claims: Sequence[Claim]) -> list[Score]:
        """Score claims, each of at most `context` tokens, as one request; cancelling cancels what is left of them.

        Raises PromptTooLong, QueueFull, EngineStopping, EngineFailed and UnusableLogits.
        """
        for place, claim in enumerate(claims):
            if len(claim.prompt) + len(claim.output) > self.context:
                raise PromptTooLong(
                    f"items.{place}: the prompt ({len(claim.prompt):,} tokens) and the output ({len(claim.output):,}) exceed the "
                    f"context of {self.context:,}. Score it with a worker that has more."
                )
        jobs = [Scoring(next(self._numbers), claim) for claim in claims]
        with self._submitted(jobs):
            return [await _result(place, job) for place, job in enumerate(jobs)]

    @contextmanager
    def _submitted(self, jobs: Sequence[Job]) -> Iterator[None]:
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            self._scheduler.submit([job.task() for job in jobs])
            self._jobs.update((job.number, job) for job in jobs)
            moved = self._moved()
            self._changed.notify()
        _post(moved)
        try:
            yield
        finally:
            with self._changed:
                for job in jobs:
                    self._scheduler.remove(job.number)
                    self._jobs.pop(job.number, None)
                moved = self._moved()
                self._changed.notify()
            _post(moved)

    def _moved(self) -> list[tuple[Job, Event]]:
        """Jobs whose place in the queue has changed. The lock must be held."""
        moved: list[tuple[Job, Event]] = []
        for number, position in self._scheduler.positions().items():
            job = self._jobs[number]
            if job.position != position:
                job.position = position
                moved.append((job, Queued(position)))
        return moved

    def _refuse(self, reason: type[RequestError]) -> None:
        with self._changed:
            self._refusal = self._refusal or reason
            waiting = list(self._jobs.values())
            self._changed.notify()
        _post([(job, reason()) for job in waiting])

    def _ended(self, running: asyncio.Future[None]) -> None:
        self._executor.shutdown(wait=False)
        failure = running.exception()
        if failure is not None:
            _log.critical("the engine failed", exc_info=failure)
            self._refuse(EngineFailed)

    # From here on: the engine's thread.

    def _run(self) -> None:
        while batch := self._next_batch():
            cuts, spans = batch
            for slot, length in cuts:
                self._backend.keep(slot, length)
            events = self._perform(spans)
            if events:
                self._loop.call_soon_threadsafe(_post, events)

    def _next_batch(self) -> tuple[tuple[Cut, ...], tuple[Span, ...]] | None:
        """Wait for work; None when the engine is to stop."""
        with self._changed:
            while self._refusal is None:
                if spans := self._scheduler.plan():
                    return self._scheduler.shed(), spans
                self._changed.wait()
            return None

    def _perform(self, spans: tuple[Span, ...]) -> list[tuple[Job, Event]]:
        logits = self._decode(spans)
        events: list[tuple[Job, Event]] = []
        end = 0
        for span in spans:
            start, end = end, end + span.outputs
            job = self._jobs.get(span.job)  # None if it was cancelled meanwhile
            if span.outputs and job is not None:
                events += self._advance(job, logits[start:end])
        return events

    def _decode(self, spans: tuple[Span, ...]) -> Logits:
        rows: list[tuple[int, int, int, bool]] = []
        for span in spans:
            if span.first:
                self._backend.keep(span.slot, span.start)
            silent = len(span.tokens) - span.outputs
            rows += (
                (span.slot, token, span.start + place, place >= silent)
                for place, token in enumerate(span.tokens)
            )
        logits = self._backend.decode(rows)
        self._steps += 1
        return logits

    def _advance(self, job: Job, logits: Logits) -> list[tuple[Job, Event]]:
        """Let the job make of its logits what it wants; remove it when it is done or has failed."""
        try:
            event = job.advance(logits)
        except UnusableLogits as error:
            return [(job, error), *self._remove(job, spoilt=True)]
        if isinstance(event, Step) and event.finish is None:
            with self._changed:
                self._scheduler.write(job.number, event.token)
            return [(job, event)]
        return [] if event is None else [(job, event), *self._remove(job)]

    def _remove(self, job: Job, *, spoilt: bool = False) -> list[tuple[Job, Event]]:
        with self._changed:
            self._scheduler.remove(job.number, spoilt=spoilt)
            self._jobs.pop(job.number, None)
            return self._moved()


async def _steps(job: Generation) -> AsyncIterator[Step | Queued]:
    while True:
        event = await job.events.get()
        if isinstance(event, RequestError):
            raise event
        if isinstance(event, Queued) and event.position != job.position:
            continue  # two threads post places: the newer one may come first
        if isinstance(event, Step | Queued):
            yield event
        if isinstance(event, Step) and event.finish:
            return


async def _result(place: int, job: Scoring) -> Score:
    while True:
        event = await job.events.get()
        if isinstance(event, UnusableLogits):
            raise UnusableLogits(f"items.{place}: {event}") from event
        if isinstance(event, RequestError):
            raise event
        if isinstance(event, Score):
            return event


def _post(events: list[tuple[Job, Event]]) -> None:
    for job, event in events:
        job.events.put_nowait(event)
