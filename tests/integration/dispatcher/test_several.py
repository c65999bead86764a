"""Two dispatchers over one PostgreSQL and one Valkey: whoever is asked, and whoever an operator is connected to, it is one dispatcher."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from structlog.testing import capture_logs

from aos_dispatcher.leases import Leases
from aos_dispatcher.operators import pin_model, register_operator
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.statement import Attestation
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from integration.dispatcher.several import Several, several
from support.calibration import calibration
from support.enclaves import policy
from support.operators import MODEL, ScriptedOperator
from support.tee_operators import TeeOperator, enclave

LEASE_S = 600


@pytest_asyncio.fixture
async def two(new_database: Any, redis_url: str) -> AsyncIterator[Several]:
    """Two of great patience: nobody who moves is given up, and no lease runs out."""
    running = several(
        await new_database("dispatcher"), redis_url, audit_share=1, reassign_after=20, lease=LEASE_S
    )
    async with running as started:
        yield started


async def test_an_operator_elsewhere_draws_executes_and_is_scored_for_a_job_led_here(two: Several) -> None:
    operators = [await two.operator(two.b), await two.operator(two.b), await two.operator(two.a)]
    users = itertools.count()
    while not all(operator.called or operator.dispatched for operator in operators):  # lot seats two of three
        job_id = await two.a.submit(user=f"user {next(users)}")
        assert (await two.a.finished(job_id))["status"] == "completed"
        assert await two.b.unpassed(job_id) == []
    assert two.a.dispatcher.store.owner != two.b.dispatcher.store.owner


async def test_a_job_is_cancelled_through_the_dispatcher_that_does_not_lead_it(two: Several) -> None:
    operator = await two.operator(two.b)
    operator.answer = None
    job_id = await two.a.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    token = {"Authorization": f"Bearer {two.a.token}"}
    answer = await two.b.post("/api/job/cancel", {"job_id": job_id}, headers=token)
    assert answer.json() == {"code": 200, "result": "cancelled"}
    await operator.wait(lambda: bool(operator.cancelled))
    assert operator.cancelled == [{"job_id": job_id, "tag": "", "challenge": 0}]


async def test_an_operator_that_moves_in_mid_job_brings_its_answer_along(two: Several) -> None:
    operator, verifier = await two.operator(two.a), await two.operator(two.b)
    for one in (operator, verifier):
        one.answer = None
    job_id = await two.a.submit()
    await two.until(lambda: operator.dispatched or verifier.dispatched)
    executor, to = (operator, two.b) if operator.dispatched else (verifier, two.a)
    executor.answer = "made on another connection"
    await two.move(executor, to)
    detail = await two.a.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "match")
    assert await two.a.unpassed(job_id) == []


async def test_a_newer_connection_elsewhere_closes_the_older(two: Several) -> None:
    operator = await two.operator(two.a)
    twin = ScriptedOperator(operator.signer, two.b.ws)
    two.operators.append(twin)
    await two.connect(twin, two.b)
    assert await operator.closed() == "replaced by a newer connection of the same operator"
    twin.answer = "I am the one"
    job_id = await two.a.submit()
    assert (await two.a.finished(job_id))["status"] == "completed"
    assert [row["result"] for row in await two.a.results(job_id)] == ["I am the one"]


async def test_the_sequence_has_no_gap_over_both(two: Several) -> None:
    await two.operator(two.b)
    jobs = await asyncio.gather(*((two.a, two.b)[number % 2].submit() for number in range(6)))
    for job_id in jobs:
        await two.a.finished(job_id)
    numbers = [(await two.a.evidence(job_id))["job"]["sequence"] for job_id in jobs]
    assert sorted(numbers) == list(range(1, 7))


async def test_enclaves_elsewhere_attest_on_the_callers_nonce(new_database: Any, redis_url: str) -> None:
    database = await new_database("dispatcher")
    async with several(database, redis_url, policy=policy(MODEL.name)) as running:
        await pin_model(running.a.dispatcher.database, "tee", MODEL, calibration(MODEL.sha256))
        operator = TeeOperator(Signer.generate(), running.b.ws, enclave(1))
        await register_operator(running.a.dispatcher.database, operator.signer.address)
        running.operators.append(operator)
        await running.connect(operator, running.b)
        asked = {"model": MODEL.name, "nonce": "5e" * 32}
        [row] = (await running.a.client.get("/api/attestation", params=asked)).json()["result"]
    assert row["operator"] == operator.signer.address
    said = appraise(
        parse_message(Attestation, row["attestation"]),
        policy(MODEL.name),
        model=MODEL.name,
        nonce="5e" * 32,
        now=int(time.time()),
    )
    assert said.kind == "simulated"


async def test_rounds_of_one_that_is_stopped_are_led_by_the_other_at_once(two: Several) -> None:
    """Its lease would last for ten minutes more."""
    operator = await two.operator(two.b)
    operator.answer = None
    job_id = await two.a.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    key = job_id, "", 0
    leases = Leases(two.b.dispatcher.database)
    led_by = await leases.leader(key)
    assert led_by == two.a.dispatcher.store.owner
    with capture_logs() as logs:
        operator.answer = "when it is asked again"
        await two.a.stop()
        assert (await two.b.finished(job_id))["status"] == "completed"
    assert not [entry for entry in logs if "leases had run out" in entry["event"]]
