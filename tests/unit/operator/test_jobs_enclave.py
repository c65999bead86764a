"""Jobs for an enclave: when they are given up, when they are asked again, and what the log may tell of them."""

import asyncio

import pytest
from structlog.testing import capture_logs

from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.tasks import Outcome, TaskKey
from aos_protocol.messages import NO_DIGEST, Dispatch
from aos_protocol.typed_data import Domain
from support.enclave_workers import SimulatedEnclave
from unit.operator.parts import Parts, Worker
from unit.operator.private import SECRET, private_job
from unit.operator.world import MODEL, World

WORLD = World()


@pytest.fixture
def tee_parts(parts: Parts, enclave: SimulatedEnclave) -> Parts:
    """Parts whose worker is an enclave."""
    parts.worker = Worker(enclave)
    return parts


async def outcome_of(parts: Parts, dispatch: Dispatch) -> Outcome:
    """Take a job, and return what was accepted of it."""
    async with parts.running() as jobs:
        await jobs.take(dispatch)
        await jobs.idle()
    [outcome] = parts.post.accepted[TaskKey.of(dispatch)]
    assert isinstance(outcome, Outcome)
    return outcome


async def test_its_answer_is_accepted_with_the_enclave_s_statement(tee_parts: Parts) -> None:
    with capture_logs() as logs:
        outcome = await outcome_of(tee_parts, WORLD.job(kind="tee"))
    assert (outcome.result, outcome.reason) == ("What is AI?", "")
    assert outcome.attestation == "simulated"
    [accepted] = [entry for entry in logs if entry["event"] == "the dispatcher accepted the result"]
    assert (accepted["answered"], accepted["attestation"]) == (True, "simulated")


@pytest.mark.parametrize(
    "trouble",
    [
        WorkerUnavailable("the worker cannot be reached (reading: Connection reset by peer): start it"),
        WorkerUnavailable("the worker gave no answer in time (ReadTimeout)"),
        WorkerRefused("this enclave has no such keyset (HTTP 422)"),
    ],
)
async def test_what_breaks_off_or_is_refused_is_given_up_at_once(
    tee_parts: Parts, trouble: Exception
) -> None:
    tee_parts.worker.trouble = [trouble]
    assert await outcome_of(tee_parts, WORLD.job(kind="tee")) == Outcome.failed(str(trouble))
    assert tee_parts.worker.runs == 1


async def test_an_enclave_that_is_full_is_asked_again(tee_parts: Parts) -> None:
    tee_parts.worker.trouble = [WorkerBusy("the queue is full (HTTP 503)"), WorkerBusy()]
    assert (await outcome_of(tee_parts, WORLD.job(kind="tee"))).reason == ""
    assert tee_parts.worker.runs == 3


async def test_a_score_waits_until_the_enclave_is_back(tee_parts: Parts) -> None:
    tee_parts.worker.trouble = [WorkerUnavailable("cannot be reached"), WorkerUnavailable("gone")]
    call = WORLD.call()
    async with tee_parts.running() as jobs:
        await jobs.take(call)
        await jobs.idle()
    assert tee_parts.post.accepted[TaskKey.of(call)][0].reason == ""
    assert tee_parts.worker.scorings == 3


async def test_a_worker_that_is_no_enclave_answers_for_none(parts: Parts) -> None:
    assert "it is no enclave" in (await outcome_of(parts, WORLD.job(kind="tee"))).reason


class TestPrivateJob:
    async def test_neither_log_nor_store_nor_queue_has_its_prompt_or_answer(
        self, tee_parts: Parts, enclave: SimulatedEnclave
    ) -> None:
        dispatch = private_job(WORLD, enclave)
        with capture_logs() as logs:
            outcome = await outcome_of(tee_parts, dispatch)
        assert (outcome.reason, outcome.transcript, outcome.commitment) == ("", None, NO_DIGEST)
        seen = repr((logs, tee_parts.store.tasks, tee_parts.post.sent, dispatch.to_json()))
        assert outcome.result in seen
        assert SECRET not in seen

    async def test_an_enclave_that_was_restarted_cannot_open_what_was_sealed_before(
        self, tee_parts: Parts, enclave: SimulatedEnclave
    ) -> None:
        dispatch = private_job(WORLD, enclave)
        enclave.restart()
        outcome = await outcome_of(tee_parts, dispatch)
        assert "not sealed to this enclave's present keyset: it may have been restarted" in outcome.reason
        assert tee_parts.worker.runs == 1


async def test_without_a_dispatcher_an_enclave_job_waits_and_others_do_not(
    tee_parts: Parts, enclave: SimulatedEnclave
) -> None:
    """A task of an earlier process is there before the first connection: nobody knows yet in which domain to sign."""
    known: asyncio.Future[Domain] = asyncio.get_running_loop().create_future()
    tee_parts.post.domain = lambda: known  # type: ignore[method-assign,assignment]
    dispatch = WORLD.job(kind="tee")
    async with tee_parts.running() as jobs:
        await jobs.take(dispatch)
        call = WORLD.call()
        await jobs.take(call)
        while TaskKey.of(call) not in tee_parts.post.accepted:
            await asyncio.sleep(0)
        assert tee_parts.worker.runs == 0
        known.set_result(WORLD.domain)
        await jobs.idle()
    assert tee_parts.post.accepted[TaskKey.of(dispatch)][0].reason == ""


async def test_what_is_sent_again_brings_the_same_statement(
    tee_parts: Parts, enclave: SimulatedEnclave
) -> None:
    """Also in another process, when the enclave has other keys meanwhile."""
    dispatch = WORLD.job(kind="tee")
    tee_parts.post.say = lambda _: (_ for _ in ()).throw(WorkerUnavailable("stands for a lost connection"))
    async with tee_parts.running() as jobs:
        await jobs.take(dispatch)
        while len(tee_parts.post.sent) < 3:
            await asyncio.sleep(0)
    enclave.restart()
    tee_parts.post.say = Parts().post.say
    async with tee_parts.running() as jobs:
        await jobs.idle()
        while tee_parts.queue.pending:
            await asyncio.sleep(0)
    statements = [task.outcome.enclave for task in tee_parts.post.sent if isinstance(task.outcome, Outcome)]
    assert len(statements) > 3
    assert statements[0] is not None
    assert all(statement == statements[0] for statement in statements)
    assert statements[0]["attestation"]["keyset"]["model"] == MODEL.to_json()
