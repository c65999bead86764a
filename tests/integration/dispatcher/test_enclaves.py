"""Jobs of type tee: whose answers are stored, whose are refused and kept, and what is shown and logged of either."""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.fields import parse_message
from aos_protocol.messages import ModelOffer
from aos_tee_worker.simulator import SimulatedDevice, ensure_root
from support import enclaves
from support.lot import drawn
from support.operators import MODEL
from support.tee_operators import TeeOperator, enclave

JOB = {"tag": "tee", "prompt": "What is AI?", "model": MODEL.name, "params": {"max_tokens": 64}}
BUILD = "this checkout"


async def stored(network: Any, job_id: str) -> list[Any]:
    """The appraisals beside a job's results."""
    query = text("select attestation from results where job_id = :job order by created_at")
    async with network.dispatcher.database.connect() as connection:
        return list((await connection.execute(query, {"job": job_id})).scalars())


async def counted(network: Any, kind: str, outcome: str) -> float:
    named = f'aos_attestations_total{{kind="{kind}",outcome="{outcome}"}} '
    lines = (await network.client.get("/metrics")).text.splitlines()
    return sum(float(line.removeprefix(named)) for line in lines if line.startswith(named))


async def test_a_trusted_enclave_s_answer_is_stored_shown_logged_and_counted(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    before = await counted(enclaved, "simulated", "accepted")
    with capture_logs() as logs:
        job_id = await enclaved.submit(job=JOB)
        detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["attestation"], detail["job_type"]) == ("completed", "simulated", "tee")
    (row,) = await enclaved.results(job_id)
    assert (row["operator"], row["attestation"], row["build"]) == (
        operator.signer.address,
        "simulated",
        BUILD,
    )
    (appraisal,) = await stored(enclaved, job_id)
    assert appraisal["kind"] == "simulated"
    assert appraisal["keyset"] == operator.enclave.keyset.digest()
    assert appraisal["policy"] == enclaved.policy.digest()
    assert appraisal["debug"] is False
    (accepted,) = [line for line in logs if line["event"] == "result accepted"]
    assert (accepted["attestation"], accepted["build"]) == ("simulated", BUILD)
    assert await counted(enclaved, "simulated", "accepted") == before + 1
    assert await enclaved.unpassed(job_id) == ["AOS-MATCH-1 SKIP the answer of "
        f"{operator.signer.address}: nobody was asked to score it"]  # fmt: skip
    assert {"AOS-ENCLAVE-1", "AOS-ATTEST-1"} < {check.id for check in await enclaved.checks(job_id)}


async def test_an_opml_answer_has_no_attestation(network: Any) -> None:
    await network.operator()
    job_id = await network.submit()
    assert (await network.finished(job_id))["attestation"] is None
    (row,) = await network.results(job_id)
    assert (row["attestation"], row["build"]) == (None, None)
    async with network.dispatcher.database.connect() as connection:
        empty = await connection.execute(text("select attestation is null from results"))
        assert list(empty.scalars()) == [True]


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
async def test_a_tagged_tee_job_is_verified_besides(enclaved: Any, tag: str) -> None:
    for number in range(1, 4):
        await enclaved.enclave(number)
    job_id = await enclaved.submit(job=JOB, tag=tag)
    detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "match")
    rows = await enclaved.results(job_id)
    assert len(rows) == 3
    said = {(row["signs"], row["attestation"], row["build"]) for row in rows}
    assert said == (
        {("answer", "simulated", BUILD), ("score", None, None)}
        if tag == "suspicion"
        else {("answer", "simulated", BUILD)}
    )
    assert await enclaved.unpassed(job_id) == []


class Device(enclaves.Enclave):
    """An enclave of other hardware than the one that the tests' policy trusts."""

    def __init__(self, folder: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(9, model=MODEL)
        self.root = ensure_root(Path(folder))
        self.device = SimulatedDevice(Path(folder), clock)

    def attest(self, nonce: str) -> dict[str, Any]:
        said = super().attest(nonce)
        keyset, key = bytes.fromhex(self.keyset.digest()), bytes.fromhex(self.keyset.result_key)
        signed = self.device.attest(keyset=keyset, nonce=bytes.fromhex(nonce), result_key=key)
        return said | {
            "document": enclaves.base64.b64encode(signed.document).decode(),
            "issued_at": signed.issued_at,
        }


def _replays(operator: TeeOperator) -> None:
    """The attestation of another job, which is good for that one."""
    stale = operator.enclave.attest("ab" * 32)
    operator.bend_statement = lambda statement: statement | {"attestation": stale}


def _without(operator: TeeOperator) -> None:
    operator.bend_statement = None


def _signed_by_another(operator: TeeOperator) -> None:
    """A host signs by itself, and shows a real enclave's attestation with it."""
    host = enclave(7)
    operator.signs_with = host
    operator.bend_statement = lambda statement: (
        statement | {"attestation": operator.enclave.attest(operator.dispatched[-1].seed)}
    )


def _another_model(operator: TeeOperator) -> None:
    operator.signs_with = enclaves.Enclave(1, model=ModelOffer(name=MODEL.name, sha256="ee" * 32))


def _another_models_name(operator: TeeOperator) -> None:
    operator.signs_with = enclaves.Enclave(1, model=ModelOffer(name="large.gguf", sha256=MODEL.sha256))


def _another_keyset(operator: TeeOperator) -> None:
    """Good hardware, which has signed another keyset than the one that is shown."""
    other = enclave(8)
    operator.signs_with = other

    def swap(statement: dict[str, Any]) -> dict[str, Any]:
        document = operator.enclave.attest(operator.dispatched[-1].seed)["document"]
        return statement | {"attestation": statement["attestation"] | {"document": document}}

    operator.bend_statement = swap


def _another_root(operator: TeeOperator) -> None:
    with tempfile.TemporaryDirectory() as folder:
        operator.signs_with = Device(folder)


def _expired(operator: TeeOperator) -> None:
    operator.signs_with = enclave(1, created_at=enclaves.NOW - 100, expires_at=enclaves.NOW - 90)


def _no_document(operator: TeeOperator) -> None:
    def blank(statement: dict[str, Any]) -> dict[str, Any]:
        return statement | {"attestation": statement["attestation"] | {"document": "AAAA"}}

    operator.bend_statement = blank


def _claims_hardware(operator: TeeOperator) -> None:
    operator.signs_with = enclave(1, kind="nitro")


@pytest.mark.parametrize(
    ("cheat", "kind", "why"),
    [
        (_replays, "simulated", "made for somebody else's question"),
        (_without, "none", "must come with its enclave's statement"),
        (_signed_by_another, "simulated", "not by the enclave's key"),
        (_another_model, "simulated", "keyset is for model"),
        (_another_models_name, "simulated", "keyset is for model"),
        (_another_keyset, "simulated", "binds another keyset"),
        (_another_root, "simulated", "root"),
        (_expired, "simulated", "keyset"),
        (_no_document, "simulated", ""),
        (_claims_hardware, "nitro", "trusts no nitro enclave"),
    ],
)
async def test_what_is_not_trusted_is_refused_and_kept_and_the_next_is_asked(
    enclaved: Any, cheat: Callable[[TeeOperator], None], kind: str, why: str
) -> None:
    bad, before = await enclaved.enclave(1), await counted(enclaved, kind, "refused")
    cheat(bad)
    with capture_logs() as logs:
        job_id = await enclaved.submit(job=JOB)
        await bad.wait(lambda: bool(bad.replies))
        assert bad.replies[0]["code"] == 400
        assert why in bad.replies[0]["message"]
        detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["attestation"]) == ("failed", None)
    assert why in detail["reason"]
    assert await stored(enclaved, job_id) == await enclaved.results(job_id) == []
    (rejection,) = (await enclaved.evidence(job_id))["rejections"]
    assert rejection["operator"] == bad.signer.address
    assert why in rejection["reason"]
    assert json.loads(rejection["frame"])["method"] == "job_result"
    (refused,) = [line for line in logs if line["event"] == "attestation refused"]
    assert (refused["attestation"], refused["operator"]) == (kind, bad.signer.address)
    assert await counted(enclaved, kind, "refused") == before + 1
    await _is_replaced(enclaved, bad)


async def _is_replaced(network: Any, bad: TeeOperator) -> None:
    """A good enclave beside a bad one answers every job, also one that the bad one is drawn for first."""
    good = await network.enclave(2)
    asked = len(bad.dispatched)
    for first in (bad, good):
        job_id = await drawn(network, lambda lot, first=first: lot.executor == first.signer.address, job=JOB)
        assert (await network.finished(job_id))["status"] == "completed"
        answers = [row for row in await network.results(job_id) if row["signs"] == "answer"]
        assert [row["operator"] for row in answers] == [good.signer.address]
        failing = [line for line in await network.unpassed(job_id) if not line.startswith("AOS-MATCH-1")]
        assert failing == []
    assert len(bad.dispatched) > asked


async def test_a_statement_beside_an_opml_answer_is_refused(network: Any) -> None:
    operator = await network.operator()
    statement = {"attestation": enclave(1).attest("ab" * 32), "signature": "0" * 130}

    def state(said: dict[str, Any]) -> dict[str, Any]:
        signed: dict[str, Any] = operator.signed(said | {"enclave": statement}, operator.dispatched[-1])
        return signed

    operator.bend_result = state
    job_id = await network.submit()
    detail = await network.finished(job_id)
    assert detail["status"] == "failed"
    assert "only an answer to a tee job" in detail["reason"]
    assert await stored(network, job_id) == []


def changed(**entry: Any) -> AttestationPolicy:
    """The tests' policy, with changes to its entry of the model."""
    document = enclaves.policy(MODEL.name).to_json()
    document["models"][MODEL.name] |= entry
    return parse_message(AttestationPolicy, document)


def _hardware_only() -> AttestationPolicy:
    document = enclaves.policy(MODEL.name).to_json()
    simulated = document["models"][MODEL.name].pop("simulated")
    document["models"][MODEL.name] |= {"nitro": {"builds": simulated["builds"]}}
    return parse_message(AttestationPolicy, document | {"allow_simulated": False})


def _other_build() -> AttestationPolicy:
    document = enclaves.policy(MODEL.name).to_json()
    document["models"][MODEL.name]["simulated"]["builds"][0]["measurements"]["pcr0"] = "ab" * 48
    return parse_message(AttestationPolicy, document)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (_hardware_only, "the enclave is simulated, which proves nothing"),
        (_other_build, "runs no build that the policy trusts: pcr0"),
    ],
)
async def test_a_stricter_policy_refuses_the_same_enclave(
    enclaved: Any, policy: Callable[[], AttestationPolicy], why: str
) -> None:
    await enclaved.rule(policy())
    await enclaved.enclave(1)
    job_id = await enclaved.submit(job=JOB)
    detail = await enclaved.finished(job_id)
    assert detail["status"] == "failed"
    assert why in detail["reason"]
    assert await stored(enclaved, job_id) == []


async def test_an_attestation_that_is_too_old_is_refused(enclaved: Any, tmp_path: Path) -> None:
    operator = await enclaved.enclave(1)
    late = Device(str(tmp_path), lambda: time.time() - 300)
    trusted = changed(maximum_age=120).to_json()
    trusted["models"][MODEL.name]["simulated"]["roots"] = [late.root]
    await enclaved.rule(parse_message(AttestationPolicy, trusted))
    operator.url, operator.signs_with = enclaved.ws, late
    assert (await operator.connect())["code"] == 200
    job_id = await enclaved.submit(job=JOB)
    detail = await enclaved.finished(job_id)
    assert (detail["status"], await stored(enclaved, job_id)) == ("failed", [])
    assert "s old, and the policy allows 120" in detail["reason"]
    late.device._clock = time.time
    operator._made.clear()
    assert (await enclaved.finished(await enclaved.submit(job=JOB, user="later")))["status"] == "completed"


async def test_a_dispatcher_that_lost_its_policy_believes_nobody(enclaved: Any) -> None:
    operator = await enclaved.enclave(1, connect=False)
    job_id = await enclaved.submit(job=JOB)
    await enclaved.rule(None)
    operator.url = enclaved.ws
    await operator.connect()
    detail = await enclaved.finished(job_id)
    assert detail["status"] == "failed"
    assert "has no attestation policy (any more)" in detail["reason"]


async def submitted(network: Any, job: dict[str, Any]) -> tuple[int, str]:
    answer = await network.client.post("/api/job/submit", json=network.body(job=job))
    return answer.status_code, answer.json().get("message", "")


async def test_jobs_that_no_enclave_could_answer_are_refused_at_once(enclaved: Any) -> None:
    await enclaved.enclave(1)
    body = {**JOB, "model": "large.gguf"}
    assert (await submitted(enclaved, body))[0] == 422
    await enclaved.rule(enclaves.policy("large.gguf"))
    code, said = await submitted(enclaved, JOB)
    assert (code, said) == (
        422,
        "the dispatcher's attestation policy has no entry for model tiny.gguf; there is: large.gguf",
    )
    await enclaved.rule(changed(sha256="ee" * 32))
    code, said = await submitted(enclaved, JOB)
    assert code == 422
    assert MODEL.sha256 in said
    assert "ee" * 32 in said
    await enclaved.rule(None)
    code, said = await submitted(enclaved, JOB)
    assert code == 422
    assert "has no attestation policy, so it takes no tee jobs" in said
    await enclaved.rule(changed(sha256=MODEL.sha256))
    assert (await submitted(enclaved, JOB))[0] == 200


async def test_a_result_sent_again_and_a_restart_appraise_nothing_again(
    enclaved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await enclaved.enclave(1), await enclaved.enclave(2)
    for operator in (first, second):
        operator.scores = False
    job_id = await enclaved.submit(job=JOB, tag="suspicion")
    async with asyncio.timeout(45):
        while not (first.called or second.called):
            await asyncio.sleep(0.01)
    executor = second if first.called else first
    await executor.wait(lambda: bool(executor.replies))
    monkeypatch.setattr("aos_dispatcher.enclaves.appraise", _never)
    await executor.send_result(executor.dispatched[0])
    await executor.wait(lambda: len(executor.replies) > 1)
    assert executor.replies[-1]["code"] == 200
    enclaved.patient()
    await enclaved.rule(enclaved.policy)
    for operator in (first, second):
        operator.url, operator.scores = enclaved.ws, True
        await operator.connect()
    detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["attestation"]) == ("completed", "simulated")
    assert await enclaved.unpassed(job_id) == []


def _never(*_arguments: Any, **_named: Any) -> None:
    raise AssertionError("what was appraised is appraised again")


async def test_an_enclaves_answer_can_be_challenged_like_any_other(enclaved: Any) -> None:
    operators = [await enclaved.enclave(number) for number in (1, 2, 3, 4)]
    job_id = await enclaved.submit(job=JOB)
    await enclaved.finished(job_id)
    (row,) = [row for row in await enclaved.results(job_id) if row["role"] == "executor"]
    plea = {"job_id": job_id, "operator": row["operator"], "verify": enclaved.token}
    assert (await enclaved.post("/api/job/challenge", plea)).status_code == 200
    detail = await enclaved.closed(job_id, 2)
    assert (detail["verdict"]["outcome"], detail["attestation"]) == ("match", "simulated")
    judges = {member["operator"] for member in detail["rounds"][1]["members"]}
    assert judges == {operator.signer.address for operator in operators} - {row["operator"]}
    assert await enclaved.unpassed(job_id) == []


async def test_earlier_jobs_of_a_tagged_user_are_attested_again(enclaved: Any) -> None:
    for number in (1, 2, 3):
        await enclaved.enclave(number)
    earlier = await enclaved.submit(job=JOB)
    await enclaved.finished(earlier)
    await enclaved.submit(job=JOB, tag="suspicion")
    detail = await enclaved.closed(earlier, 2)
    assert [look["purpose"] for look in detail["rounds"]] == ["job", "before"]
    assert [appraisal["kind"] for appraisal in await stored(enclaved, earlier)] == ["simulated"] * 2
    ids = [check.id for check in await enclaved.checks(earlier)]
    assert (ids.count("AOS-ENCLAVE-1"), ids.count("AOS-ATTEST-1")) == (2, 2)
    failing = [line for line in await enclaved.unpassed(earlier) if not line.startswith("AOS-MATCH-1 SKIP")]
    assert failing == []


async def test_a_claim_is_scored_in_enclaves_and_needs_no_attestation(enclaved: Any) -> None:
    await enclaved.enclave(1)
    job_id = await enclaved.submit(job={**JOB, "claim": {"output_tokens": [4, 5, 6]}})
    detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["attestation"]) == ("completed", None)
    assert {check.id for check in await enclaved.checks(job_id)} & {"AOS-ENCLAVE-1", "AOS-ATTEST-1"} == set()
    assert [line for line in await enclaved.unpassed(job_id) if " FAIL " in line] == []


async def test_an_auditor_without_a_policy_sees_the_kind_and_a_skip(enclaved: Any) -> None:
    await enclaved.enclave(1)
    job_id = await enclaved.submit(job=JOB)
    await enclaved.finished(job_id)
    enclaved.policy = None
    (skipped,) = [line for line in await enclaved.unpassed(job_id) if line.startswith("AOS-ATTEST-1")]
    assert skipped.startswith("AOS-ATTEST-1 SKIP no attestation policy was given")
    assert "SIMULATED" in skipped
