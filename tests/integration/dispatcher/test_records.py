"""Answers that come with a record in place of a transcript: what is taken by which policy, how they are judged, and what evidence says of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aos_protocol.messages import ServedModel
from aos_protocol.record import named_model_digest
from support.operators import MODEL, TOKENS, ScriptedOperator

NOT_SCORED = ["AOS-MATCH-1 SKIP", "AOS-SCORE-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"]
TEXT = {"version": 1, "level": "text", "backend": "ollama", "engine": "scripted", "finish_reason": "eos"}
IDS = TEXT | {"level": "token_ids", "backend": "llama.cpp", "output_tokens": TOKENS}
LOGPROBS = [{"token": "a sensible answer", "logprob": -0.5, "top": [["a sensible answer", -0.5]]}]
NAMED = ServedModel(name="named", sha256=named_model_digest("named"), evidence="text")


async def weak(
    network: Any, record: dict[str, Any] = TEXT, *, evidence: str = "text", **changes: Any
) -> ScriptedOperator:
    """An operator whose backend shows no more than this record."""
    operator: ScriptedOperator = await network.operator(connect=False)
    said = MODEL.to_json() | {"evidence": evidence} | changes
    operator.models, operator.record = [ServedModel.model_validate(said)], record
    assert (await operator.connect())["code"] == 200
    return operator


def check_ids(unpassed: list[str]) -> list[str]:
    return sorted({" ".join(check.split()[:2]) for check in unpassed})


@pytest.fixture
async def lenient(unstarted: Any) -> AsyncIterator[Any]:
    """A network whose dispatcher takes anything, and waits for each member and job longer than a test may take."""
    settings = unstarted.settings
    verification = settings.verification.model_copy(update={"least_evidence": "text"})
    dispatch = settings.dispatch.model_copy(update={"member_timeout": 600, "job_timeout": 600})
    unstarted.settings = settings.model_copy(update={"verification": verification, "dispatch": dispatch})
    await unstarted.start()
    await unstarted.calibrate()
    await unstarted.project()
    yield unstarted
    for operator in unstarted.operators:
        await operator.close()
    await unstarted.stop()


async def test_who_offers_less_than_the_policy_wants_is_not_let_in_and_told_why(network: Any) -> None:
    operator = await network.operator(connect=False)
    operator.models = [ServedModel(name="strong", sha256="ab" * 32), NAMED]
    reply = await operator.connect()
    assert reply["code"] == 400
    assert "answers must show fingerprints at least here, and of named shows text" in reply["message"]
    assert "verification.least_evidence" in reply["message"]
    assert "strong" not in reply["message"]


async def test_the_default_is_the_strictest(network: Any) -> None:
    assert network.settings.verification.least_evidence == "fingerprints"


async def test_an_answer_of_text_alone_is_stored_signed_and_judged_inconclusive(lenient: Any) -> None:
    await weak(lenient)
    detail = await lenient.finished(job_id := await lenient.submit())
    (row,) = await lenient.results(job_id)
    assert (row["result"], row["evidence"], row["backend"]) == ("a sensible answer", "text", "ollama")
    assert (row["verdict"], row["role"]) == ("inconclusive", "executor")
    assert "ollama shows text of its answers" in row["reason"]
    assert (detail["status"], detail["verdict"]["outcome"], detail["verdict"]["level"]) == (
        "completed",
        "inconclusive",
        None,
    )
    left = await lenient.unpassed(job_id)
    assert check_ids(left) == ["AOS-MATCH-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"]
    assert any("there is no transcript" in check and "text (ollama)" in check for check in left)
    assert (await lenient.evidence(job_id))["policy"]["least_evidence"] == "text"
    (passed,) = [check for check in await lenient.checks(job_id) if check.id == "AOS-RECORD-1"]
    assert passed.status == "PASS"
    assert "show text or more" in passed.what


@pytest.mark.parametrize(
    ("tag", "members", "answers"), [("", 3, 1), ("suspicion", 4, 1), ("malicious", 6, 5)]
)
async def test_a_whole_committee_that_can_score_nothing_ends_at_once(
    lenient: Any, tag: str, members: int, answers: int
) -> None:
    """Nobody is asked to score, and nobody is waited for."""
    lenient.dispatcher.jobs._audit_ppm = 1_000_000
    operators = [await weak(lenient) for _ in range(members)]
    detail = await lenient.finished(job_id := await lenient.submit(tag=tag))
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "inconclusive")
    assert not any(operator.called for operator in operators)
    rows = await lenient.results(job_id)
    assert len(rows) >= answers
    assert {row["signs"] for row in rows} == {"answer"}
    (look,) = detail["rounds"]
    states = [member["state"] for member in look["members"]]
    assert states.count("answered") == 1
    assert states.count("refused") == len(states) - 1 >= 1
    assert check_ids(await lenient.unpassed(job_id)) == NOT_SCORED


async def test_verifiers_that_left_are_not_waited_for(lenient: Any) -> None:
    """An answer that nobody can score needs no verifier, here or away."""
    operators = [await weak(lenient) for _ in range(3)]
    for operator in operators:
        operator.answer = None
    job_id = await lenient.submit(tag="suspicion")
    hearing = [asyncio.create_task(each.wait(lambda each=each: bool(each.dispatched))) for each in operators]
    _, others = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    (executor,) = [operator for operator in operators if operator.dispatched]
    for operator in operators:
        if operator is not executor:
            await operator.close()
    executor.answer = "a sensible answer"
    await executor.send_result(executor.dispatched[0])
    detail = await lenient.finished(job_id)
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "inconclusive")


@pytest.mark.parametrize("reason", ["this backend cannot score: it is ollama", ""])
async def test_token_ids_are_scored_by_whoever_can_and_a_round_where_nobody_can_ends(
    lenient: Any, reason: str
) -> None:
    """With token ids there is something to score. Whose backend cannot says so, one after the other."""
    operators = [await weak(lenient, IDS, evidence="token_ids") for _ in range(4)]
    for operator in operators:
        operator.score_reason = reason
    detail = await lenient.finished(job_id := await lenient.submit(tag="suspicion"))
    assert detail["status"] == "completed"
    assert detail["verdict"]["outcome"] == "inconclusive"
    if reason:
        assert detail["verdict"]["reason"] == f"nobody has scored: {reason}"
    else:
        assert detail["verdict"]["level"] == "likelihood"
    expected = NOT_SCORED if reason else ["AOS-MATCH-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"]
    assert check_ids(await lenient.unpassed(job_id)) == expected


async def test_token_ids_of_a_model_known_by_name_only_are_not_scored(lenient: Any) -> None:
    named = NAMED.to_json() | {"evidence": "token_ids"}
    operators = [await weak(lenient, IDS, **named) for _ in range(3)]
    job = lenient.body()["job"] | {"model": NAMED.name}
    detail = await lenient.finished(job_id := await lenient.submit(tag="suspicion", job=job))
    assert detail["verdict"]["outcome"] == "inconclusive"
    assert "known by name only" in detail["verdict"]["reason"]
    assert not any(operator.called for operator in operators)
    assert check_ids(await lenient.unpassed(job_id)) == NOT_SCORED


REFUSED = {
    "weaker than offered": ("token_ids", TEXT, None, "shows text only, and what"),
    "level without its tokens": ("token_ids", TEXT | {"level": "token_ids"}, None, "output_tokens"),
    "more tokens than asked for": ("text", IDS | {"output_tokens": [1] * 1025}, None, "exceed max_tokens"),
    "fingerprints without a transcript": ("text", TEXT | {"level": "fingerprints"}, None, "transcript"),
    "images that nobody asked for": ("text",
        TEXT | {"images": [{"sha256": "ab" * 32, "media_type": "image/png", "size": 1, "width": 1, "height": 1}]},
        None, "images if the job asks",
    ),
    "logprobs that nobody asked for": ("text", TEXT, LOGPROBS, "does not ask for"),
    "no logprobs, and the level says so": ("text", TEXT | {"level": "logprobs"}, None, "there are none"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_record_that_does_not_fit_is_refused_and_kept_as_evidence(lenient: Any, name: str) -> None:
    offered, record, logprobs, why = REFUSED[name]
    bad = await weak(lenient, record, evidence=offered)
    bad.logprobs = logprobs
    detail = await lenient.finished(job_id := await lenient.submit())
    assert detail["status"] == "failed"
    assert why in detail["reason"]
    (rejection,) = (await lenient.evidence(job_id))["rejections"]
    assert rejection["operator"] == bad.signer.address
    assert why in rejection["reason"]
    assert await lenient.results(job_id) == []


async def test_a_job_that_wants_logprobs_gets_them(lenient: Any) -> None:
    one = await weak(lenient, TEXT | {"level": "logprobs"}, evidence="logprobs")
    one.logprobs = LOGPROBS
    job = lenient.body()["job"] | {"logprobs": 1}
    job_id = await lenient.submit(job=job)
    assert (await lenient.finished(job_id))["status"] == "completed"
    (row,) = await lenient.results(job_id)
    assert (row["evidence"], row["verdict"]) == ("logprobs", "inconclusive")
    assert check_ids(await lenient.unpassed(job_id)) == ["AOS-MATCH-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"]


async def test_a_job_keeps_the_policy_that_it_was_submitted_under(network: Any) -> None:
    """The owner lowers the policy while a job waits: the answer must still show what the project was promised."""
    operator = await network.operator()
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: bool(operator.dispatched))
    await operator.close()
    await network.restart(least_evidence="text")
    operator.url, operator.answer, operator.record = network.ws, "a sensible answer", TEXT
    operator.models = [ServedModel(name=MODEL.name, sha256=MODEL.sha256, evidence="text")]
    operator.dispatched.clear()
    assert (await operator.connect())["code"] == 200
    detail = await network.finished(job_id)
    assert detail["status"] == "failed"
    assert "verification.least_evidence of this dispatcher is fingerprints" in detail["reason"]


async def test_what_a_record_s_answer_was_found_to_be_cannot_be_challenged_unless_it_can_be_scored(
    lenient: Any,
) -> None:
    await weak(lenient)
    await lenient.finished(job_id := await lenient.submit())
    (row,) = await lenient.results(job_id)
    body = {"job_id": job_id, "operator": row["operator"], "reason": "look again", "verify": lenient.token}
    answer = await lenient.post("/api/job/challenge", body)
    assert answer.status_code == 422
    assert "there is nothing that could be scored" in answer.json()["message"]


async def test_an_answer_with_token_ids_can_be_challenged(lenient: Any) -> None:
    operators = [await weak(lenient, IDS, evidence="token_ids") for _ in range(4)]
    await lenient.finished(job_id := await lenient.submit())
    row = next(row for row in await lenient.results(job_id) if row["signs"] == "answer")
    body = {"job_id": job_id, "operator": row["operator"], "reason": "look again", "verify": lenient.token}
    answer = await lenient.post("/api/job/challenge", body)
    assert answer.status_code == 200, answer.text
    detail = await lenient.closed(job_id, 2)
    assert detail["rounds"][1]["verdict"] == "inconclusive"
    assert any(operator.called for operator in operators)
    assert check_ids(await lenient.unpassed(job_id)) == ["AOS-MATCH-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"]
