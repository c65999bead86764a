"""Calls for scores, from being taken to the accepted score."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_operator.errors import (
    Refused,
    WorkerRefused,
    WorkerUnavailable,
)
from aos_operator.events import Settled
from aos_operator.subjects import Subject
from aos_operator.tasks import Request, Scored, TaskKey, TaskState
from aos_protocol.job import Claim, JobSpec
from aos_protocol.messages import NO_DIGEST
from unit.operator.parts import Parts, Worker
from unit.operator.world import World, subject_named

WORLD = World()


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
