"""An operator with an enclave, on real PostgreSQL and Valkey: its jobs, its attestations, and an enclave that goes away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs

from aos_operator.attesting import AT_ONCE
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.statement import Attestation
from aos_protocol.fields import parse_message
from aos_protocol.messages import Dispatch
from aos_service.database import create_engine, database_url
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.fake_worker import FakeWorker
from integration.operator.processes import OperatorProcess
from support.enclave_workers import SimulatedEnclave, policy_of
from unit.operator.private import SECRET, private_job
from unit.operator.world import MODEL

NONCE = "5a" * 32


@pytest_asyncio.fixture
async def worker(enclave: SimulatedEnclave, tmp_path: Path) -> AsyncIterator[FakeWorker]:
    async with FakeWorker(enclave).serving(tmp_path / "worker.sock") as serving:
        yield serving


@pytest.fixture
def tee_configuration(configuration: dict[str, Any], worker: FakeWorker) -> dict[str, Any]:
    configuration["node"]["node_type"] = "tee"
    configuration["net"]["worker_url"] = worker.url
    return configuration


@pytest_asyncio.fixture
async def operator(tee_configuration: dict[str, Any], dispatcher: FakeDispatcher) -> AsyncIterator[None]:
    """A connected operator in this process, whose worker is an enclave behind a unix socket."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_operator(OperatorSettings.model_validate(tee_configuration), stop))
        await dispatcher.connected.wait()
        yield
        stop.set()


def attest(dispatcher: FakeDispatcher, **changes: str) -> Any:
    return dispatcher.ask("attest", {"model": MODEL.name, "nonce": NONCE, **changes})


@pytest.mark.usefixtures("operator")
class TestJob:
    async def test_it_is_answered_by_the_enclave(
        self, dispatcher: FakeDispatcher, enclave: SimulatedEnclave
    ) -> None:
        assert dispatcher.connects[0].workers == ["tee"]
        job = dispatcher.world.job(kind="tee")
        await dispatcher.run(job)
        result = await dispatcher.result_of(job)  # the dispatcher has held it against `check_result`
        assert result.enclave is not None
        assert result.enclave["attestation"]["keyset"] == enclave.keyring.current().keyset.to_json()
        assert result.result == "What is AI?"

    async def test_a_private_one_shows_nowhere(
        self, dispatcher: FakeDispatcher, enclave: SimulatedEnclave, tee_configuration: dict[str, Any]
    ) -> None:
        job = private_job(dispatcher.world, enclave)
        with capture_logs() as logs:
            await dispatcher.run(job)
        result = await dispatcher.result_of(job)
        assert (result.transcript, result.reason) == (None, "")
        assert SECRET not in repr(logs)
        assert SECRET not in await stored(tee_configuration, "request::text || outcome::text")

    async def test_a_worker_that_breaks_off_ends_the_job_with_a_reason(
        self, dispatcher: FakeDispatcher, worker: FakeWorker
    ) -> None:
        worker.status, worker.body = 200, b""
        job = dispatcher.world.job(kind="tee")
        await dispatcher.run(job)
        assert "the worker's answer is not JSON" in (await dispatcher.result_of(job)).reason
        assert len(worker.jobs) == 1

    async def test_an_enclave_that_is_full_is_asked_again(
        self, dispatcher: FakeDispatcher, worker: FakeWorker
    ) -> None:
        worker.status = 503
        job = dispatcher.world.job(kind="tee")
        assert (await dispatcher.dispatch(job))["code"] == 200
        while len(worker.jobs) < 2:
            await asyncio.sleep(0.01)
        worker.status = 200
        assert (await dispatcher.result_of(job)).reason == ""


@pytest.mark.usefixtures("operator")
class TestAttestation:
    async def test_it_is_relayed_as_whoever_asked_can_appraise_it(
        self, dispatcher: FakeDispatcher, enclave: SimulatedEnclave
    ) -> None:
        answer = await attest(dispatcher)
        assert (answer["code"], answer["message"]) == (200, "success")
        attestation = parse_message(Attestation, answer["attestation"])
        policy = policy_of(enclave.folder, MODEL)
        found = appraise(attestation, policy, model=MODEL.name, nonce=NONCE, now=attestation.issued_at)
        assert found.kind == "simulated"

    async def test_one_that_takes_long_keeps_nobody_else_waiting(
        self, dispatcher: FakeDispatcher, worker: FakeWorker
    ) -> None:
        worker.go.clear()
        asking = [asyncio.create_task(attest(dispatcher, nonce=f"{n:064x}")) for n in range(AT_ONCE)]
        while len(worker.nonces) < AT_ONCE:
            await asyncio.sleep(0.01)
        refused = await attest(dispatcher)
        assert (refused["code"], "attestations are being made" in refused["message"]) == (429, True)
        assert (await dispatcher.draw(dispatcher.world.job(kind="tee")))["code"] == 200
        worker.go.set()
        assert {(await answer)["code"] for answer in asking} == {200}

    async def test_what_does_not_hold_is_refused(self, dispatcher: FakeDispatcher) -> None:
        other = await attest(dispatcher, model="other.gguf")
        assert (other["code"], other["message"]) == (400, "this operator does not serve model other.gguf")
        assert (await attest(dispatcher, nonce="5a"))["code"] == 400

    async def test_a_worker_without_an_enclave_is_named(
        self, dispatcher: FakeDispatcher, worker: FakeWorker
    ) -> None:
        worker.enclave = None
        answer = await attest(dispatcher)
        assert answer["code"] == 502
        assert answer["message"] == (
            "the worker gives no attestation: Not Found (HTTP 404); is it a tee-worker?"
        )


async def test_without_a_worker_s_url_the_enclave_is_looked_for_on_vsock(
    tee_configuration: dict[str, Any],
) -> None:
    del tee_configuration["net"]["worker_url"]
    tee_configuration["net"] |= {"tee_llm_cid": 4_000_000_000, "tee_llm_port": 70_000}
    stop = asyncio.Event()
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_operator(OperatorSettings.model_validate(tee_configuration), stop))
            while not (waiting := [each for each in logs if each["event"] == "waiting to try again"]):
                await asyncio.sleep(0.02)
            stop.set()
    assert "cannot be reached (vsock 4000000000:70000" in waiting[0]["problem"]


@pytest.mark.usefixtures("_watchful")
async def test_while_the_enclave_is_away_nothing_is_promised(
    tee_configuration: dict[str, Any], dispatcher: FakeDispatcher, enclave: SimulatedEnclave, tmp_path: Path
) -> None:
    """Draws and attestations are declined, a job that was taken ends with a reason, and all is well when it is back."""
    path, stop, world = tmp_path / "away.sock", asyncio.Event(), dispatcher.world
    tee_configuration["net"]["worker_url"] = f"unix://{path}"
    async with asyncio.TaskGroup() as group:
        async with FakeWorker(enclave).serving(path):
            settings = OperatorSettings.model_validate(tee_configuration)
            group.create_task(run_operator(settings, stop))
            await dispatcher.connected.wait()
        path.unlink(missing_ok=True)
        taken = world.job(kind="tee")
        assert (await dispatcher.dispatch(taken))["code"] == 200
        assert "cannot be reached" in (await dispatcher.result_of(taken)).reason
        while (declined := await dispatcher.draw(world.job(kind="tee")))["code"] == 200:
            await asyncio.sleep(0.02)
        assert (declined["code"], "no worker at the moment" in declined["message"]) == (503, True)
        assert (await attest(dispatcher))["code"] == 503
        async with FakeWorker(enclave).serving(path):
            while (await attest(dispatcher))["code"] != 200:
                await asyncio.sleep(0.02)
            job = world.job(kind="tee")
            await dispatcher.run(job)
            assert (await dispatcher.result_of(job)).reason == ""
            stop.set()


async def test_killed_before_it_is_sent_a_result_keeps_the_statement_that_was_stored(
    tee_configuration: dict[str, Any],
    dispatcher: FakeDispatcher,
    worker: FakeWorker,
    enclave: SimulatedEnclave,
    tmp_path: Path,
) -> None:
    """The enclave has other keys by then, and is not asked again."""
    async with OperatorProcess(tmp_path, tee_configuration).running() as process:
        await dispatcher.connected.wait()
        job = await _taken(dispatcher, worker)
        while not (kept := await stored(tee_configuration, "outcome::json ->> 'enclave'")):
            await asyncio.sleep(0.02)
        await process.kill()
        enclave.restart()
        dispatcher.unreachable = False
        process.start()
        result = await dispatcher.result_of(job)
        assert result.enclave is not None
        keyset = result.enclave["attestation"]["keyset"]
        assert keyset["result_key"] in kept
        assert keyset != enclave.keyring.current().keyset.to_json()
        assert len(worker.jobs) == 1
        while not (accepted := said(process, "the dispatcher accepted the result")):
            await asyncio.sleep(0.02)
        assert accepted["attestation"] == "simulated"
        assert said(process, "operator starts")["node_type"] == "tee"


async def _taken(dispatcher: FakeDispatcher, worker: FakeWorker) -> Dispatch:
    """Dispatch a job, and have the dispatcher go away while the enclave runs it."""
    worker.go.clear()
    job = dispatcher.world.job(kind="tee")
    await dispatcher.draw(job)
    await dispatcher.dispatch(job)
    await worker.started.wait()
    dispatcher.unreachable = True
    await dispatcher.drop()
    worker.go.set()
    return job


def said(process: OperatorProcess, event: str) -> dict[str, Any]:
    """The last line of the process's log about this; empty when there is none."""
    lines = [json.loads(line) for line in process.log().splitlines()]
    return next((line for line in reversed(lines) if line["event"] == event), {})


async def stored(configuration: dict[str, Any], what: str) -> str:
    """What the operator's PostgreSQL has of its task; nothing before there is an outcome."""
    url = database_url(configuration["db"]["pg_db_url"])
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    async with engine.connect() as connection:
        found = await connection.execute(text(f"select {what} from tasks where outcome is not null"))
        said = found.scalar_one_or_none()
    await engine.dispose()
    return str(said or "")
