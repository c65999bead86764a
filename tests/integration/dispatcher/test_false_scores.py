"""Verifiers that lie: scores that are forged, replayed, of another subject or incomplete are refused, kept, and cost a seat."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.messages import ScoreCall
from support.lot import drawn
from support.operators import ScriptedOperator

Change = dict[str, Any]


async def verified_job(
    network: Any, prepare: Callable[[ScriptedOperator], None]
) -> tuple[str, ScriptedOperator]:
    """An audited job of two operators, of which the verifier was prepared before it is called; its id, and the verifier."""
    network.dispatcher.jobs._audit_ppm = 1_000_000
    operators = [await network.operator() for _ in range(2)]
    for operator in operators:
        operator.scores = False
    job_id = await network.submit()
    async with asyncio.timeout(30):
        while not (called := [operator for operator in operators if operator.called]):
            await asyncio.sleep(0.01)
    (verifier,) = called
    prepare(verifier)
    await verifier.send_score(verifier.called[0])
    await verifier.wait(lambda: bool(verifier.replies))
    return job_id, verifier


def said(change: Change) -> Callable[[ScriptedOperator], None]:
    """Let a verifier send something else than it signed."""

    def prepare(verifier: ScriptedOperator) -> None:
        verifier.bend_score = lambda score: score | change

    return prepare


def resigned(change: Callable[[Change], Change]) -> Callable[[ScriptedOperator], None]:
    """Let a verifier sign something else properly."""

    def prepare(verifier: ScriptedOperator) -> None:
        def resign(score: Change) -> Change:
            call: ScoreCall = verifier.called[-1]
            return verifier.score_signed(score | change(score), call)

        verifier.bend_score = resign

    return prepare


def other_numbers(**change: Any) -> Callable[[Change], Change]:
    return lambda said: {"score": said["score"] | change}


@pytest.mark.parametrize(
    ("cheat", "why"),
    [
        (said({"signature": "0" * 130}), "v is 0"),
        (said({"user": "somebody else"}), "user"),
        (said({"unknown": 1}), "unknown"),
        (said({"score": None, "reason": "tired"}), "signed by"),
        (said({"position": "before"}), "another round"),
        (resigned(lambda said: {"subject": "ab" * 32}), "subject"),
        (resigned(lambda said: {"subject_operator": said["operator"]}), "subject"),
        (resigned(other_numbers(subject="ab" * 32)), "another subject or model"),
        (resigned(other_numbers(model="ab" * 32)), "another subject or model"),
        (resigned(other_numbers(distances=[0.0])), "distances has 1 entries"),
        (resigned(other_numbers(entropy="much")), "entropy"),
        (
            resigned(
                other_numbers(positions=1, distances=[0.0], margins=[0.0], surprisals=[0.0], winners=[4])
            ),
            "1 positions are scored, of 12",
        ),
        (resigned(other_numbers(level="seeded", distances=None)), "level"),
        (resigned(lambda said: {"score": None}), "reason for having none"),
        (resigned(lambda said: {"model": {"name": "tiny.gguf", "sha256": "ab" * 32}}), "was made with"),
        (resigned(lambda said: {"vrf": said["vrf"] | {"selected": not said["vrf"]["selected"]}}), "another ticket"),
        (resigned(lambda said: {"clock": {k: v for k, v in said["clock"].items() if k != "1"}}), "does not dominate"),
    ],
)  # fmt: skip
async def test_a_false_score_is_refused_and_kept(
    network: Any, cheat: Callable[[ScriptedOperator], None], why: str
) -> None:
    job_id, verifier = await verified_job(network, cheat)
    assert verifier.replies[0]["code"] == 400
    assert why in verifier.replies[0]["message"]
    detail = await network.finished(job_id)
    # The answer is there all the same; nobody is left who could verify it.
    assert (detail["status"], detail["verdict"]["outcome"]) == ("completed", "inconclusive")
    document = await network.evidence(job_id)
    assert document["rounds"][0]["scores"] == []
    assert json.loads(document["rejections"][0]["frame"])["method"] == "job_score"
    assert {seat["operator"]: seat["state"] for seat in document["rounds"][0]["committee"]}[
        verifier.signer.address
    ] == "refused"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"challenge": 1}, "no open job"),
        ({"job_id": "ab" * 32}, "no open job"),
        ({"tag": "malicious"}, "no open job"),
    ],
)
async def test_a_score_of_another_round_finds_none(network: Any, change: Change, why: str) -> None:
    _, verifier = await verified_job(network, resigned(lambda said: change))
    assert verifier.replies[0]["code"] == 400
    assert why in verifier.replies[0]["message"]


async def test_the_executor_cannot_score_itself(network: Any) -> None:
    """It signs a perfect score of its own answer, in the place of its verifier."""
    network.dispatcher.jobs._audit_ppm = 1_000_000
    operators = [await network.operator() for _ in range(2)]
    for operator in operators:
        operator.scores = False
    await network.submit()
    async with asyncio.timeout(30):
        while not (called := [operator for operator in operators if operator.called]):
            await asyncio.sleep(0.01)
    (executor,) = set(operators) - set(called)
    await executor.send_score(called[0].called[0])
    await executor.wait(lambda: len(executor.replies) == 2)
    assert "not (or no longer) a member" in executor.replies[1]["message"]


async def test_a_score_in_the_name_of_another_is_refused(network: Any) -> None:
    _, verifier = await verified_job(network, said({"operator": "0x" + "0" * 40}))
    assert "names operator" in verifier.replies[0]["message"]


async def test_a_score_before_the_executors_answer_is_refused(network: Any) -> None:
    operators = [await network.operator() for _ in range(3)]
    await network.finished(await network.submit(tag="suspicion", user="one"))
    for operator in operators:
        operator.answer = None
    job_id = await network.submit(tag="suspicion", user="two")
    async with asyncio.timeout(30):
        while not (committee := (await network.evidence(job_id))["rounds"][0]["committee"]):
            await asyncio.sleep(0.01)
    executor = next(o for o in operators if o.signer.address == committee[0]["operator"])
    eager = next(o for o in operators if o is not executor)
    replies = len(eager.replies)
    old = next(call for operator in operators for call in operator.called)
    await eager.send_score(old.model_copy(update={"job_id": job_id, "user": "two"}))
    await eager.wait(lambda: len(eager.replies) > replies)
    assert "was not asked to score" in eager.replies[-1]["message"]


async def test_a_score_sent_again_is_accepted_once(network: Any) -> None:
    job_id, verifier = await verified_job(network, said({}))
    await network.finished(job_id)
    await verifier.send_score(verifier.called[0])
    await verifier.wait(lambda: len(verifier.replies) == 2)
    assert [reply["code"] for reply in verifier.replies] == [200, 200]
    assert len((await network.evidence(job_id))["rounds"][0]["scores"]) == 1


async def test_another_score_after_the_first_is_refused(network: Any) -> None:
    job_id, verifier = await verified_job(network, said({}))
    await network.finished(job_id)
    verifier.sees = lambda score: score.model_copy(update={"entropy": 13.0})
    await verifier.send_score(verifier.called[0])
    await verifier.wait(lambda: len(verifier.replies) == 2)
    assert "another score" in verifier.replies[1]["message"]


async def test_a_replayed_score_frame_is_refused(network: Any) -> None:
    sent: list[str] = []

    def keep(verifier: ScriptedOperator) -> None:
        verifier.bend_frame = lambda text: sent.append(text) or text  # type: ignore[func-returns-value]

    _, verifier = await verified_job(network, keep)
    await verifier.send(sent[0])
    await verifier.wait(lambda: len(verifier.replies) == 2)
    assert "replay" in verifier.replies[1]["message"]


async def test_one_liar_among_the_verifiers_is_outvoted(network: Any) -> None:
    liar, *_others = [await network.operator() for _ in range(6)]
    liar.sees = lambda score: score.model_copy(update={"distances": [0.4] * score.positions})
    job_id = await drawn(network, lambda lot: liar.signer.address in lot.verifiers, tag="malicious")
    detail = await network.finished(job_id)
    (look,) = detail["rounds"]
    (mine,) = [member for member in look["members"] if member["operator"] == liar.signer.address]
    assert (mine["role"], mine["verdict"]) == ("verifier", "mismatch")
    assert detail["verdict"]["outcome"] == "match"
    assert await network.unpassed(job_id) == []
