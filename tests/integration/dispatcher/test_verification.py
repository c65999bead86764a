"""Verified jobs on a real dispatcher: who executes and who scores, the verdict, what the API shows, and the evidence of it."""

import asyncio
from typing import Any

import pytest

from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.operators import pin_model
from aos_protocol import fingerprint
from support.calibration import calibration
from support.lot import drawn
from support.operators import MODEL, TOKENS, ScriptedOperator


async def crew(network: Any, count: int) -> dict[str, ScriptedOperator]:
    """Operators by address."""
    operators = [await network.operator() for _ in range(count)]
    return {operator.signer.address: operator for operator in operators}


def by_role(rows: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["role"] == role]


async def test_an_untagged_job_is_executed_and_not_verified(network: Any) -> None:
    await crew(network, 1)
    detail = await network.finished(job_id := await network.submit())
    (row,) = await network.results(job_id)
    assert (row["role"], row["verdict"], row["reason"]) == ("executor", None, "nobody was asked to score it")
    assert detail["verdict"] is None
    (check,) = await network.unpassed(job_id)
    assert check.startswith("AOS-MATCH-1 SKIP")


async def test_an_audited_job_has_a_verifier_and_a_verdict(network: Any) -> None:
    network.dispatcher.jobs._audit_ppm = 1_000_000
    operators = await crew(network, 3)
    detail = await network.finished(job_id := await network.submit())
    rows = await network.results(job_id)
    executor, verifiers = by_role(rows, "executor"), by_role(rows, "verifier")
    assert len(executor) == 1
    assert len(verifiers) >= 1
    assert {row["verdict"] for row in rows} == {"match"}
    assert [row["result"] for row in executor] == ["a sensible answer"]
    assert {(row["result"], row["signs"]) for row in verifiers} == {("", "score")}
    assert detail["verdict"]["outcome"] == "match"
    assert detail["verdict"]["level"] == "fingerprint"
    (look,) = detail["rounds"]
    assert (look["purpose"], look["verdict"]) == ("audit", "match")
    assert {member["verdict"] for member in look["members"] if member["role"] == "verifier"} == {"match"}
    verifier = operators[verifiers[0]["operator"]]
    assert verifier.dispatched == []
    assert verifier.called[0].seed == verifier.called[0].job_seed
    assert await network.unpassed(job_id) == []


@pytest.mark.parametrize(("tag", "members", "answers"), [("suspicion", 3, 1), ("malicious", 5, 5)])
async def test_a_tagged_job_is_verified(network: Any, tag: str, members: int, answers: int) -> None:
    """Under `malicious` verifiers execute before they see what the executor said."""
    operators = await crew(network, members)
    detail = await network.finished(job_id := await network.submit(tag=tag))
    rows = await network.results(job_id)
    assert len(rows) == members
    assert len([row for row in rows if row["signs"] == "answer"]) == answers
    assert len(by_role(rows, "executor")) == 1
    assert {row["verdict"] for row in rows} == {"match"}
    assert f"{members - 1} of {members - 1} verifiers" in detail["verdict"]["reason"]
    roles = {
        operator.signer.address: operator.dispatched[0].role
        for operator in operators.values()
        if operator.dispatched
    }
    assert sorted(roles.values()) == ["executor"] + ["verifier"] * (answers - 1)
    assert await network.unpassed(job_id) == []


async def test_the_published_fields_of_a_verifiers_row(network: Any) -> None:
    await crew(network, 3)
    await network.finished(job_id := await network.submit(tag="suspicion"))
    row = by_role(await network.results(job_id), "verifier")[0]
    assert row["id"] == f"{row['operator']}_{job_id}_suspicion"
    assert (row["tag"], row["position"], row["challenge"], row["job_type"]) == (
        "suspicion",
        "after",
        0,
        "opml",
    )
    assert len(row["signature"]) == 130
    assert row["vrf"]["vrf_proof"]
    assert row["reason"]


CLAIMS = {
    "fingerprint": {
        "output_tokens": TOKENS,
        "seed": "11" * 32,
        "prover": "somebody",
        "fingerprints": fingerprint.to_text(bytes(fingerprint.BYTES * len(TOKENS))),
    },
    "seeded": {"output_tokens": TOKENS, "seed": "11" * 32},
    "likelihood": {"output_tokens": TOKENS},
}


@pytest.mark.parametrize("level", ["seeded", "likelihood", "greedy", "text"])
async def test_a_claim_is_scored_and_nobody_executes(network: Any, level: str) -> None:
    operators = await crew(network, 3)
    job = network.body()["job"]
    if level == "greedy":
        job |= {"claim": CLAIMS["likelihood"], "params": {"temperature": 0.0, "max_tokens": 64}}
    else:
        job |= {"claim": {"text": "so they say"} if level == "text" else CLAIMS[level]}
    detail = await network.finished(job_id := await network.submit(tag="suspicion", job=job))
    rows = await network.results(job_id)
    assert {row["role"] for row in rows} == {"verifier"}
    assert all(not operator.dispatched for operator in operators.values())
    assert all(operator.called[0].subject is None for operator in operators.values())
    assert detail["status"] == "completed"
    assert detail["verdict"]["level"] == ("likelihood" if level == "text" else level)
    left = await network.unpassed(job_id)
    assert [check for check in left if not check.startswith("AOS-MATCH-1 SKIP the claim")] == []


async def test_whoever_made_a_claim_does_not_judge_it(network: Any) -> None:
    operators = await crew(network, 4)
    prover = next(iter(operators))
    job = network.body()["job"] | {"claim": {**CLAIMS["seeded"], "prover": prover.lower()}}
    await network.finished(job_id := await network.submit(tag="suspicion", job=job))
    scorers = {row["operator"] for row in await network.results(job_id)}
    assert scorers == operators.keys() - {prover}
    left = await network.unpassed(job_id)
    assert [check for check in left if not check.startswith("AOS-MATCH-1 SKIP the claim")] == []


async def test_a_verifier_that_cannot_score_is_replaced(network: Any) -> None:
    operators = await crew(network, 5)
    cannot = next(iter(operators.values()))
    cannot.score_reason = "the worker is out of memory"
    job_id = await drawn(network, lambda lot: cannot.signer.address in lot.verifiers, tag="suspicion")
    await network.finished(job_id)
    (round_,) = (await network.evidence(job_id))["rounds"]
    seat = {seat["operator"]: seat for seat in round_["committee"]}[cannot.signer.address]
    assert (seat["role"], seat["state"]) == ("verifier", "refused")
    assert seat["reason"] == "the worker is out of memory"
    answered = [seat for seat in round_["committee"] if seat["state"] == "answered"]
    assert len(answered) >= 3
    assert await network.unpassed(job_id) == []


async def test_a_job_is_not_lost_when_nobody_can_score_it(network: Any) -> None:
    for operator in (await crew(network, 3)).values():
        operator.score_reason = "no room for another sequence"
    detail = await network.finished(job_id := await network.submit(tag="suspicion"))
    assert (detail["status"], detail["reason"]) == ("completed", "")
    assert (detail["verdict"]["outcome"], detail["verdict"]["level"]) == ("inconclusive", None)
    (row,) = await network.results(job_id)
    assert (row["result"], row["verdict"], row["reason"]) == (
        "a sensible answer",
        "inconclusive",
        "nobody has scored: no room for another sequence",
    )
    assert len((await network.evidence(job_id))["rejections"]) == 2
    failed = {check.split()[0] for check in await network.unpassed(job_id) if " FAIL " in check}
    assert failed == set()


async def test_without_a_calibration_every_verdict_is_inconclusive_and_says_so(network: Any) -> None:
    await pin_model(network.dispatcher.database, "opml", MODEL.model_copy(update={"sha256": "ab" * 32}))
    await pin_model(network.dispatcher.database, "opml", MODEL)
    await crew(network, 3)
    detail = await network.finished(job_id := await network.submit(tag="suspicion"))
    assert detail["verdict"]["outcome"] == "inconclusive"
    assert "no calibration" in detail["verdict"]["reason"]
    (check,) = await network.unpassed(job_id)
    assert check.startswith("AOS-MATCH-1 SKIP")


async def test_what_was_judged_by_an_older_calibration_stays_so(network: Any) -> None:
    await crew(network, 3)
    await network.finished(first := await network.submit(tag="suspicion", user="one"))
    newer = calibration(MODEL.sha256, alpha=1e-4)
    await pin_model(network.dispatcher.database, "opml", MODEL, newer)
    await network.finished(second := await network.submit(tag="suspicion", user="two"))
    documents = [await network.evidence(job_id) for job_id in (first, second)]
    used = [document["calibrations"][0]["alpha"] for document in documents]
    assert used == [1e-6, 1e-4]
    for job_id in (first, second):
        assert await network.unpassed(job_id) == []


async def test_rounds_before_are_answered_and_verified_afresh(network: Any) -> None:
    """A tagged job has the earlier one of its user looked at again: in causal order after it, by an answer of its own."""
    await crew(network, 4)
    early = await drawn(network, lambda lot: not lot.verifiers)
    user = (await network.finished(early))["user"]
    await network.finished(tagged := await network.submit(user=user, tag="suspicion"))
    detail = await network.closed(early, 2)
    own, again = detail["rounds"]
    assert (own["purpose"], own["verdict"]) == ("job", None)
    assert (again["position"], again["tag"], again["cause"]) == ("before", "suspicion", tagged)
    assert again["verdict"] == "match"
    assert detail["status"] == "completed"
    assert detail["verdict"] is None
    rows = await network.results(early)
    assert {row["position"] for row in rows} == {"", "before"}
    rounds = (await network.evidence(early))["rounds"]
    assert int(rounds[1]["draw_clock"]["1"]) > int(rounds[0]["dispatch_clock"]["1"])
    left = [check for check in await network.unpassed(early) if "nobody was asked to score it" not in check]
    assert left == []
    assert await network.unpassed(tagged) == []


async def test_a_following_job_of_a_tagged_user_is_verified_under_its_tag(network: Any) -> None:
    await crew(network, 4)
    tagged = await network.submit(user="device", tag="suspicion")
    await network.finished(tagged)
    detail = await network.finished(after := await network.submit(user="device"))
    assert detail["tag"] == ""
    (look,) = detail["rounds"]
    assert (look["tag"], look["position"], look["cause"]) == ("suspicion", "after", tagged)
    assert detail["verdict"]["outcome"] == "match"
    assert await network.unpassed(after) == []


async def test_a_users_verification_rounds_are_listed_newest_first(network: Any) -> None:
    await crew(network, 4)
    early = await network.submit(user="device")
    await network.finished(early)
    tagged = await network.submit(user="device", tag="suspicion")
    await network.finished(tagged)
    await network.closed(early, 2)
    answer = await network.post("/api/job/verify", {"user": "device", "from": "shop"})
    rows = answer.json()["result"]
    assert [(row["job_id"], row["position"], row["verdict"]) for row in rows] == [
        (early, "before", "match"),
        (tagged, "after", "match"),
    ]
    page = (await network.post("/api/job/verify", {"user": "device", "limit": 1})).json()
    assert [row["job_id"] for row in page["result"]] == [early]
    rest = (await network.post("/api/job/verify", {"user": "device", "before": page["next"]})).json()
    assert [row["job_id"] for row in rest["result"]] == [tagged]
    assert rest["next"] is None


async def test_a_job_is_final_when_its_window_has_passed(network: Any) -> None:
    await crew(network, 1)
    detail = await network.finished(await network.submit())
    assert detail["final"] is False
    assert detail["final_at"] > detail["finished_at"]


async def reconnect(network: Any, operators: list[ScriptedOperator]) -> dict[str, ScriptedOperator]:
    """The same operators after a restart of the dispatcher, with all that they remember."""
    back = {}
    for operator in operators:
        again = ScriptedOperator(operator.signer, network.ws)
        again.counter, again.scores = operator.counter, operator.scores
        network.operators.append(again)
        assert (await again.connect())["code"] == 200
        back[again.signer.address] = again
    return back


async def seated(network: Any, job_id: str) -> list[dict[str, Any]]:
    """Wait until the job's committee is drawn; its seats."""
    committee: list[dict[str, Any]] = []
    while not committee:
        await asyncio.sleep(0.01)
        committee = (await network.evidence(job_id))["rounds"][0]["committee"]
    return committee


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
async def test_a_restart_with_half_of_the_scores_in_goes_on(network: Any, tag: str) -> None:
    operators = await crew(network, 5)
    for operator in operators.values():
        operator.scores = False
    job_id = await network.submit(tag=tag)
    committee = await seated(network, job_id)
    verifiers = [operators[seat["operator"]] for seat in committee if seat["role"] == "verifier"]
    for verifier in verifiers:
        await verifier.wait(lambda verifier=verifier: bool(verifier.called))
    await verifiers[0].send_score(verifiers[0].called[0])
    accepted = 2 if tag == "malicious" else 1  # its own answer was, before its score
    await verifiers[0].wait(lambda: len(verifiers[0].replies) == accepted)
    network.patient()
    await network.stop()
    await network.start()
    for operator in operators.values():
        operator.scores = True
    back = await reconnect(network, list(operators.values()))
    detail = await network.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "match")
    assert len((await network.evidence(job_id))["rounds"][0]["scores"]) == len(verifiers)
    # Nobody is asked for what it has said already.
    assert all(not operator.dispatched for operator in back.values())
    assert back[verifiers[0].signer.address].called == []
    assert await network.unpassed(job_id) == []


async def calibrated(network: Any) -> list[float]:
    """The alpha of the calibration by which the model's next job is judged, if there is one."""
    await network.finished(job_id := await network.submit(user="whoever"))
    return [document["alpha"] for document in (await network.evidence(job_id))["calibrations"]]


async def test_a_calibration_stays_with_its_file(network: Any) -> None:
    await crew(network, 1)
    database = network.dispatcher.database
    assert await calibrated(network) == [1e-6]
    await pin_model(database, "opml", MODEL)
    assert await calibrated(network) == [1e-6]
    other = MODEL.model_copy(update={"sha256": "ab" * 32})
    with pytest.raises(DispatcherError, match="run aos calibrate on this very file"):
        await pin_model(database, "opml", other, calibration(MODEL.sha256))
    assert await calibrated(network) == [1e-6]
    await pin_model(database, "opml", other)
    await pin_model(database, "opml", MODEL)
    assert await calibrated(network) == []


async def test_a_blind_verifier_whose_answer_is_in_takes_a_lost_executors_place(network: Any) -> None:
    """Its result says `verifier`, as it was dispatched; from then on it is what the others score."""
    operators = await crew(network, 6)
    for operator in operators.values():
        operator.answer = None
    job_id = await network.submit(tag="malicious")
    committee = await seated(network, job_id)
    members = [operators[seat["operator"]] for seat in committee]
    for member in members:
        await member.wait(lambda member=member: bool(member.dispatched))
    for operator in operators.values():
        operator.answer = "my own words"
    for member in members[1:]:
        await member.send_result(member.dispatched[0])
        await member.wait(lambda member=member: bool(member.replies))
    await members[0].close()
    detail = await network.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "match")
    rows = {row["operator"]: row for row in await network.results(job_id)}
    promoted = rows[members[1].signer.address]
    assert (promoted["role"], promoted["verdict"]) == ("executor", "match")
    assert members[1].dispatched[0].role == "verifier"
    assert members[1].called == []
    subjects = {call.subject for member in members[2:] for call in member.called}
    assert len(subjects) == 1
    assert await network.unpassed(job_id) == []
