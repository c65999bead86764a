"""The engine: one thread that owns the model's context, and the asyncio side that hands it jobs and reads tokens.

The thread asks the scheduler what to run, runs it, draws tokens, and posts the steps to the event loop. The event loop
submits and removes jobs. Both touch the scheduler under one lock, which is never held while the model computes, so a
job that is removed stops at the next step.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from aos_inference.errors import (
    EngineFailed,
    EngineStopping,
    PromptTooLong,
    RequestError,
    UnusableLogits,
)
from aos_inference.scheduler import Decode, Prefill, Scheduler, Work
from aos_inference.text import TextStream
from aos_protocol import sampling
from aos_protocol.errors import InvalidSampling
from aos_protocol.transcript import FinishReason, Params

_log = structlog.get_logger(__name__)

Logits: TypeAlias = NDArray[np.float32]


class Backend(Protocol):
    """What computes: `llama.Context`, or a stand-in for tests. Called from the engine's thread only."""

    def prefill(self, slot: int, tokens: Sequence[int], start: int, *, last: bool) -> Logits | None:
        """Read prompt tokens from position `start`; the logits after them if `last`, shape (vocabulary,)."""
        ...

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> Logits:
        """Feed rows of (slot, token, position); the logits after each, shape (rows, vocabulary)."""
        ...


class Vocabulary(Protocol):
    """What tokens mean: `llama.Model`, or a stand-in for tests."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...


@dataclass(frozen=True)
class Step:
    """One output token, the text that it settled, and why the output ends here, if it does."""

    token: int
    text: str
    finish: FinishReason | None


@dataclass
class _Job:
    number: int
    prompt: Sequence[int]
    params: Params
    seed: bytes
    text: TextStream
    output: list[int] = field(default_factory=list)
    steps: asyncio.Queue[Step | RequestError] = field(default_factory=asyncio.Queue)


class Engine:
    """Generates for several requests at once. `start` and all else but the thread belong to one event loop."""

    def __init__(
        self, backend: Backend, vocabulary: Vocabulary, context: int, slots: int, queue_limit: int
    ) -> None:
        self.context = context
        self.slots = slots
        self._backend = backend
        self._vocabulary = vocabulary
        self._scheduler = Scheduler(slots, queue_limit)
        self._changed = threading.Condition()
        self._jobs: dict[int, _Job] = {}
        self._numbers = count()
        self._refusal: type[RequestError] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")

    @property
    def alive(self) -> bool:
        """Whether the thread runs: started, not failed, not stopped."""
        return not self._running.done()

    @property
    def load(self) -> tuple[int, int]:
        """Jobs that hold a slot, and jobs that wait for one."""
        with self._changed:
            return self._scheduler.active, self._scheduler.queued

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

    @contextmanager
    def generate(self, prompt: Sequence[int], params: Params, seed: bytes) -> Iterator[AsyncIterator[Step]]:
        """Submit a prompt; give its steps, the last of which has `finish`. Leaving the context cancels the job.

        `seed` is the sampling seed (32 bytes). Raises PromptTooLong, QueueFull, EngineStopping and EngineFailed at
        once; the steps raise UnusableLogits and the last two.
        """
        job = self._submit(prompt, params, seed)
        try:
            yield _steps(job)
        finally:
            self._remove(job)

    def _submit(self, prompt: Sequence[int], params: Params, seed: bytes) -> _Job:
        if len(prompt) >= self.context:
            raise PromptTooLong(
                f"The prompt has {len(prompt):,} tokens; the context of {self.context:,} leaves no room to answer. "
                "Shorten the prompt."
            )
        job = _Job(next(self._numbers), prompt, params, seed, TextStream(params.stop))
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            self._scheduler.submit(job.number, len(prompt))
            self._jobs[job.number] = job
            self._changed.notify()
        return job

    def _remove(self, job: _Job) -> None:
        with self._changed:
            self._scheduler.remove(job.number)
            self._jobs.pop(job.number, None)
            self._changed.notify()

    def _refuse(self, reason: type[RequestError]) -> None:
        with self._changed:
            self._refusal = self._refusal or reason
            waiting = list(self._jobs.values())
            self._changed.notify()
        for job in waiting:
            job.steps.put_nowait(reason())

    def _ended(self, running: asyncio.Future[None]) -> None:
        self._executor.shutdown(wait=False)
        failure = running.exception()
        if failure is not None:
            _log.critical("the engine failed", exc_info=failure)
            self._refuse(EngineFailed)

    # From here on: the engine's thread.

    def _run(self) -> None:
        while (turn := self._next_turn()) is not None:
            steps = self._perform(*turn)
            if steps:
                self._loop.call_soon_threadsafe(_post, steps)

    def _next_turn(self) -> tuple[Work, list[_Job]] | None:
        """Wait for work; None when the engine is to stop."""
        with self._changed:
            while self._refusal is None:
                work = self._scheduler.next_work()
                if work is not None:
                    numbers = [work.job] if isinstance(work, Prefill) else [job for job, _ in work.rows]
                    return work, [self._jobs[number] for number in numbers]
                self._changed.wait()
            return None

    def _perform(self, work: Work, jobs: list[_Job]) -> list[tuple[_Job, Step | RequestError]]:
        if isinstance(work, Decode):
            slots = (slot for _, slot in work.rows)
            rows = [
                (slot, job.output[-1], len(job.prompt) + len(job.output) - 1)
                for slot, job in zip(slots, jobs, strict=True)
            ]
            logits: Sequence[Logits] = list(self._backend.decode(rows))
        else:
            chunk = jobs[0].prompt[work.start : work.end]
            after = self._backend.prefill(work.slot, chunk, work.start, last=work.last)
            logits = [] if after is None else [after]
        return [(job, self._advance(job, row)) for job, row in zip(jobs, logits, strict=False)]

    def _advance(self, job: _Job, logits: Logits) -> Step | RequestError:
        """Draw the job's next token and see whether its output ends."""
        position, params = len(job.output), job.params
        try:
            token = sampling.sample(logits, job.seed, position, params.temperature, params.top_p)
        except InvalidSampling as error:
            self._remove(job)
            return UnusableLogits(
                f"The model gave no usable probabilities at output token {position}: {error}"
            )
        job.output.append(token)
        step = self._step(job, token)
        if step.finish:
            self._remove(job)
        return step

    def _step(self, job: _Job, token: int) -> Step:
        if self._vocabulary.ends(token):
            return Step(token, job.text.finish(), "eos")
        text = job.text.feed(self._vocabulary.piece(token))
        if job.text.stopped:
            return Step(token, text, "stop")
        full = len(job.prompt) + len(job.output) >= self.context
        if full or len(job.output) >= job.params.max_tokens:
            return Step(token, text + job.text.finish(), "length")
        return Step(token, text, None)


async def _steps(job: _Job) -> AsyncIterator[Step]:
    while True:
        step = await job.steps.get()
        if isinstance(step, RequestError):
            raise step
        yield step
        if step.finish:
            return


def _post(steps: list[tuple[_Job, Step | RequestError]]) -> None:
    for job, step in steps:
        job.steps.put_nowait(step)
