"""A verifier's part, on real PostgreSQL and Valkey: calls come in, are checked, queued, scored, and signed scores go out."""

import asyncio
from typing import Any

import pytest

from aos_operator.tasks import Request, TaskKey
from aos_protocol.clock import VectorClock
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.job import Claim
from aos_protocol.messages import JobScore, ScoreCall
from aos_protocol.score_document import Score
from aos_protocol.verdict import judge
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.test_link import SlowWorker
from support.calibration import calibration
from unit.operator.world import EXECUTOR, MODEL, NUMBER, World, subject_named

STRANGER = Signer(b"\x33" * 32)


def verdict(said: JobScore) -> str:
    return judge(parse_message(Score, said.score), calibration(MODEL.sha256)).outcome


@pytest.mark.parametrize("challenge", [0, 1])
async def test_an_honest_answer_matches(running: Running, dispatcher: FakeDispatcher, challenge: int) -> None:
    call = dispatcher.world.call(challenge=challenge)
    async with running():
        await dispatcher.run(call)
        said = await dispatcher.score_of(call)
    assert (said.subject, said.subject_operator) == subject_named(call)
    assert verdict(said) == "match"
    answer = VectorClock.from_map({"3": "5"})
    assert VectorClock.from_map(said.clock).dominates(answer)


async def test_an_answer_whose_text_was_edited_does_not(running: Running, dispatcher: FakeDispatcher) -> None:
    job = dispatcher.world.job()
    call = dispatcher.world.call(job, subject=dispatcher.world.answer(job, result="What is BI?"))
    async with running():
        await dispatcher.run(call)
        assert verdict(await dispatcher.score_of(call)) == "mismatch"


async def test_a_claim_is_scored_without_anybody_s_answer(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    call = dispatcher.world.call(dispatcher.world.job(claim=Claim(text="What is BI?")))
    async with running():
        await dispatcher.run(call)
        said = await dispatcher.score_of(call)
    assert (said.subject, said.subject_operator) == subject_named(call)
    assert parse_message(Score, said.score).level == "likelihood"


async def test_a_verifier_that_executes_does_both(running: Running, dispatcher: FakeDispatcher) -> None:
    """Under the tag malicious: its own result first, then the score of the executor's."""
    world = dispatcher.world
    job = world.job(role="verifier", tag="malicious", position="after")
    call = world.call(job, subject=world.answer(job))
    async with running():
        await dispatcher.run(job)
        await dispatcher.run(call)
        result, score = await dispatcher.result_of(job), await dispatcher.score_of(call)
    assert (result.role, result.vrf) == ("verifier", score.vrf)
    own = str(NUMBER)
    assert int(result.clock[own]) < int(score.clock[own])


def forged(world: World) -> dict[str, ScoreCall]:
    """Calls that must not be taken, by why not."""
    job = world.job()
    call, other = world.call(job), world.job()
    return {
        "signed its frame": world.call(job, subject=world.answer(job, sealed_by=STRANGER)),
        "the result is signed by": world.call(job, subject=world.answer(job, signed_by=STRANGER)),
        "another seed": world.call(job, subject=world.answer(job, transcript={"seed": "cd" * 32})),
        "fingerprints are those of": world.call(
            job, subject=world.answer(job, transcript={"prover": STRANGER.address})
        ),
        "drawn on another prompt|proof": world.call(job, subject=world.answer(other)),
        "not both": world.call(job, subject=None),
        "seed is not the output|proof": call.model_copy(update={"challenge": 3}),
        "receipt": call.model_copy(update={"sequence": 77}),
        "no range": call.model_copy(update={"range_end": 0}),
        "does not serve": call.model_copy(update={"model": MODEL.model_copy(update={"name": "x"})}),
    }


@pytest.mark.parametrize("reason", forged(World()))
async def test_a_forged_call_is_refused_and_leaves_nothing_behind(
    running: Running, dispatcher: FakeDispatcher, reason: str
) -> None:
    call = forged(dispatcher.world)[reason]
    async with running():
        await dispatcher.connected.wait()
        reply = await dispatcher.dispatch(call)
        assert reply["code"] == 400
        assert any(part in reply["message"] for part in reason.split("|"))
        await dispatcher.run(dispatcher.world.call())
    assert len(dispatcher.accepted) == 1


async def test_a_replayed_call_is_acknowledged_and_changes_nothing(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    call = dispatcher.world.call()
    async with running():
        await dispatcher.run(call)
        assert (await dispatcher.dispatch(call))["code"] == 200
        await dispatcher.run(dispatcher.world.call())
    assert dispatcher.repetitions == 0


async def test_a_replay_with_another_answer_is_refused(running: Running, dispatcher: FakeDispatcher) -> None:
    job = dispatcher.world.job()
    call = dispatcher.world.call(job)
    async with running():
        await dispatcher.run(call)
        other = call.model_copy(update={"subject": dispatcher.world.answer(job, result="What is BI?")})
        reply = await dispatcher.dispatch(other)
    assert (reply["code"], "another content" in reply["message"]) == (400, True)
    assert dispatcher.accepted[TaskKey.of(call)].operator != EXECUTOR.address


async def test_a_worker_that_goes_away_gets_the_answer_again(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    worker, call = SlowWorker(), dispatcher.world.call()
    worker.lost = 2
    worker.go.set()
    async with running(worker):
        await dispatcher.run(call)
        assert verdict(await dispatcher.score_of(call)) == "match"


async def test_a_connection_lost_while_it_scores_costs_nothing(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    worker, call = SlowWorker(), dispatcher.world.call()
    async with running(worker):
        await dispatcher.draw(call)
        await dispatcher.dispatch(call)
        await worker.started.wait()
        await dispatcher.drop()
        worker.go.set()
        await dispatcher.done(call)
    assert len(dispatcher.connects) == 2


async def test_a_cancelled_round_is_dropped_and_no_other(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    worker, world = SlowWorker(), dispatcher.world
    job = world.job(tag="suspicion", position="after")
    calls = [world.call(job), world.call(job, challenge=1)]
    async with running(worker):
        for call in calls:
            await dispatcher.draw(call)
            await dispatcher.dispatch(call)
        await worker.started.wait()
        named: dict[str, Any] = {"job_id": job.job_id, "tag": "suspicion", "challenge": 1}
        assert (await dispatcher.ask("cancel_job", named))["code"] == 200
        worker.go.set()
        await dispatcher.done(calls[0])
        await dispatcher.run(world.job())
    assert TaskKey.of(calls[1]) not in dispatcher.accepted


async def test_many_scores_and_answers_at_once_keep_the_clock_in_order(
    running: Running, dispatcher: FakeDispatcher
) -> None:
    world = dispatcher.world
    jobs = [world.job(f"prompt {number}") for number in range(12)]
    calls = [world.call(job) for job in jobs] + [world.call(job, challenge=2) for job in jobs]
    async with running():
        await dispatcher.connected.wait()
        wanted: list[Request] = [*jobs, *calls]
        await asyncio.gather(*(dispatcher.run(request) for request in wanted))
    assert len(dispatcher.accepted) == 36
    assert len(dispatcher.counters) == 72
