"""Prompts that only enclaves can read: who is asked, what nobody may do with such a job, and what its evidence shows."""

import asyncio
import itertools
from typing import Any

import pytest
from sqlalchemy import text

from aos_protocol.job import Params
from aos_protocol.sealing import SealingKey, open_answer, seal_prompt
from support.operators import MODEL
from support.tee_operators import TeeOperator

PROMPT = {"prompt": "What is the airspeed of an unladen swallow?"}
USER = "device 1"
OPEN = {"tag": "tee", "prompt": "What is AI?", "model": MODEL.name}


def sealed_job(key: SealingKey, *operators: TeeOperator) -> dict[str, Any]:
    """A job sealed to these operators' enclaves."""
    readers = [(operator.signer.address, operator.enclave.keyset) for operator in operators]
    sealed = seal_prompt(PROMPT, (MODEL.name, Params()), key.public, readers)
    return {"tag": "tee", "sealed": sealed.to_json(), "model": MODEL.name}


async def unpassed(network: Any, job_id: str) -> list[str]:
    """The checks that do not pass; a sealed job has none that is skipped."""
    checks = await network.checks(job_id)
    assert not {"AOS-MATCH-1", "AOS-TRANSCRIPT-1", "AOS-SCORE-1", "AOS-VERDICT-1"} & {c.id for c in checks}
    assert {"AOS-ENCLAVE-1", "AOS-ATTEST-1", "AOS-AUDIT-1", "AOS-COMPLETE-1"} < {c.id for c in checks}
    return [f"{check.id} {check.status} {check.what}" for check in checks if check.status != "PASS"]


async def electorate(network: Any, job_id: str) -> set[str]:
    (round_,) = (await network.evidence(job_id))["rounds"]
    return {elector["operator"] for elector in round_["electorate"]}


async def test_a_sealed_job_is_run_by_one_of_its_readers_and_only_its_key_opens_the_answer(
    enclaved: Any,
) -> None:
    readers = [await enclaved.enclave(number) for number in (1, 2)]
    await enclaved.enclave(3)
    key = SealingKey()
    job = sealed_job(key, *readers)
    job_id = await enclaved.submit(job=job)
    detail = await enclaved.finished(job_id)
    assert (detail["status"], detail["attestation"], detail["verdict"]) == ("completed", "simulated", None)
    assert [look["purpose"] for look in detail["rounds"]] == ["job"]
    (row,) = await enclaved.results(job_id)
    (ran,) = [reader for reader in readers if reader.opened]
    assert (row["operator"], row["role"]) == (ran.signer.address, "executor")
    assert ran.opened == [PROMPT]
    where = {"prover": row["operator"], "keyset": ran.enclave.keyset.digest()}
    seed = (await enclaved.evidence(job_id))["seed"]["value"]
    opened = open_answer(key, row["result"], ran.dispatched[0].job.sealed, seed=seed, **where)
    assert opened["text"] == ran.answer
    assert await electorate(enclaved, job_id) == {reader.signer.address for reader in readers}
    assert await unpassed(enclaved, job_id) == []


async def test_neither_prompt_nor_answer_stands_anywhere_in_the_database(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    operator.answer = "About eleven metres a second, African or European."
    await enclaved.finished(await enclaved.submit(job=sealed_job(SealingKey(), operator)))
    async with enclaved.dispatcher.database.connect() as connection:
        tables = text("select table_name from information_schema.tables where table_schema = 'public'")
        dump = ""
        for (table,) in (await connection.execute(tables)).all():
            rows = await connection.execute(text(f'select cast(t as text) from "{table}" as t'))
            dump += "\n".join(rows.scalars())
    assert operator.signer.address in dump
    assert operator.opened == [PROMPT]
    for secret in (PROMPT["prompt"], operator.answer, "unladen", "African"):
        assert secret not in dump


async def test_one_reader_works_alone_also_where_the_draw_selects_several(enclaved: Any) -> None:
    """With three operators, each has a third of the range: in every fourth draw two tickets are below their thresholds."""
    readers = [await enclaved.enclave(number) for number in (1, 2, 3)]
    for attempt in itertools.count():
        job_id = await enclaved.submit(job=sealed_job(SealingKey(), *readers), user=f"user {attempt}")
        await enclaved.finished(job_id)
        (round_,) = (await enclaved.evidence(job_id))["rounds"]
        assert len(round_["committee"]) == len(await enclaved.results(job_id)) == 1
        assert await unpassed(enclaved, job_id) == []
        if sum('"selected":true' in elector["frame"] for elector in round_["electorate"]) > 1:
            break


async def test_a_reserve_that_was_selected_takes_the_place_of_a_lost_reader(enclaved: Any) -> None:
    """The second of the draw is no filler when its own ticket selects it, although the first was seated alone."""
    readers = [await enclaved.enclave(number) for number in (1, 2, 3)]
    for attempt in itertools.count():
        job_id = await enclaved.submit(job=sealed_job(SealingKey(), *readers), user=f"user {attempt}")
        for reader in readers:
            reader.reason = "the enclave was restarted"
        await enclaved.finished(job_id)
        seats = (await enclaved.evidence(job_id))["rounds"][0]["committee"]
        assert [seat["state"] for seat in seats] == ["refused"] * 3
        assert await _failing(enclaved, job_id) == []
        if not seats[1]["filled"]:
            break


async def _failing(network: Any, job_id: str) -> list[str]:
    return [f"{check.id} {check.what}" for check in await network.checks(job_id) if check.status == "FAIL"]


@pytest.mark.parametrize("audit_share", [1.0])
async def test_a_lost_enclave_is_replaced_by_the_next_reader_and_nothing_is_audited(
    enclaved: Any, audit_share: float
) -> None:
    await enclaved.restart(audit_share=audit_share)
    readers = [await enclaved.enclave(number) for number in (1, 2)]
    readers[0].reason = "the enclave was restarted: connection refused"
    for attempt in itertools.count():
        job_id = await enclaved.submit(job=sealed_job(SealingKey(), *readers), user=f"user {attempt}")
        detail = await enclaved.finished(job_id)
        assert detail["status"] == "completed"
        assert [look["purpose"] for look in detail["rounds"]] == ["job"]
        (row,) = await enclaved.results(job_id)
        assert row["operator"] == readers[1].signer.address
        assert await unpassed(enclaved, job_id) == []
        if len(detail["rounds"][0]["members"]) == 2:  # it began with the lost one
            break


async def test_only_strangers_connected_is_nobody_to_ask(enclaved: Any) -> None:
    absent = await enclaved.enclave(1, connect=False)
    stranger = await enclaved.enclave(2)
    job_id = await enclaved.submit(job=sealed_job(SealingKey(), absent))
    await absent.connect()
    assert (await enclaved.finished(job_id))["status"] == "completed"
    assert stranger.dispatched == []
    assert await electorate(enclaved, job_id) == {absent.signer.address}


async def test_a_sealed_job_that_nobody_can_read_in_time_says_for_whom_it_was(enclaved: Any) -> None:
    absent = await enclaved.enclave(1, connect=False)
    await enclaved.enclave(2)
    enclaved.dispatcher.jobs._timeout *= 0.02
    detail = await enclaved.finished(await enclaved.submit(job=sealed_job(SealingKey(), absent)))
    assert detail["status"] == "failed"
    assert detail["reason"].endswith(f"its prompt is sealed to enclaves of {absent.signer.address}")


async def submitted(network: Any, **changes: Any) -> tuple[int, str]:
    answer = await network.client.post("/api/job/submit", json=network.body(**changes))
    return answer.status_code, answer.json().get("message", "")


async def test_a_sealed_job_has_no_tag(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    code, said = await submitted(enclaved, job=sealed_job(SealingKey(), operator), tag="suspicion")
    assert (code, said) == (
        422,
        "tag: nobody could verify a sealed prompt, so it cannot have one; send the prompt unsealed, or without a tag",
    )


async def test_a_tagged_user_cannot_seal_until_the_tag_is_lifted(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    tagged = await enclaved.submit(job=OPEN, user=USER, tag="suspicion")
    code, said = await submitted(enclaved, job=sealed_job(SealingKey(), operator), user=USER)
    assert code == 409
    assert f"the user is tagged 'suspicion' by job {tagged}, for 10 more jobs" in said
    assert (await submitted(enclaved, job=sealed_job(SealingKey(), operator), user="another"))[0] == 200
    for left in range(10, 0, -1):
        assert (
            f"for {left} more jobs"
            in (await submitted(enclaved, job=sealed_job(SealingKey(), operator), user=USER))[1]
        )
        assert (await submitted(enclaved, job=OPEN, user=USER))[0] == 200
    assert (await submitted(enclaved, job=sealed_job(SealingKey(), operator), user=USER))[0] == 200


async def test_a_refused_one_among_many_costs_no_number_and_no_other_job(enclaved: Any) -> None:
    """All of these may come in one batch; the sequence has no gap for what was refused."""
    operator = await enclaved.enclave(1)
    await enclaved.submit(job=OPEN, user=USER, tag="malicious")
    job = sealed_job(SealingKey(), operator)
    asked = [submitted(enclaved, job=job if n % 3 == 0 else OPEN, user=USER) for n in range(9)]
    codes = [code for code, _ in await asyncio.gather(*asked)]
    assert codes == [409 if n % 3 == 0 else 200 for n in range(9)]
    async with enclaved.dispatcher.database.connect() as connection:
        numbers = await connection.execute(text("select sequence from jobs order by sequence"))
        assert list(numbers.scalars()) == list(range(1, 8))
    assert (await submitted(enclaved, job=job, user="another"))[0] == 200


async def test_a_key_that_was_refused_may_be_used_again(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    await enclaved.submit(job=OPEN, user=USER, tag="suspicion")
    key = {"headers": {"Idempotency-Key": "one"}}
    body = enclaved.body(job=sealed_job(SealingKey(), operator), user=USER)
    twice = await asyncio.gather(
        *(enclaved.client.post("/api/job/submit", json=body, **key) for _ in range(2))
    )
    assert [answer.status_code for answer in twice] == [409, 409]
    other = await enclaved.client.post("/api/job/submit", json=body | {"user": "another"}, **key)
    assert other.status_code == 200


async def test_a_tag_reaches_past_sealed_jobs_and_leaves_them_alone(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    earlier = await enclaved.submit(job=OPEN, user=USER)
    sealed = [await enclaved.submit(job=sealed_job(SealingKey(), operator), user=USER) for _ in range(10)]
    await enclaved.submit(job=OPEN, user=USER, tag="suspicion")
    detail = await enclaved.closed(earlier, 2)
    assert [look["purpose"] for look in detail["rounds"]] == ["job", "before"]
    for job_id in sealed:
        assert [look["purpose"] for look in (await enclaved.finished(job_id))["rounds"]] == ["job"]


async def test_a_sealed_answer_cannot_be_challenged(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    job_id = await enclaved.submit(job=sealed_job(SealingKey(), operator))
    await enclaved.finished(job_id)
    plea = {"job_id": job_id, "operator": operator.signer.address, "verify": enclaved.token}
    answer = await enclaved.post("/api/job/challenge", plea)
    assert answer.status_code == 422
    assert "only the enclave could read what there is to score" in answer.json()["message"]


async def test_an_answer_of_an_enclave_that_had_no_box_is_refused(enclaved: Any) -> None:
    reader, other = await enclaved.enclave(1), await enclaved.enclave(2)
    reader.signs_with = other.enclave
    job_id = await enclaved.submit(job=sealed_job(SealingKey(), reader))
    detail = await enclaved.finished(job_id)
    assert detail["status"] == "failed"
    assert "sealed" in detail["reason"]
    assert await enclaved.results(job_id) == []


async def test_a_transcript_in_the_open_is_refused(enclaved: Any) -> None:
    """An operator has nothing to show of a sealed prompt; if it has, something is not as it says."""
    reader = await enclaved.enclave(1)
    reader.bend_result = lambda said: said | {"transcript": {"rule": 1}}
    job_id = await enclaved.submit(job=sealed_job(SealingKey(), reader))
    detail = await enclaved.finished(job_id)
    assert detail["status"] == "failed"
    assert "belongs inside the sealed answer" in detail["reason"]
