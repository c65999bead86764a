"""One job's way through a dispatcher: committees, replacements, ends, restarts."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from aos_dispatcher.errors import Unavailable
from aos_dispatcher.operators import pin_model
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer
from support.disputes import gone
from support.lot import Lot, drawn
from support.operators import MODEL, ScriptedOperator

UNSCORED = "nobody was asked to score it"


async def failed_checks(network: Any, job_id: str) -> list[str]:
    """The checks on the job's evidence that do not pass, but for a verdict where nobody was to verify."""
    return [check for check in await network.unpassed(job_id) if UNSCORED not in check]


@pytest.mark.parametrize(("tag", "members"), [("", 1), ("suspicion", 3), ("malicious", 5)])
async def test_a_tag_sets_the_committee_and_everything_checks(network: Any, tag: str, members: int) -> None:
    for _ in range(6):
        await network.operator()
    job_id = await network.submit(tag=tag)
    detail = await network.finished(job_id)
    assert (detail["status"], detail["reason"]) == ("completed", "")
    rows = await network.results(job_id)
    assert len(rows) >= members
    assert len({row["operator"] for row in rows}) == len(rows)
    assert await failed_checks(network, job_id) == []


async def test_a_row_shows_the_published_fields(network: Any) -> None:
    operator = await network.operator()
    job_id = await network.submit()
    detail = await network.finished(job_id)
    (row,) = await network.results(job_id)
    assert row["id"] == f"{operator.signer.address}_{job_id}_"
    assert (row["job_id"], row["operator"], row["result"]) == (
        job_id,
        operator.signer.address,
        "a sensible answer",
    )
    assert set(row["vrf"]) == {
        "selected", "vrf_prompt_hash", "vrf_random_value", "vrf_verify_pubkey", "vrf_proof",
    }  # fmt: skip
    assert row["vrf"]["vrf_verify_pubkey"] == operator.signer.public_key.hex()
    assert set(row["clock"]) == {"1", "2"}
    assert (row["job_type"], row["tag"], len(row["signature"])) == ("opml", "", 130)
    assert detail["id"] == job_id
    assert detail["job"] == network.body()["job"]
    assert (detail["job_type"], detail["tag"], detail["user"]) == ("opml", "", network.body()["user"])
    for moment in (row["created_at"], detail["created_at"], detail["finished_at"]):
        assert len(moment) == len("2024-09-27 03:36:04")


async def test_a_job_waits_for_an_operator_that_comes_late(network: Any) -> None:
    await network.operator()
    (first,) = network.operators
    await first.close()
    await gone(network)
    job_id = await network.submit()
    assert (await network.detail(job_id))["status"] == "created"
    late = await network.operator(signer=first.signer)
    assert (await network.finished(job_id))["status"] == "completed"
    assert late.dispatched


async def test_a_job_without_operators_fails_at_its_deadline_and_says_why(network: Any) -> None:
    operator = await network.operator()
    await operator.close()
    await network.stop()
    network.settings = network.settings.model_copy(
        update={"dispatch": network.settings.dispatch.model_copy(update={"job_timeout": 0.5})}
    )
    await network.start()
    detail = await network.finished(await network.submit())
    assert detail["status"] == "failed"
    assert "no operator that serves tiny.gguf" in detail["reason"]


async def committee_of_three(
    network: Any, operators: list[ScriptedOperator]
) -> tuple[str, list[ScriptedOperator]]:
    """Submit a job whose draw seats three of the four; their order.

    The executor was called, and keeps its answer to itself.
    """
    for operator in operators:
        operator.answer = None
    seated: list[str] = []

    def three(lot: Lot) -> bool:
        seated[:] = lot.ranking[: lot.size]
        return lot.size == 3

    job_id = await drawn(network, three, tag="suspicion")
    by_address = {operator.signer.address: operator for operator in operators}
    members = [by_address[address] for address in seated]
    await members[0].wait(lambda: bool(members[0].dispatched))
    return job_id, members


async def test_a_verifier_that_leaves_is_replaced_by_the_next_in_the_draw(network: Any) -> None:
    operators = [await network.operator() for _ in range(4)]
    job_id, (executor, other, leaver) = await committee_of_three(network, operators)
    await leaver.close()
    await executor.send_result(executor.dispatched[0])
    (reserve,) = set(operators) - {leaver, executor, other}
    await reserve.wait(lambda: any(call.job_id == job_id for call in reserve.called))
    assert (await network.finished(job_id))["status"] == "completed"
    seats = (await network.evidence(job_id))["rounds"][0]["committee"]
    states = {seat["operator"]: seat["state"] for seat in seats}
    assert states.pop(leaver.signer.address) == "lost"
    assert set(states.values()) == {"answered"}
    assert seats[-1]["operator"] == reserve.signer.address
    assert await failed_checks(network, job_id) == []


async def test_when_the_executor_leaves_the_next_in_the_draw_executes(network: Any) -> None:
    operators = [await network.operator() for _ in range(4)]
    job_id, (leaver, second, third) = await committee_of_three(network, operators)
    second.answer = "I do it, then"
    await leaver.close()
    detail = await network.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "match")
    rows = {row["operator"]: row for row in await network.results(job_id)}
    assert leaver.signer.address not in rows
    assert (rows[second.signer.address]["role"], rows[second.signer.address]["result"]) == (
        "executor",
        "I do it, then",
    )
    assert rows[third.signer.address]["role"] == "verifier"
    assert second.dispatched[0].role == "executor"
    assert await failed_checks(network, job_id) == []


async def test_a_refusal_is_replaced_and_kept(network: Any) -> None:
    operators = [await network.operator() for _ in range(3)]
    for operator in operators:
        operator.reason = "the prompt does not fit"
    job_id = await network.submit()
    detail = await network.finished(job_id)
    assert detail["status"] == "failed"
    assert "the prompt does not fit" in detail["reason"]
    assert "nobody is left to ask" in detail["reason"]
    document = await network.evidence(job_id)
    assert len(document["rejections"]) == 3
    assert await network.results(job_id) == []


async def test_a_returning_member_is_dispatched_to_again(network: Any) -> None:
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    network.patient()
    await operator.close()
    back = ScriptedOperator(operator.signer, network.ws)
    network.operators.append(back)
    assert (await back.connect())["code"] == 200
    assert (await network.finished(job_id))["status"] == "completed"
    assert back.dispatched[0].job_id == job_id


async def test_a_second_connection_replaces_the_first(network: Any) -> None:
    operator = await network.operator()
    again = await network.operator(signer=operator.signer)
    assert "replaced" in await operator.closed()
    assert (await network.finished(await network.submit()))["status"] == "completed"
    assert again.dispatched


async def test_a_restarted_dispatcher_goes_on_where_it_was(network: Any) -> None:
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    dispatched = operator.dispatched[0]
    network.patient()
    await network.stop()
    await network.start()
    back = ScriptedOperator(operator.signer, network.ws)
    back.counter = operator.counter
    network.operators.append(back)
    await back.connect()
    # Nothing is drawn again.
    assert (await network.finished(job_id))["status"] == "completed"
    assert back.dispatched[0].clock == dispatched.clock
    assert await failed_checks(network, job_id) == []


async def test_cancelling_tells_the_members_and_needs_the_token(network: Any) -> None:
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    assert (await network.post("/api/job/cancel", {"job_id": job_id})).status_code == 401
    bearer = {"Authorization": f"Bearer {network.token}"}
    answer = await network.post("/api/job/cancel", {"job_id": job_id}, headers=bearer)
    assert answer.json() == {"code": 200, "result": "cancelled"}
    await operator.wait(lambda: bool(operator.cancelled))
    assert operator.cancelled == [{"job_id": job_id, "tag": "", "challenge": 0}]
    assert (await network.detail(job_id))["status"] == "cancelled"
    again = await network.post("/api/job/cancel", {"job_id": job_id}, headers=bearer)
    assert again.json() == {"code": 200, "result": "cancelled"}
    await operator.send_result(operator.dispatched[0])
    await operator.wait(lambda: bool(operator.replies))
    assert operator.replies[-1]["code"] == 400


async def test_a_model_name_stands_for_one_file(network: Any) -> None:
    await network.operator()
    other = ModelOffer(name=MODEL.name, sha256="ab" * 32)
    stranger = await network.operator(connect=False)
    stranger.models = [other]
    refusal = await stranger.connect()
    assert refusal["code"] == 400
    assert MODEL.sha256 in refusal["message"]
    await pin_model(network.dispatcher.database, "opml", other)
    welcome = ScriptedOperator(stranger.signer, network.ws, [other])
    network.operators.append(welcome)
    assert (await welcome.connect())["code"] == 200
    await network.submit()
    await welcome.wait(lambda: bool(welcome.dispatched))
    assert welcome.dispatched[0].model == other


async def test_an_operator_that_is_not_registered_is_told_what_to_do(network: Any) -> None:
    stranger = ScriptedOperator(Signer.generate(), network.ws)
    network.operators.append(stranger)
    refusal = await stranger.connect()
    assert refusal["code"] == 400
    assert f"dispatcher operator add {stranger.signer.address}" in refusal["message"]


async def at_work(network: Any) -> None:
    """Wait until the dispatcher has taken a round up."""
    async with asyncio.timeout(30):
        while not network.dispatcher.loop._driver.active:
            await asyncio.sleep(0.01)


async def leases_run_out(network: Any) -> None:
    """Wait until nobody works on a round, and let the leases run out that are still kept, now and not in some seconds."""
    async with asyncio.timeout(30):
        while network.dispatcher.loop.held:
            await asyncio.sleep(0.01)
    async with network.dispatcher.database.begin() as connection:
        ended = await connection.execute(
            text("update rounds set lease_until = now() where lease_owner is not null")
        )
    assert ended.rowcount == 1
    network.dispatcher.loop.wake()


async def test_a_database_that_is_away_in_the_middle_of_a_round_costs_no_job(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await network.operator(), await network.operator()
    first.reason = second.reason = "not today"
    settle, away = network.dispatcher.store.settle, [True]

    async def settle_later(*said: Any) -> None:
        if away:
            away.clear()
            first.reason = second.reason = ""
            raise Unavailable
        await settle(*said)

    monkeypatch.setattr(network.dispatcher.store, "settle", settle_later)
    job_id = await network.submit()
    async with asyncio.timeout(30):
        while away:
            await asyncio.sleep(0.01)
    await leases_run_out(network)
    # The lease runs out, the round is taken up again from what was stored, and its members are asked again.
    assert (await network.finished(job_id))["status"] == "completed"


async def test_an_answer_that_was_stored_when_the_database_went_away_is_not_waited_for_again(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await network.operator()
    store, lost = network.dispatcher.store.executed, [True]

    async def stored_but_not_told(*said: Any, **more: Any) -> None:
        await store(*said, **more)
        if lost:
            lost.clear()
            raise Unavailable

    monkeypatch.setattr(network.dispatcher.store, "executed", stored_but_not_told)
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.replies))
    await leases_run_out(network)
    assert (await network.finished(job_id))["status"] == "completed"
    assert (len(await network.results(job_id)), lost) == (1, [])
    assert operator.replies[-1]["code"] == 503
    assert await failed_checks(network, job_id) == []


async def test_a_round_that_another_dispatcher_took_over_is_left_alone(network: Any) -> None:
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(
            text("update rounds set lease_owner = 'another', lease_until = now() + interval '1 hour'")
        )
    await operator.send_result(operator.dispatched[0])
    await operator.wait(lambda: bool(operator.replies))
    assert operator.replies[0]["code"] == 503
    assert (await network.detail(job_id))["status"] == "dispatched"
    assert await network.results(job_id) == []


async def test_an_executor_lost_across_a_restart_is_replaced_and_the_evidence_says_so(network: Any) -> None:
    operators = [await network.operator() for _ in range(4)]
    job_id, (leaver, *_others) = await committee_of_three(network, operators)
    network.patient()
    await network.stop()
    await network.start()
    for operator in set(operators) - {leaver}:
        back = ScriptedOperator(operator.signer, network.ws)
        back.counter = operator.counter
        network.operators.append(back)
        await back.connect()
    await at_work(network)
    network.patient(0.01)
    assert (await network.finished(job_id))["status"] == "completed"
    seats = (await network.evidence(job_id))["rounds"][0]["committee"]
    assert {seat["operator"]: seat["state"] for seat in seats}[leaver.signer.address] == "lost"
    assert len(await network.results(job_id)) == 3
    assert await failed_checks(network, job_id) == []
