"""Jobs: every step, and a crash before and after every step."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_operator import backoff
from aos_operator.errors import (
    LinkLost,
    QueueUnavailable,
    Refused,
    StoreUnavailable,
    WorkerRefused,
    WorkerUnavailable,
)
from aos_operator.events import Settled
from aos_operator.jobs import Jobs, Limits
from aos_operator.memory import MemoryQueue, MemoryStore
from aos_operator.queue import Entry
from aos_operator.stub import StubWorker
from aos_operator.subjects import Subject
from aos_operator.tasks import Outcome, Product, Request, Scored, Task, TaskKey, TaskState
from aos_operator.workshop import Workshop
from aos_protocol.messages import NO_DIGEST, Claim, JobSpec
from unit.operator.world import MODEL, OPERATOR, World, subject_named

WORLD = World()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.Backoff, "next", lambda _: 0.0)


class Post:
    """A dispatcher's end: `say` decides the replies, `accepted` keeps what was accepted, by task."""

    def __init__(self) -> None:
        self.sent: list[Task] = []
        self.accepted: dict[TaskKey, list[Product]] = {}
        self.say: Callable[[Task], Settled] = lambda _: Settled("1", 200, "success")
        self.progress = asyncio.Event()

    async def result(self, task: Task) -> Settled:
        self.sent.append(task)
        reply = self.say(task)
        if reply.code == 200:
            assert task.outcome is not None
            self.accepted.setdefault(task.key, []).append(task.outcome)
        self.progress.set()
        return reply


class Worker(StubWorker):
    """A stub worker that counts, waits for `go`, and raises what `trouble` holds first."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.runs = 0
        self.scorings = 0
        self.at_once = 0
        self.most_at_once = 0
        self.go = asyncio.Event()
        self.go.set()
        self.started = asyncio.Event()
        self.trouble: list[Exception] = []

    async def generate(self, job: JobSpec, seed: str, prover: str) -> dict[str, Any]:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.started.set()
        try:
            await self.go.wait()
            if self.trouble:
                raise self.trouble.pop(0)
            return await super().generate(job, seed, prover)
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
            return await super().score(job, subject)
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
        return Jobs(self.store, self.queue, Workshop(self.worker, OPERATOR.address), self.post, self.limits)

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


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def test_a_job_goes_from_its_dispatch_to_its_accepted_result(parts: Parts) -> None:
    dispatch = WORLD.job("What is AI?")
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
        assert jobs.open_count == 0
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert isinstance(outcome, Outcome)
    assert outcome.result == "What is AI?"
    assert parts.state(dispatch) is TaskState.ACCEPTED


async def test_a_taken_job_is_durable_before_take_returns(parts: Parts) -> None:
    dispatch = WORLD.job()
    await parts.jobs().take(dispatch)
    assert parts.store.tasks[TaskKey.of(dispatch)].open
    assert [entry.request for entry in parts.queue.unread] == [dispatch]


async def test_a_repeated_dispatch_runs_once_and_brings_its_clock(parts: Parts) -> None:
    dispatch = WORLD.job(clock={"1": "1"})
    parts.worker.go.clear()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await parts.worker.started.wait()
        await jobs.take(dispatch.model_copy(update={"clock": {"1": "8"}}))
        parts.worker.go.set()
        await jobs.idle()
        await jobs.take(dispatch)
        await jobs.idle()
    assert parts.worker.runs == 1
    assert [task.request.clock for task in parts.post.sent] == [{"1": "8"}]


async def test_no_more_than_the_limit_is_taken(parts: Parts) -> None:
    jobs = parts.jobs()
    dispatches = [WORLD.job() for _ in range(10)]
    for dispatch in dispatches:
        assert not jobs.full
        await jobs.take(dispatch)
    assert jobs.full
    with pytest.raises(Refused, match="10 jobs are queued") as refused:
        await jobs.take(WORLD.job())
    assert refused.value.code == 429
    await jobs.take(dispatches[0])  # what is here already takes no more room


async def test_dispatches_that_arrive_at_once_do_not_pass_the_limit(parts: Parts) -> None:
    jobs = parts.jobs()
    taken = await asyncio.gather(*(jobs.take(WORLD.job()) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, Refused) for outcome in taken) == 10


async def test_the_worker_gets_a_bounded_number_at_once(parts: Parts) -> None:
    parts.worker.go.clear()
    async with parts.running() as jobs:
        for _ in range(8):
            await jobs.take(WORLD.job())
        while parts.worker.at_once < 2:
            await asyncio.sleep(0)
        for _ in range(50):  # time for a third to slip in
            await asyncio.sleep(0)
        parts.worker.go.set()
        await jobs.idle()
    assert (parts.worker.runs, parts.worker.most_at_once) == (8, 2)


async def test_a_worker_that_is_away_is_asked_again(parts: Parts) -> None:
    parts.worker.trouble = [WorkerUnavailable(), WorkerUnavailable()]
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    assert parts.worker.runs == 3
    assert parts.post.accepted[TaskKey.of(dispatch)][0].reason == ""


async def test_a_refusal_of_the_worker_becomes_the_reason(parts: Parts) -> None:
    parts.worker.trouble = [WorkerRefused("the prompt does not fit (HTTP 422)")]
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert outcome == Outcome.failed("the prompt does not fit (HTTP 422)")


async def test_an_answer_that_does_not_fit_the_job_is_not_sent(parts: Parts) -> None:
    class OtherModel(Worker):
        async def generate(self, job: JobSpec, seed: str, prover: str) -> dict[str, Any]:
            answer = await super().generate(job, seed, prover)
            return {**answer, "commitment": "00" * 32}

    parts.worker = OtherModel()
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert isinstance(outcome, Outcome)
    assert (outcome.result, outcome.transcript) == ("", None)
    assert "commitment" in outcome.reason


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_result_that_cannot_be_taken_now_is_sent_again(parts: Parts, code: int) -> None:
    replies = iter([Settled("1", code, "later"), Settled("2", code, "later"), Settled("3", 200, "success")])
    parts.post.say = lambda _: next(replies)
    async with parts.running() as jobs:
        await jobs.take(WORLD.job())
        await jobs.idle()
    assert len(parts.post.sent) == 3
    assert parts.worker.runs == 1


async def test_a_lost_connection_sends_the_result_again(parts: Parts) -> None:
    lost = [LinkLost(), LinkLost()]

    def say(_: Task) -> Settled:
        if lost:
            raise lost.pop()
        return Settled("1", 200, "success")

    parts.post.say = say
    async with parts.running() as jobs:
        await jobs.take(WORLD.job())
        await jobs.idle()
    assert len(parts.post.sent) == 3


async def test_a_result_refused_for_good_is_not_sent_again(parts: Parts) -> None:
    parts.post.say = lambda _: Settled("1", 400, "not a member of this committee")
    dispatch = WORLD.job()
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    assert len(parts.post.sent) == 1
    assert parts.state(dispatch) is TaskState.REFUSED
    assert parts.store.verdicts[TaskKey.of(dispatch)] == "not a member of this committee"


class TestScore:
    async def test_a_call_goes_to_its_accepted_score(self, parts: Parts) -> None:
        call = WORLD.call()
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        [scored] = parts.post.accepted[TaskKey.of(call)]
        assert isinstance(scored, Scored)
        assert (scored.subject, scored.subject_operator) == subject_named(call)
        assert scored.score is not None
        assert scored.score["margins"] == scored.score["distances"] == [0.0] * 11
        assert parts.state(call) is TaskState.ACCEPTED
        assert (parts.worker.runs, parts.worker.scorings) == (0, 1)

    async def test_a_claim_is_scored_without_anybody_s_answer(self, parts: Parts) -> None:
        call = WORLD.call(WORLD.job(claim=Claim(text="What was AI?")))
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        [scored] = parts.post.accepted[TaskKey.of(call)]
        assert isinstance(scored, Scored)
        assert (scored.subject, scored.subject_operator) == subject_named(call)

    async def test_it_is_durable_before_take_returns(self, parts: Parts) -> None:
        call = WORLD.call()
        await parts.jobs().take(call)
        assert parts.store.tasks[TaskKey.of(call)].open
        assert [entry.request for entry in parts.queue.unread] == [call]

    async def test_running_and_scoring_the_same_job_are_two_tasks(self, parts: Parts) -> None:
        """As under the tag malicious, where verifiers execute before they score."""
        job = WORLD.job(role="verifier", tag="malicious", position="after")
        calls = [WORLD.call(job, subject=WORLD.answer(job)), WORLD.call(job, challenge=1)]
        async with parts.running() as jobs:
            requests: list[Request] = [job, *calls]
            for request in requests:
                await jobs.take(request)
            await jobs.idle()
        assert len(parts.post.accepted) == 3
        assert (parts.worker.runs, parts.worker.scorings) == (1, 2)

    async def test_a_replayed_call_is_scored_once(self, parts: Parts) -> None:
        call = WORLD.call()
        async with parts.running() as jobs:
            for _ in range(3):
                await jobs.take(call)
            await jobs.idle()
            await jobs.take(call)
            await jobs.idle()
        assert (parts.worker.scorings, len(parts.post.sent)) == (1, 1)

    async def test_the_same_call_with_another_answer_is_refused(self, parts: Parts) -> None:
        job = WORLD.job()
        call = WORLD.call(job)
        jobs = parts.jobs()
        await jobs.take(call)
        with pytest.raises(Refused, match="another content"):
            await jobs.take(call.model_copy(update={"subject": WORLD.answer(job, result="another")}))

    async def test_scores_and_runs_share_the_worker_s_places(self, parts: Parts) -> None:
        parts.worker.go.clear()
        async with parts.running() as jobs:
            for _ in range(3):
                await jobs.take(WORLD.call())
                await jobs.take(WORLD.job())
            while parts.worker.at_once < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)  # time for a third to slip in
            parts.worker.go.set()
            await jobs.idle()
        assert (parts.worker.runs, parts.worker.scorings, parts.worker.most_at_once) == (3, 3, 2)

    async def test_a_worker_that_is_away_is_asked_again(self, parts: Parts) -> None:
        parts.worker.trouble = [WorkerUnavailable(), WorkerUnavailable()]
        call = WORLD.call()
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        assert parts.worker.scorings == 3
        assert parts.post.accepted[TaskKey.of(call)][0].reason == ""

    async def test_a_refusal_of_the_worker_becomes_the_reason(self, parts: Parts) -> None:
        parts.worker.trouble = [WorkerRefused("the answer does not fit the context (HTTP 422)")]
        call = WORLD.call()
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        reason = "the answer does not fit the context (HTTP 422)"
        assert parts.post.accepted[TaskKey.of(call)] == [Scored(*subject_named(call), None, reason)]

    async def test_a_score_of_something_else_is_not_sent(self, parts: Parts) -> None:
        class OtherSubject(Worker):
            async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
                [score] = (await super().score(job, subject))["scores"]
                return {"scores": [{**score, "subject": "cd" * 32}]}

        parts.worker = OtherSubject()
        call = WORLD.call()
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        [scored] = parts.post.accepted[TaskKey.of(call)]
        assert isinstance(scored, Scored)
        assert scored.score is None
        assert "scored cdcd" in scored.reason

    async def test_a_subject_that_somebody_wrote_into_the_queue_ends_as_a_reason(self, parts: Parts) -> None:
        call = WORLD.call(subject="nonsense")
        await parts.queue.add(call)
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        [scored] = parts.post.accepted[TaskKey.of(call)]
        assert isinstance(scored, Scored)
        assert (scored.subject, scored.score) == (NO_DIGEST, None)
        assert "cannot be read" in scored.reason
        assert parts.worker.scorings == 0

    async def test_a_score_refused_for_good_is_not_sent_again(self, parts: Parts) -> None:
        parts.post.say = lambda _: Settled("1", 400, "not a verifier of this round")
        call = WORLD.call()
        async with parts.running() as jobs:
            await jobs.take(call)
            await jobs.idle()
        assert (len(parts.post.sent), parts.state(call)) == (1, TaskState.REFUSED)

    async def test_the_log_says_which_is_which(self, parts: Parts) -> None:
        job = WORLD.job()
        with capture_logs() as logs:
            async with parts.running() as jobs:
                await jobs.take(job)
                await jobs.take(WORLD.call(job, challenge=2))
                await jobs.idle()
        said = {entry["event"]: entry for entry in logs}
        assert (said["took a job"]["role"], said["took a job"].get("challenge")) == ("executor", None)
        assert said["took an answer to score"]["role"] == "verifier"
        assert said["took an answer to score"]["challenge"] == 2
        assert {"the dispatcher accepted the result", "the dispatcher accepted the score"} <= set(said)


class TestCancel:
    async def test_all_that_a_round_asked_for_is_dropped(self, parts: Parts) -> None:
        job = WORLD.job()
        ours, other = WORLD.call(job), WORLD.call(job, challenge=1)
        parts.worker.go.clear()
        async with parts.running() as jobs:
            requests: list[Request] = [job, ours, other]
            for request in requests:
                await jobs.take(request)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(job), TaskKey.of(ours)])
            parts.worker.go.set()
            await jobs.idle()
        states = [parts.state(request) for request in requests]
        assert states == [TaskState.CANCELLED, TaskState.CANCELLED, TaskState.ACCEPTED]
        assert set(parts.post.accepted) == {TaskKey.of(other)}

    async def test_a_running_job_stops_and_frees_its_place(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        parts.worker.go.clear()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(dispatch)])
            await asyncio.sleep(0)
            assert (jobs.open_count, parts.worker.at_once) == (0, 0)
        assert parts.state(dispatch) is TaskState.CANCELLED
        assert parts.queue.pending == {}
        assert parts.post.sent == []

    async def test_a_job_that_was_not_begun_never_begins(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        jobs = parts.jobs()
        await jobs.take(dispatch)
        await jobs.cancel([TaskKey.of(dispatch)])
        async with parts.running():
            while parts.queue.unread or parts.queue.pending:
                await asyncio.sleep(0)
        assert parts.worker.runs == 0

    async def test_what_is_not_known_is_cancelled_without_a_word(self, parts: Parts) -> None:
        await parts.jobs().cancel([TaskKey("ab" * 32, "")])

    async def test_an_accepted_job_stays_accepted(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await jobs.idle()
            await jobs.cancel([TaskKey.of(dispatch)])
        assert parts.state(dispatch) is TaskState.ACCEPTED

    async def test_a_cancelled_job_that_is_dispatched_again_is_run(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        parts.worker.go.clear()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            await parts.worker.started.wait()
            await jobs.cancel([TaskKey.of(dispatch)])
            parts.worker.go.set()
            await jobs.take(dispatch)
            await jobs.idle()
        assert parts.state(dispatch) is TaskState.ACCEPTED


class TestRecovery:
    async def test_an_outcome_that_is_stored_is_sent_without_running_again(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        await parts.store.finish(dispatch, Outcome.failed("stored before the crash"))
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.worker.runs == 0
        assert parts.post.accepted[TaskKey.of(dispatch)][0].reason == "stored before the crash"

    async def test_a_queue_that_lost_everything_gets_it_back_from_the_store(self, parts: Parts) -> None:
        dispatches = [WORLD.job() for _ in range(5)]
        for dispatch in dispatches:
            await parts.jobs().take(dispatch)
        parts.queue = MemoryQueue()
        async with parts.running():
            while len(parts.post.accepted) < 5:
                await asyncio.sleep(0.001)
        assert {TaskKey.of(dispatch) for dispatch in dispatches} == set(parts.post.accepted)

    async def test_a_store_that_lost_everything_gets_it_back_from_the_queue(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        parts.store = MemoryStore()
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.state(dispatch) is TaskState.ACCEPTED

    async def test_an_entry_that_cannot_be_read_is_dropped(self, parts: Parts) -> None:
        parts.queue.unread.append(Entry("1-0", None))
        async with parts.running():
            while parts.queue.unread or parts.queue.pending:
                await asyncio.sleep(0)

    async def test_the_same_task_twice_in_the_queue_runs_once(self, parts: Parts) -> None:
        dispatch = WORLD.job()
        await parts.jobs().take(dispatch)
        await parts.queue.add(dispatch)
        async with parts.running() as jobs:
            await parts.post.progress.wait()
            await jobs.idle()
        assert parts.worker.runs == 1
        assert parts.queue.pending == {}

    async def test_a_queue_that_fails_while_it_is_read_is_opened_again(self, parts: Parts) -> None:
        class Flaky(MemoryQueue):
            failures = 2
            opened = 0

            async def open(self) -> None:
                self.opened += 1

            async def read(self, block_s: float) -> Any:
                if block_s and self.failures:
                    self.failures -= 1
                    raise QueueUnavailable
                return await super().read(block_s)

        parts.queue = queue = Flaky()
        dispatch = WORLD.job()
        async with parts.running() as jobs:
            await jobs.take(dispatch)
            while not parts.post.accepted:
                await asyncio.sleep(0)
        assert queue.opened == 3

    async def test_a_dispatch_that_the_queue_does_not_take_can_be_repeated(self, parts: Parts) -> None:
        class Away(MemoryQueue):
            away = True

            async def add(self, request: Request) -> None:
                if self.away:
                    raise QueueUnavailable
                await super().add(request)

        parts.queue = queue = Away()
        jobs, dispatch = parts.jobs(), WORLD.job()
        with pytest.raises(QueueUnavailable):
            await jobs.take(dispatch)
        queue.away = False
        await jobs.take(dispatch)
        assert len(queue.unread) == 1

    async def test_a_store_that_is_away_after_the_run_costs_no_second_run(self, parts: Parts) -> None:
        class Away(MemoryStore):
            failures = 3

            async def finish(self, request: Request, outcome: Product) -> Product:
                if self.failures:
                    self.failures -= 1
                    raise StoreUnavailable
                return await super().finish(request, outcome)

        parts.store = Away()
        async with parts.running() as jobs:
            await jobs.take(WORLD.job())
            await jobs.idle()
        assert (parts.worker.runs, len(parts.post.sent)) == (1, 1)


class Crash:
    """Stops a process for good at its n-th call across a boundary, before or after the call has its effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left = at
        self.after = after
        self.happened = asyncio.Event()

    def around(self, boundary: Any) -> Any:
        """The same boundary, whose methods may never return."""
        crash = self

        class Fragile:
            def __getattr__(self, name: str) -> Any:
                method = getattr(boundary, name)

                async def call(*arguments: Any) -> Any:
                    crash.left -= 1
                    if crash.left < 0 or (crash.left == 0 and not crash.after):
                        await crash.die()
                    outcome = await method(*arguments)
                    if crash.left <= 0:
                        await crash.die()
                    return outcome

                return call

        return Fragile()

    async def die(self) -> None:
        self.happened.set()
        await asyncio.Event().wait()


STEPS = 13
"""Calls across a boundary from the dispatch to the end: 2 to take it, 4 to recover, 7 to run, send and close it."""


REQUESTS: dict[str, Callable[[], Request]] = {
    "dispatch": WORLD.job,
    "call": WORLD.call,
    "call in a challenge": lambda: WORLD.call(challenge=1),
    "call for a claim": lambda: WORLD.call(WORLD.job(claim=Claim(text="What is AI?"))),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_crash_at_any_step_loses_nothing_and_accepts_one_answer(
    at: int, after: bool, kind: str
) -> None:
    parts, crash, request = Parts(), Crash(at, after=after), REQUESTS[kind]()
    store, queue, worker, post = map(crash.around, (parts.store, parts.queue, parts.worker, parts.post))
    first = Jobs(store, queue, Workshop(worker, OPERATOR.address), post, parts.limits)
    running, taking = asyncio.create_task(first.run()), asyncio.create_task(first.take(request))
    await crash.happened.wait()
    acknowledged = taking.done()
    stored = parts.store.tasks.get(TaskKey.of(request))
    work_before = parts.worker.runs + parts.worker.scorings
    for process in (running, taking):
        process.cancel()
    await asyncio.wait([running, taking])

    async with parts.running() as second:
        if not acknowledged:
            await second.take(request)
        while parts.queue.pending or parts.queue.unread or not parts.post.accepted:
            await asyncio.sleep(0)
        await second.idle()
    assert parts.state(request) is TaskState.ACCEPTED
    accepted = parts.post.accepted[TaskKey.of(request)]
    assert all(outcome == accepted[0] for outcome in accepted)
    if stored is not None and stored.outcome is not None:
        assert parts.worker.runs + parts.worker.scorings == work_before
