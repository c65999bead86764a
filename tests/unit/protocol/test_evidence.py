"""Evidence checks: honest documents of every kind of round pass whole, and a bent round fails the check that is made for it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import Check, answers, check_evidence, scores
from aos_protocol.identity import Signer
from support.evidence import (
    CLAIM,
    DISPATCHER,
    FINGERPRINTED,
    SEEDED,
    Actor,
    Story,
    honest,
    honest_evidence,
    logged,
)

JOB = ["AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1"]
LOGGED = ["AOS-HEAD-1", "AOS-LOG-1", "AOS-CLOCK-2"]
DRAW = ["AOS-TICKET-1", "AOS-COMMITTEE-1", "AOS-ROLE-1"]
ANSWERED = ["AOS-RESULT-1", "AOS-TRANSCRIPT-1"]
REST = ["AOS-CLOCK-1", "AOS-MODEL-1", "AOS-COMPLETE-1"]
AUDIT, SCORE, VERDICT, MATCH = ["AOS-AUDIT-1"], ["AOS-SCORE-1"], ["AOS-VERDICT-1"], ["AOS-MATCH-1"]
TAGGED = [*DRAW, *ANSWERED, *SCORE, *REST, *VERDICT]
CHALLENGE = [*DRAW, *SCORE, *REST, *VERDICT, "AOS-CHALLENGE-1"]


def checks(document: Any) -> list[Check]:
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])


def relogged(document: Any) -> Any:
    """The same document with a log of what it says now, as of a dispatcher that wrote the lie down at once."""
    return document | {"log": logged(document)}


def failing(document: Any) -> dict[str, str]:
    return {check.id: check.what for check in checks(relogged(document)) if check.status == "FAIL"}


def told(story: Story, *rounds: Callable[[Story], object]) -> Story:
    for hold in rounds:
        hold(story)
    return story


def passing(story: Story) -> list[str]:
    """The ids of the checks, all of which pass."""
    outcome = checks(story.document())
    assert [check for check in outcome if check.status != "PASS"] == []
    return [check.id for check in outcome]


def test_an_audited_job_has_an_executor_and_a_verifier() -> None:
    story = told(Story(), Story.own)
    assert [seat["role"] for seat in story.rounds[0]["committee"]] == ["executor", "verifier"]
    assert passing(story) == [*JOB, *LOGGED, *DRAW, *AUDIT, *ANSWERED, *SCORE, *REST, *VERDICT, *MATCH]


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_a_tagged_job_passes(tag: str) -> None:
    story = told(Story(tag), Story.own)
    assert passing(story) == [*JOB, *LOGGED, *TAGGED, *MATCH]
    executing = len(story.rounds[0]["results"])
    assert executing == (1 if tag == "suspicion" else len(story.rounds[0]["committee"]))


def test_an_unaudited_job_s_answer_is_skipped_and_never_passed() -> None:
    outcome = checks(told(Story(audit_ppm=0), Story.own).document())
    assert [check.id for check in outcome] == [*JOB, *LOGGED, *DRAW, *AUDIT, *ANSWERED, *REST, *MATCH]
    committee = next(check for check in outcome if check.id == "AOS-COMMITTEE-1")
    assert [(check.id, check.what) for check in outcome if check.status != "PASS"] == [
        ("AOS-MATCH-1", f"the answer of {committee.what.split(': ')[1]}: nobody was asked to score it")
    ]
    assert outcome[-1].status == "SKIP"


def test_a_job_that_an_earlier_one_tagged_passes() -> None:
    assert passing(told(Story(), lambda story: story.own(cause_tag="malicious"))) == [
        *JOB,
        *LOGGED,
        *TAGGED,
        *MATCH,
    ]


def test_another_look_because_of_a_later_job_passes() -> None:
    story = told(Story(audit_ppm=0), Story.own, lambda story: story.before("suspicion"))
    assert passing(story) == [*JOB, *LOGGED, *DRAW, *AUDIT, *ANSWERED, *REST, *TAGGED, *MATCH]


@pytest.mark.parametrize("by", ["dispatcher", "project", "operator"])
def test_a_challenge_passes_whoever_asked_for_it(by: str) -> None:
    story = told(Story(audit_ppm=0), Story.own, lambda story: story.challenge(by=by))
    assert passing(story) == [*JOB, *LOGGED, *DRAW, *AUDIT, *ANSWERED, *REST, *CHALLENGE, *MATCH]
    plea = story.rounds[1]["plea"]
    assert (plea["operator"] is not None) == (plea["signature"] is not None) == (by == "operator")


def test_challenges_of_several_results_pass() -> None:
    story = told(Story(), Story.own, lambda s: s.before("malicious"), Story.challenge)
    story.challenge(round_=1, by="project")
    assert passing(story)[-len(CHALLENGE) * 2 - 1 :] == [*CHALLENGE, *CHALLENGE, *MATCH]


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_executor_is_replaced_by_the_next_seat(tag: str, lost: int) -> None:
    story = told(Story(tag, operators=9), lambda story: story.own(lost=lost))
    assert passing(story) == [*JOB, *LOGGED, *TAGGED, *MATCH]
    assert [seat["state"] for seat in story.rounds[0]["committee"]][: lost + 1] == ["lost"] * lost + [
        "answered"
    ]


@pytest.mark.parametrize(("claim", "level"), [(SEEDED, "seeded"), (FINGERPRINTED, "fingerprint")])
@pytest.mark.parametrize("tag", ["", "suspicion"])
def test_a_claim_is_scored_and_not_executed(claim: dict[str, Any], level: str, tag: str) -> None:
    story = told(Story(tag, claim=claim), Story.own)
    audit = [] if tag else AUDIT
    assert passing(story) == [*JOB, *LOGGED, *DRAW, *audit, *SCORE, *REST, *VERDICT, *MATCH]
    assert story.rounds[0]["verdict"]["level"] == level
    assert {seat["role"] for seat in story.rounds[0]["committee"]} == {"verifier"}


def test_a_claim_s_prover_among_its_judges_is_found() -> None:
    prover = Actor(2, honest).signer.address
    story = told(Story("suspicion", claim=SEEDED | {"prover": prover.lower()}), Story.own)
    found = failing(story.document())
    assert prover in {elector["operator"] for elector in story.rounds[0]["electorate"]}
    assert [what for what in found.values() if "asked to judge a claim of its own" in what] != []


def test_a_claim_that_is_too_short_for_its_level_is_skipped() -> None:
    outcome = checks(told(Story("suspicion", claim=CLAIM), Story.own).document())
    assert [check.id for check in outcome if check.status != "PASS"] == MATCH
    assert outcome[-1].status == "SKIP"
    assert outcome[-1].what.startswith("the claim: inconclusive: 3 tokens cannot decide")


def test_what_was_refused_is_part_of_it() -> None:
    assert passing(told(Story(), Story.own, Story.reject))[:4] == [*JOB, "AOS-REJECTION-1"]


def test_it_survives_a_trip_through_json() -> None:
    document = json.loads(json.dumps(honest_evidence("suspicion")))
    assert {check.status for check in checks(document)} == {"PASS"}


def test_answers_and_scores_are_read_from_the_signed_frames() -> None:
    document = honest_evidence("malicious", operators=5)
    said = answers(document)
    assert {answer.result for answer in said} == {"a sensible answer"}
    assert {answer.role for answer in said} == {"executor", "verifier"}
    seats = document["rounds"][0]["committee"]
    verifiers = [seat["operator"] for seat in seats if seat["role"] == "verifier"]
    assert sorted(score.operator for score in scores(document)) == sorted(verifiers)


def test_another_dispatcher_or_job_is_not_this_evidence() -> None:
    document = honest_evidence()
    with pytest.raises(InvalidEvidence, match="of dispatcher"):
        check_evidence(document, dispatcher=Signer(b"\x55" * 32).address, job_id=document["job"]["job_id"])
    with pytest.raises(InvalidEvidence, match="of job"):
        check_evidence(document, dispatcher=DISPATCHER.address, job_id="0" * 64)


@pytest.mark.parametrize("document", [None, [], {}, {"version": "aos-evidence/2"}, "text", 7])
def test_what_is_no_evidence_is_said_to_be_none(document: Any) -> None:
    for read in (
        answers,
        scores,
        lambda d: check_evidence(d, dispatcher=DISPATCHER.address, job_id="0" * 64),
    ):
        with pytest.raises(InvalidEvidence):
            read(document)


def test_an_undrawn_job_is_skipped_and_never_passed() -> None:
    document = honest_evidence()
    document["job"] |= {"status": "failed", "reason": "no operator"}
    document["rounds"][0] |= {
        "status": "failed", "registry": None, "draw_clock": None, "electorate": None, "dispatch_clock": None,
        "committee": [], "results": [], "scores": [], "verdict": None,
    }  # fmt: skip
    outcome = {check.id: check for check in checks(relogged(document))}
    passing = [*JOB, "AOS-HEAD-1", "AOS-LOG-1"]
    assert {check.status for name, check in outcome.items() if name in passing} == {"PASS"}
    assert {check.status for name, check in outcome.items() if name not in passing} == {"SKIP"}
    assert outcome["AOS-TICKET-1"].what == "no draw was held: no operator"


def test_a_round_that_goes_on_has_no_verdict_to_check() -> None:
    document = honest_evidence()
    document["job"]["status"] = document["rounds"][0]["status"] = "dispatched"
    document["rounds"][0]["committee"][1]["state"] = "assigned"
    document["rounds"][0] |= {"scores": [], "verdict": None}
    document["job"]["clock"] = document["rounds"][0]["dispatch_clock"]
    skipped = {check.id: check.what for check in checks(relogged(document)) if check.status != "PASS"}
    assert skipped.keys() == {"AOS-SCORE-1", "AOS-COMPLETE-1", "AOS-VERDICT-1", "AOS-MATCH-1"}
    assert skipped["AOS-COMPLETE-1"] == "the job is dispatched"
    assert skipped["AOS-MATCH-1"].endswith("no verifier has scored it yet")


def lose_one(document: dict[str, Any]) -> None:
    """Let the first member be lost, and nobody take its seat."""
    document["rounds"][0]["committee"][0]["state"] = "lost"


def set_aside(document: dict[str, Any]) -> None:
    """Let the operator whose ticket came first have been absent, though its ticket is there."""
    first = document["rounds"][0]["committee"][0]["operator"]
    for elector in document["rounds"][0]["electorate"]:
        if elector["operator"] == first:
            elector["reason"] = "absent"


def swap_roles(document: dict[str, Any]) -> None:
    first, second = document["rounds"][0]["committee"][:2]
    first["role"], second["role"] = second["role"], first["role"]


BENT: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (lose_one, "AOS-COMMITTEE-1", "smaller than the draw made it"),
    (set_aside, "AOS-TICKET-1", "was set aside: absent"),
    (swap_roles, "AOS-ROLE-1", "which its place does not give"),
    (lambda d: d["rounds"][0]["committee"].reverse(), "AOS-COMMITTEE-1", "not the head of the draw"),
    (
        lambda d: d["rounds"][0]["registry"]["operators"][0].update(end=600_001),
        "AOS-COMMITTEE-1",
        "same share",
    ),
    (lambda d: d["rounds"][0]["registry"].update(max_range=2), "AOS-COMMITTEE-1", "range is not 600000"),
    (lambda d: d["rounds"][0].update(cause="c" * 64), "AOS-COMMITTEE-1", "not stronger than the request's"),
    (lambda d: d["rounds"][0].update(cause=d["job"]["job_id"]), "AOS-COMMITTEE-1", "another job has caused"),
    (lambda d: d["rounds"][0].update(subject="{}"), "AOS-COMMITTEE-1", "only a challenge has"),
    (lambda d: d["rounds"].append(d["rounds"][0]), "AOS-COMMITTEE-1", "two rounds under one tag"),
    (lambda d: d["rounds"][0]["results"].clear(), "AOS-COMPLETE-1", "has 0 results"),
    (lambda d: d["rounds"][0]["scores"].pop(), "AOS-COMPLETE-1", "0 scores"),
    (lambda d: d["rounds"][0].update(status="failed"), "AOS-COMPLETE-1", "its own round failed"),
    (lambda d: d["rounds"][0].update(dispatch_clock={"1": "1"}), "AOS-CLOCK-1", "does not follow the draw"),
    (lambda d: d["job"].update(clock={"1": "1"}), "AOS-CLOCK-1", "does not follow the result"),
]


@pytest.mark.parametrize(("bend", "check", "why"), BENT)
def test_a_bent_round_fails_the_check_that_is_made_for_it(
    bend: Callable[[dict[str, Any]], object], check: str, why: str
) -> None:
    document = honest_evidence("suspicion")
    bend(document)
    assert why in failing(document)[check]


def test_a_job_without_a_round_of_its_own_fails() -> None:
    document = told(Story("suspicion"), Story.own, lambda story: story.before("malicious")).document()
    del document["rounds"][0]
    assert "exactly one round of its own" in failing(document)["AOS-COMMITTEE-1"]


def test_an_audit_that_the_seed_asks_for_must_be_held() -> None:
    """The dispatcher may not spare an operator the verifier that the seed gave it."""
    unaudited = told(Story(audit_ppm=0), Story.own)
    assert len(unaudited.rounds[0]["committee"]) == 1
    document = unaudited.document() | {"policy": {"audit_ppm": 1_000_000}}
    assert "the seed puts this job among the 100%" in failing(document)["AOS-AUDIT-1"]
    assert "smaller than the draw made it" in failing(document)["AOS-COMMITTEE-1"]


def test_an_audit_that_the_seed_does_not_ask_for_is_no_part_of_it() -> None:
    document = told(Story(), Story.own).document() | {"policy": {"audit_ppm": 0}}
    assert failing(document).keys() == {"AOS-COMMITTEE-1"}


def test_a_rejection_that_another_signed_is_found() -> None:
    document = told(Story("malicious"), Story.own, Story.reject).document()
    document["rejections"][0]["operator"] = DISPATCHER.address
    assert f"held against {DISPATCHER.address} is signed by 0x" in failing(document)["AOS-REJECTION-1"]


def test_a_rejection_about_another_job_is_found() -> None:
    document = told(Story(), Story.own).document()
    frame = told(Story("suspicion"), Story.own, Story.reject).document()["rejections"]
    document["rejections"] = frame
    assert "is not about this job" in failing(document)["AOS-REJECTION-1"]
