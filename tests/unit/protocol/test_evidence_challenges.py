"""Evidence of second looks: each has a number, a seed, somebody who asked for it, and no party among its judges."""

from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.errors import InvalidEvidence, InvalidMessage
from aos_protocol.evidence import Check, check_evidence
from aos_protocol.evidence_document import PleaDocument
from aos_protocol.evidence_view import open_result
from aos_protocol.fields import parse_message
from aos_protocol.typed_data import ChallengeClaim, sign_typed
from support.evidence import CHEATING, DISPATCHER, DOMAIN, FINGERPRINTED, Actor, Story

ID = "AOS-CHALLENGE-1"


def checks(document: Any) -> list[Check]:
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])


def failing(document: Any) -> dict[str, str]:
    return {check.id: check.what for check in checks(document) if check.status == "FAIL"}


def challenged(by: str = "operator", **how: Any) -> Story:
    story = Story(**({"audit_ppm": 0, "operators": 5} | how))
    story.own()
    story.challenge(by=by)
    return story


def appealed(*, distance: float = CHEATING) -> Story:
    story = Story(operators=5, distance=distance)
    story.own()
    story.challenge()
    story.challenge(by="operator", purpose="appeal")
    return story


def test_a_mismatch_needs_a_second_look() -> None:
    story = Story(distance=CHEATING)
    story.own()
    assert "does not match, and there is no challenge of it" in failing(story.document())[ID]
    story.challenge()
    assert failing(story.document()).keys() == {"AOS-MATCH-1"}


def test_a_second_look_at_another_result_is_none() -> None:
    story = Story(distance=CHEATING)
    story.own()
    story.before("malicious")
    story.challenge(round_=1)
    assert "does not match, and there is no challenge of it" in failing(story.document())[ID]


def test_a_mismatch_of_a_claim_accuses_nobody() -> None:
    story = Story("suspicion", claim=FINGERPRINTED, distance=CHEATING)
    story.own()
    assert failing(story.document()).keys() == {"AOS-MATCH-1"}


def test_a_mismatch_of_a_round_that_goes_on_needs_none_yet() -> None:
    story = Story(distance=CHEATING)
    story.own()
    document = story.document()
    document["job"]["status"] = document["rounds"][0]["status"] = "dispatched"
    assert ID not in [check.id for check in checks(document)]


def test_an_appeal_needs_a_finding() -> None:
    assert failing(appealed().document()).keys() == {"AOS-MATCH-1"}
    assert (
        "no challenge before this appeal found against the result"
        in failing(appealed(distance=0.001).document())[ID]
    )


def test_an_appeal_is_the_accused_operator_s() -> None:
    document = appealed().document()
    stranger = next(
        actor for actor in crew() if actor.address not in document["rounds"][2]["plea"]["operator"]
    )
    document["rounds"][2]["plea"] |= signed(document, stranger, "appeal")
    assert "is its own to make" in failing(document)[ID]


def test_nobody_challenges_its_own_result() -> None:
    document = challenged().document()
    maker = open_result(document["rounds"][1]["subject"]).operator
    actor = next(actor for actor in crew() if actor.address == maker)
    document["rounds"][1]["plea"] |= signed(document, actor, "challenge")
    assert f"{maker} challenges a result of its own" in failing(document)[ID]


def test_a_party_that_was_asked_to_judge_is_found() -> None:
    """A project's challenge that is passed off as that of an operator which sat in judgement."""
    story = challenged("project")
    document = story.document()
    judge = document["rounds"][1]["electorate"][0]["operator"]
    actor = next(actor for actor in crew() if actor.address == judge)
    document["rounds"][1]["plea"] |= signed(document, actor, "challenge") | {"by": "operator"}
    assert f"{judge} was asked to judge, but is a party" in failing(document)[ID]


def test_the_maker_of_a_result_does_not_judge_it() -> None:
    """Its own round's electorate in place of the challenge's: the maker is in it."""
    document = challenged("project").document()
    document["rounds"][1]["electorate"] = document["rounds"][0]["electorate"]
    maker = open_result(document["rounds"][1]["subject"]).operator
    assert f"{maker} was asked to judge, but is a party" in failing(document)[ID]


@pytest.mark.parametrize("change", [{"reason": "it is bad"}, {"purpose": "appeal"}, {"signature": "1" * 130}])
def test_a_plea_that_its_operator_did_not_sign_is_found(change: dict[str, str]) -> None:
    document = challenged().document()
    document["rounds"][1]["plea"] |= change
    assert ID in failing(document)


def test_a_plea_about_another_result_is_found() -> None:
    """The signature names the result: it cannot be used against another operator, job or tag."""
    document = challenged().document()
    plea = document["rounds"][1]["plea"]
    actor = next(actor for actor in crew() if actor.address == plea["operator"])
    claim = ChallengeClaim(actor.address, "challenge", f"{DISPATCHER.address}_{'0' * 64}_", plea["reason"])
    plea["signature"] = sign_typed(actor.signer, DOMAIN, claim)
    assert f"the challenge of {actor.address} is signed by 0x" in failing(document)[ID]


BENT: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda r: r.update(challenge=2), "not numbered 1, 2"),
    (lambda r: r.update(position="before"), "under suspicion, after the result"),
    (lambda r: r.update(tag="malicious"), "under suspicion, after the result"),
    (lambda r: r.update(cause="c" * 64), "needs no cause"),
    (lambda r: r.update(seed=None), "has a seed of its own"),
    (lambda r: r.update(plea=None), "somebody who asked for it"),
    (lambda r: r["seed"].update(value="7" * 64), "not the output of its proof"),
    (lambda r: r.update(subject=None), "none of this job's"),
    (lambda r: r.update(results=[r["subject"]]), "none of this job's"),
    (lambda r: r.update(subject=r["scores"][0]), "none of this job's"),
]


@pytest.mark.parametrize(("bend", "why"), BENT)
def test_a_bent_challenge_is_found(bend: Callable[[dict[str, Any]], object], why: str) -> None:
    document = challenged().document()
    bend(document["rounds"][1])
    assert why in failing(document)[ID]


def test_the_seed_of_the_job_draws_no_challenge() -> None:
    document = challenged().document()
    document["rounds"][1]["seed"] = document["seed"]
    failed = failing(document)
    assert "The VRF proof does not hold" in failed[ID]
    assert "AOS-TICKET-1" in failed or "AOS-COMMITTEE-1" in failed


def test_a_challenge_that_is_left_out_shows_as_a_gap() -> None:
    story = challenged("project")
    story.challenge()
    document = story.document()
    del document["rounds"][1]
    assert "one is missing or twice" in failing(document)[ID]


def test_an_ordinary_round_has_nothing_of_a_challenge() -> None:
    document = challenged("project").document()
    document["rounds"][0]["plea"] = document["rounds"][1]["plea"]
    assert "only a challenge has" in failing(document)["AOS-COMMITTEE-1"]


@pytest.mark.parametrize(
    "change",
    [{"by": "project"}, {"operator": None}, {"signature": None}, {"operator": None, "signature": None}],
)
def test_only_operators_sign_pleas(change: dict[str, Any]) -> None:
    plea = challenged().rounds[1]["plea"]
    with pytest.raises(InvalidMessage, match="nobody else"):
        parse_message(PleaDocument, plea | change)
    document = challenged().document()
    document["rounds"][1]["plea"] |= change
    with pytest.raises(InvalidEvidence):
        checks(document)


def crew() -> list[Actor]:
    return Story(operators=5).crew


def signed(document: Any, actor: Actor, purpose: str) -> dict[str, Any]:
    """A plea of this operator about the last challenge's subject, rightly signed."""
    said = open_result(document["rounds"][-1]["subject"])
    row = f"{said.operator}_{said.job_id}_{said.tag}"
    claim = ChallengeClaim(actor.address, purpose, row, "it reads oddly")
    return {
        "purpose": purpose,
        "operator": actor.address,
        "reason": "it reads oddly",
        "signature": sign_typed(actor.signer, DOMAIN, claim),
    }
