"""Asking for a second look: who may, when, for what, and what everybody else is told."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain
from support.disputes import Dispute, answered_job, gone, signed_challenge

NOBODY = Signer(b"\x77" * 32)


async def execute(network: Any, statement: str, **values: Any) -> None:
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text(statement), values)


async def time_is_over(network: Any) -> None:
    """Let the time for a challenge be over, which the dispatcher looks at now, not within a second."""
    await execute(network, "update rounds set deadline = now() where challenge > 0")
    network.dispatcher.loop.wake()


async def registered(network: Any) -> Signer:
    """An operator that could challenge; it is not connected."""
    return (await network.operator(connect=False)).signer


def message(answer: Any, status: int) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    return str(answer.json()["message"])


@pytest.fixture
async def dispute(network: Any) -> Dispute:
    """An answered job whose operator has left, so that rounds of challenges stay as they were opened."""
    return await answered_job(network)


async def test_a_challenge_is_opened_once_whoever_asks(network: Any, dispute: Dispute) -> None:
    opened = (await dispute.by_project()).json()["result"]
    assert opened == {
        "job_id": dispute.job_id,
        "result": dispute.result,
        "challenge": 1,
        "verify_id": opened["verify_id"],
        "purpose": "challenge",
        "status": "open",
    }
    assert (await dispute.by_project()).json()["result"] == opened
    assert (await dispute.by_operator(await registered(network))).json()["result"] == opened
    assert len(await dispute.rows("select id from challenges")) == 1


async def test_ten_challenges_at_once_open_one_round(network: Any, dispute: Dispute) -> None:
    answers = await asyncio.gather(*(dispute.by_project() for _ in range(10)))
    assert len({answer.text for answer in answers}) == 1
    assert len(await dispute.rows("select id from rounds where challenge > 0")) == 1


async def test_a_challenged_job_is_not_final_until_it_is_decided(network: Any, dispute: Dispute) -> None:
    before = await network.detail(dispute.job_id)
    assert before["final_at"] is not None
    await dispute.by_project()
    during = await network.detail(dispute.job_id)
    assert (during["final"], during["final_at"]) == (False, None)


async def test_a_challenge_that_nobody_could_decide_gives_the_window_back(
    network: Any, dispute: Dispute
) -> None:
    """Its deadline passes: nobody but whoever made the result serves the model."""
    before = await network.detail(dispute.job_id)
    await dispute.by_project()
    await time_is_over(network)
    detail = await network.closed(dispute.job_id, 2)
    assert (detail["rounds"][1]["status"], detail["rounds"][1]["verdict"]) == ("failed", None)
    assert "may be asked" in detail["rounds"][1]["reason"]
    assert detail["status"] == "completed"

    assert detail["final_at"] == before["final_at"]
    # It decided nothing, so the question may be asked again.
    assert (await dispute.by_project()).json()["result"]["challenge"] == 2


async def test_a_project_needs_its_own_token(network: Any, dispute: Dispute) -> None:
    body = dispute.body
    assert "required" in message(await network.post("/api/job/challenge", body), 401)
    own = network.token
    other = await network.project("other")
    assert "shop" in message(await dispute.by_project(verify=other), 403)
    header = {"Authorization": f"Bearer {own}"}
    assert (await network.post("/api/job/challenge", body, headers=header)).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"job_id": "0" * 64}, 404, "no job"),
        ({"operator": NOBODY.address}, 404, "has no result"),
        ({"operator": NOBODY.address.lower()}, 422, "EIP-55"),
        ({"tag": "malicious"}, 404, "under tag 'malicious'"),
        ({"reason": "x" * 1001}, 422, "reason"),
        ({"challenger": NOBODY.address}, 422, "go together"),
        ({"extra": 1}, 422, "extra"),
    ],
)
async def test_a_bad_challenge_gets_a_precise_error(
    dispute: Dispute, change: dict[str, Any], status: int, said: str
) -> None:
    assert said in message(await dispute.by_project(**change), status)


async def test_an_operators_challenge_is_bound_to_its_words(network: Any, dispute: Dispute) -> None:
    signer = await registered(network)
    for claim in (
        {"reason": "another"},
        {"purpose": "appeal"},
        {"result": f"{NOBODY.address}_{dispute.job_id}_"},
    ):
        assert "the signature is one of" in message(await dispute.by_operator(signer, claim=claim), 401)
    foreign = signed_challenge(
        signer, dispute.result, "it reads oddly", "challenge", Domain(1, "0x" + "0" * 40)
    )
    assert "the signature is one of" in message(await dispute.by_operator(signer, signature=foreign), 401)
    assert "signature" in message(await dispute.by_operator(signer, signature="0" * 130), 401)


async def test_only_operators_in_good_standing_challenge_and_not_themselves(
    network: Any, dispute: Dispute
) -> None:
    assert "not a registered operator" in message(await dispute.by_operator(NOBODY), 403)
    assert "a result of its own" in message(await dispute.by_operator(dispute.operator.signer), 422)
    signer = await registered(network)
    await execute(network, "update operators set suspended_at = now() where address = :a", a=signer.address)
    assert "suspended" in message(await dispute.by_operator(signer), 403)


async def test_a_final_result_cannot_be_challenged(network: Any, dispute: Dispute) -> None:
    await execute(network, "update jobs set final_at = now() - interval '1 second'")
    assert "is final since" in message(await dispute.by_project(), 409)
    assert (await network.detail(dispute.job_id))["final"] is True


async def test_a_result_of_a_job_that_goes_on_cannot_be_challenged(network: Any) -> None:
    first, second = await network.operator(), await network.operator()
    for operator in (first, second):
        operator.scores = False
    job_id = await network.submit(tag="suspicion")
    async with asyncio.timeout(30):
        while not (rows := await network.results(job_id)):
            await asyncio.sleep(0.02)
    body = {"job_id": job_id, "operator": rows[0]["operator"], "verify": network.token}
    assert "only a completed one" in message(await network.post("/api/job/challenge", body), 409)
    assert (rows[0]["verdict"], rows[0]["reason"]) == (None, "its committee has not finished")


async def test_the_tag_is_asked_for_where_an_operator_has_several_results(network: Any) -> None:
    operator = await network.operator()
    await network.finished(early := await network.submit(user="device"))
    await network.finished(await network.submit(user="device", tag="suspicion"))
    await network.closed(early, 2)
    await operator.close()
    await gone(network)
    body = {"job_id": early, "operator": operator.signer.address, "verify": network.token}
    said = message(await network.post("/api/job/challenge", body), 422)
    assert "'', 'suspicion'" in said
    opened = await network.post("/api/job/challenge", body | {"tag": "suspicion"})
    assert opened.json()["result"]["result"].endswith("_suspicion")
    # The job's own answer is not what is in dispute.
    assert (await network.detail(early))["final_at"] is not None


async def test_a_challenger_has_only_so_many_open(network: Any) -> None:
    await network.restart(open_challenges=2)
    operator = await network.operator()
    disputes = []
    for n in range(3):
        await network.finished(job_id := await network.submit(user=f"user {n}"))
        (row,) = await network.results(job_id)
        disputes.append(Dispute(network, operator, job_id, row))
    await operator.close()
    await gone(network)
    statuses = [(await dispute.by_project()).status_code for dispute in disputes]
    assert statuses == [200, 200, 429]
    assert (await disputes[2].by_operator(await registered(network))).status_code == 200


async def test_an_appeal_needs_a_suspension_a_finding_and_the_operators_word(
    network: Any, dispute: Dispute
) -> None:
    address = dispute.operator.signer.address
    assert "not suspended" in message(await dispute.appeal(), 409)
    await execute(network, "update operators set suspended_at = now() where address = :a", a=address)
    assert "no standing finding" in message(await dispute.appeal(), 404)
    assert "the signature is one of" in message(await dispute.appeal(claim={"purpose": "challenge"}), 401)
    await execute(network, "insert into frauds (operator, job_id, result, verdict) values (:a, :j, :r, '{}')",
                  a=address, j=dispute.job_id, r=dispute.result)  # fmt: skip
    opened = (await dispute.appeal()).json()["result"]
    assert (opened["purpose"], opened["status"]) == ("appeal", "open")
    assert (await dispute.appeal()).json()["result"] == opened
    assert (await dispute.standing())["appeal"] == "open"
    # An appeal does not hold up the job.
    assert (await network.detail(dispute.job_id))["final_at"] is not None


async def test_an_appeal_that_nobody_could_decide_may_be_made_again(network: Any, dispute: Dispute) -> None:
    address = dispute.operator.signer.address
    await execute(network, "update operators set suspended_at = now() where address = :a", a=address)
    await execute(network, "insert into frauds (operator, job_id, result, verdict) values (:a, :j, :r, '{}')",
                  a=address, j=dispute.job_id, r=dispute.result)  # fmt: skip
    await dispute.appeal()
    await time_is_over(network)
    await network.closed(dispute.job_id, 2)
    assert (await dispute.standing())["appeal"] == "available"
    assert (await dispute.appeal()).status_code == 200


async def test_standing_is_anybodys_to_read(network: Any, dispute: Dispute) -> None:
    assert await dispute.standing() == {
        "operator": dispute.operator.signer.address,
        "number": 2,
        "standing": "good",
        "suspended_at": None,
        "suspend_after": 2,
        "appeal": "none",
        "frauds": [],
        "pools": [],
    }
    unknown = await network.client.get(f"/api/operator/standing/{NOBODY.address}")
    assert "no operator" in message(unknown, 404)
    assert "address" in message(await network.client.get("/api/operator/standing/0x12"), 422)


async def test_a_private_projects_proof_is_shown_to_its_token_only(network: Any) -> None:
    token = await network.project("quiet", private=True)
    dispute = await private_job(network, token)
    await execute(network,
                  "insert into frauds (operator, job_id, result, step, proof, verdict) "
                  "values (:a, :j, :r, 3, '{\"token\": 4}', '{\"outcome\": \"mismatch\", \"verifiers\": [1]}')",
                  a=dispute.operator.signer.address, j=dispute.job_id, r=dispute.result)  # fmt: skip
    (seen,) = (await dispute.standing())["frauds"]
    assert (seen["step"], seen["proof"], seen["verdict"]) == (3, None, {"outcome": "mismatch"})
    (seen,) = (await dispute.standing(headers={"Authorization": f"Bearer {token}"}))["frauds"]
    assert (seen["proof"], seen["verdict"]["verifiers"]) == ({"token": 4}, [1])


async def private_job(network: Any, token: str) -> Dispute:
    """An answered job of a private project, read with its token."""
    operator = await network.operator()
    job_id = await network.submit(**{"from": "quiet"})
    headers = {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(30):
        while not (
            rows := (await network.post("/api/job/result", {"job_id": job_id}, headers=headers)).json()[
                "result"
            ]
        ):
            await asyncio.sleep(0.02)
    return Dispute(network, operator, job_id, rows[0])


async def test_a_private_projects_rounds_are_listed_to_its_token_only(network: Any) -> None:
    token = await network.project("quiet", private=True)
    await network.operator()
    await network.submit(**{"from": "quiet"}, user="device", tag="suspicion")
    nobody = await network.post("/api/job/verify", {"user": "device"})
    assert nobody.json()["result"] == []
    assert (await network.post("/api/job/verify", {"user": "device", "from": "quiet"})).status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    own = await network.post("/api/job/verify", {"user": "device", "from": "quiet"}, headers=headers)
    assert [row["tag"] for row in own.json()["result"]] == ["suspicion"]
