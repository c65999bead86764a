"""Disputes from end to end: a mismatch, the second look, the finding with its step, suspension, and the appeal."""

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from aos_protocol.evidence import check_evidence, round_views
from aos_protocol.score_document import Score
from aos_protocol.transcript import StepProof
from support.disputes import signed_challenge
from support.lot import drawn
from support.operators import ScriptedOperator

BAD_STEP = 5


async def crew(network: Any, count: int) -> list[ScriptedOperator]:
    return [await network.operator() for _ in range(count)]


async def caught(network: Any, cheat: ScriptedOperator) -> str:
    """Have the cheat execute a verified job, in which it is found out; that job's id, once the second look is over."""
    cheat.cheats_from = BAD_STEP
    job_id = await drawn(network, lambda lot: lot.executor == cheat.signer.address, tag="suspicion")
    await network.closed(job_id, 2)
    return job_id


async def standing(network: Any, operator: ScriptedOperator) -> dict[str, Any]:
    answer = await network.client.get(f"/api/operator/standing/{operator.signer.address}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["result"]
    return found


async def test_a_mismatch_is_looked_at_again_and_becomes_a_finding_with_its_step(network: Any) -> None:
    operators = await crew(network, 6)
    job_id = await caught(network, cheat := operators[0])
    detail = await network.detail(job_id)
    own, again = detail["rounds"]
    assert (own["verdict"], again["verdict"]) == ("mismatch", "mismatch")
    assert (again["purpose"], again["challenge"], again["tag"], again["position"]) == (
        "challenge",
        1,
        "suspicion",
        "after",
    )
    assert again["result"] == f"{cheat.signer.address}_{job_id}_suspicion"
    assert cheat.signer.address not in {member["operator"] for member in again["members"]}
    assert {member["role"] for member in again["members"]} == {"verifier"}
    assert detail["verdict"]["outcome"] == "mismatch"
    assert detail["final"] is True
    found = await standing(network, cheat)
    assert found["standing"] == "good"
    (fraud,) = found["frauds"]
    assert (fraud["job_id"], fraud["step"], fraud["status"]) == (job_id, BAD_STEP, "upheld")
    proof = dict(fraud["proof"])
    document = await network.evidence(job_id)
    commitment = round_views(document)[0].subject.digest
    assert proof.pop("commitment") == commitment
    StepProof.model_validate(proof).check(commitment)
    checks = check_evidence(document, dispatcher=network.signer.address, job_id=job_id)
    assert {check.id for check in checks if check.status == "FAIL"} == {"AOS-MATCH-1"}
    assert [check.status for check in checks if check.id == "AOS-CHALLENGE-1"] == ["PASS", "PASS"]
    assert document["rounds"][1]["plea"]["by"] == "dispatcher"


async def test_a_challenges_committee_is_drawn_on_a_seed_of_its_own(network: Any) -> None:
    operators = await crew(network, 6)
    job_id = await caught(network, operators[0])
    document = await network.evidence(job_id)
    own, again = document["rounds"]
    assert own["seed"] is None
    assert again["seed"]["value"] != document["seed"]["value"]
    calls = [
        call for operator in operators for call in operator.called if call.job_id == job_id and call.challenge
    ]
    assert {call.job_seed for call in calls} == {document["seed"]["value"]}
    assert {call.seed for call in calls} == {again["seed"]["value"]}
    assert {call.subject for call in calls} == {own["results"][0]}


def lying_at_first(verifier: ScriptedOperator) -> Callable[[Score], Score]:
    """See other fingerprints in an ordinary round, and the truth in a challenge's."""

    def sees(score: Score) -> Score:
        if verifier.called[-1].challenge:
            return score
        return score.model_copy(update={"distances": [0.4] * score.positions})

    return sees


async def test_an_honest_operator_that_liars_accuse_is_cleared(network: Any) -> None:
    """The first committee lies; the second, which nobody could know before, does not."""
    operators = await crew(network, 5)
    for operator in operators:
        operator.sees = lying_at_first(operator)
    await network.finished(job_id := await network.submit(tag="suspicion"))
    detail = await network.closed(job_id, 2)
    assert [look["verdict"] for look in detail["rounds"]] == ["mismatch", "match"]
    assert (detail["verdict"]["outcome"], detail["final"]) == ("match", True)
    accused = detail["rounds"][1]["result"].split("_")[0]
    (operator,) = [operator for operator in operators if operator.signer.address == accused]
    assert (await standing(network, operator))["frauds"] == []
    rows = {row["operator"]: row for row in await network.results(job_id) if not row["challenge"]}
    assert rows[accused]["verdict"] == "mismatch"
    assert await network.unpassed(job_id) == []


async def test_a_suspended_operator_is_not_asked_and_is_cleared_by_its_appeal(network: Any) -> None:
    await network.restart(suspend_after=1)
    operators = await crew(network, 6)
    job_id = await caught(network, cheat := operators[0])
    found = await standing(network, cheat)
    assert (found["standing"], found["appeal"]) == ("suspended", "available")
    # No draw asks it any more, and what it does otherwise goes on.
    await network.finished(next_job := await network.submit(tag="suspicion", user="another"))
    asked = {elector["operator"] for elector in (await network.evidence(next_job))["rounds"][0]["electorate"]}
    assert cheat.signer.address not in asked
    assert len(asked) == 5
    result = f"{cheat.signer.address}_{job_id}_suspicion"
    body = {"operator": cheat.signer.address, "result": result, "reason": "I did run it"}
    body |= {"signature": signed_challenge(cheat.signer, result, "I did run it", "appeal")}
    # The verifiers of the appeal see an honest answer, as if those before had lied.
    for operator in operators:
        operator.sees = lambda score: score.model_copy(update={"distances": [0.001] * score.positions})
    opened = (await network.post("/api/operator/appeal", body)).json()
    assert opened["result"]["purpose"] == "appeal"
    detail = await network.closed(job_id, 3)
    assert detail["rounds"][2]["verdict"] == "match"
    assert detail["verdict"]["outcome"] == "match"
    found = await standing(network, cheat)
    assert (found["standing"], [fraud["status"] for fraud in found["frauds"]]) == ("good", ["withdrawn"])
    assert await network.unpassed(job_id) == []


async def test_a_rejected_appeal_leaves_the_suspension_and_cannot_be_repeated(network: Any) -> None:
    await network.restart(suspend_after=1)
    operators = await crew(network, 6)
    job_id = await caught(network, cheat := operators[0])
    result = f"{cheat.signer.address}_{job_id}_suspicion"
    body = {"operator": cheat.signer.address, "result": result, "reason": "again"}
    body |= {"signature": signed_challenge(cheat.signer, result, "again", "appeal")}
    assert (await network.post("/api/operator/appeal", body)).status_code == 200
    await network.closed(job_id, 3)
    found = await standing(network, cheat)
    assert (found["standing"], found["appeal"]) == ("suspended", "used")
    refused = await network.post("/api/operator/appeal", body)
    assert (refused.status_code, "once" in refused.json()["message"]) == (409, True)


async def test_a_project_challenges_an_untagged_result(network: Any) -> None:
    """Nobody verified the cheat's answer; the project's doubt has it scored, and it is found."""
    operators = await crew(network, 5)
    for operator in operators:
        operator.cheats_from = BAD_STEP
    job_id = await drawn(network, lambda lot: lot.size == 1)
    assert (await network.finished(job_id))["verdict"] is None
    (row,) = await network.results(job_id)
    body = {"job_id": job_id, "operator": row["operator"], "reason": "it reads oddly"}
    refused = await network.post("/api/job/challenge", body)
    assert refused.status_code == 401
    opened = await network.post("/api/job/challenge", body | {"verify": network.token})
    assert opened.status_code == 200, opened.text
    detail = await network.closed(job_id, 2)
    assert detail["verdict"]["outcome"] == "mismatch"
    assert detail["final"] is True
    rows = await network.results(job_id)
    scored = [row for row in rows if row["challenge"] == 1]
    assert {row["verdict"] for row in scored} == {"mismatch"}
    assert all(row["id"].endswith("_suspicion_1") for row in scored)
    document = await network.evidence(job_id)
    assert document["rounds"][1]["plea"]["by"] == "project"
    failed = {
        check.id
        for check in check_evidence(document, dispatcher=network.signer.address, job_id=job_id)
        if check.status == "FAIL"
    }
    assert failed == {"AOS-MATCH-1"}
    again = await network.post("/api/job/challenge", body | {"verify": network.token})
    assert again.status_code == 409


async def test_an_operator_challenges_by_signature_and_is_not_asked_itself(network: Any) -> None:
    operators = await crew(network, 6)
    await network.finished(job_id := await network.submit())
    (row, *_more) = [row for row in await network.results(job_id) if row["signs"] == "answer"]
    challenger = next(o for o in operators if o.signer.address != row["operator"])
    body = {
        "job_id": job_id,
        "operator": row["operator"],
        "reason": "doubt",
        "challenger": challenger.signer.address,
    }
    body |= {"signature": signed_challenge(challenger.signer, row["id"], "doubt", "challenge")}
    assert (await network.post("/api/job/challenge", body)).status_code == 200
    detail = await network.closed(job_id, 2)
    assert detail["verdict"]["outcome"] == "match"
    document = await network.evidence(job_id)
    asked = {elector["operator"] for elector in document["rounds"][1]["electorate"]}
    assert asked.isdisjoint({challenger.signer.address, row["operator"]})
    assert await network.unpassed(job_id) == []


async def test_a_challenge_is_decided_after_a_restart_half_way(network: Any) -> None:
    operators = await crew(network, 4)
    await network.finished(job_id := await network.submit())
    (row, *_more) = [row for row in await network.results(job_id) if row["signs"] == "answer"]
    for operator in operators:
        operator.scores = False
    body = {"job_id": job_id, "operator": row["operator"], "verify": network.token}
    assert (await network.post("/api/job/challenge", body)).status_code == 200
    verifiers = [operator for operator in operators if operator.signer.address != row["operator"]]
    for operator in verifiers:
        await operator.wait(lambda operator=operator: any(call.challenge for call in operator.called))
    first = verifiers[0]
    replies = len(first.replies)
    await first.send_score(next(call for call in first.called if call.challenge))
    await first.wait(lambda: len(first.replies) > replies)
    network.patient()
    await network.stop()
    await network.start()
    for operator in operators:
        again = ScriptedOperator(operator.signer, network.ws)
        again.counter = operator.counter
        network.operators.append(again)
        await again.connect()
    detail = await network.closed(job_id, 2)
    assert (detail["rounds"][1]["status"], detail["rounds"][1]["verdict"]) == ("completed", "match")
    assert len((await network.evidence(job_id))["rounds"][1]["scores"]) == 3
    assert await network.unpassed(job_id) == []


async def test_cancelling_a_job_leaves_a_challenge_of_it_alone(network: Any) -> None:
    operators = await crew(network, 3)
    await network.finished(job_id := await network.submit())
    (row, *_more) = [row for row in await network.results(job_id) if row["signs"] == "answer"]
    for operator in operators:
        operator.scores = False
    body = {"job_id": job_id, "operator": row["operator"], "verify": network.token}
    assert (await network.post("/api/job/challenge", body)).status_code == 200
    network.dispatcher.loop.cancel(job_id)
    others = [operator for operator in operators if operator.signer.address != row["operator"]]
    for operator in others:
        await operator.wait(lambda operator=operator: any(call.challenge for call in operator.called))
        await operator.send_score(operator.called[-1])
    detail = await network.closed(job_id, 2)
    assert detail["rounds"][1]["status"] == "completed"


async def test_margins_that_only_add_up_over_many_jobs_are_a_finding(network: Any) -> None:
    """A repaired cheat: its fingerprints are right, and a few of its tokens a little wrong, in no job enough to see."""
    await network.restart(suspend_after=1, audit_share=1)
    operators = await crew(network, 2)
    for operator in operators:
        operator.sees = lambda score: score.model_copy(
            update={"margins": [0.035] + [0.0] * (score.positions - 1)}
        )
    async with asyncio.timeout(30):
        for attempt in range(40):
            await network.finished(await network.submit(user=f"user {attempt}"))
            suspended = [o for o in operators if (await standing(network, o))["standing"] == "suspended"]
            if suspended:
                break
    found = await standing(network, suspended[0])
    assert [fraud["result"] for fraud in found["frauds"]] == [None]
    assert found["frauds"][0]["verdict"]["statistics"]["pool_evidence"] > 0
    async with network.dispatcher.database.connect() as connection:
        rows = (await connection.execute(text("select operator, decision, tokens from pools"))).all()
    assert (suspended[0].signer.address, "cheating") in {(row.operator, row.decision) for row in rows}
    assert all(row.tokens % 12 == 0 for row in rows)
