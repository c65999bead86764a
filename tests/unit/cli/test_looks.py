"""Looks: who did what in each round, computed from signed evidence."""

import copy
from typing import Any

import pytest
from rich.console import Console

from aos_cli.looks import looks_of, said_of, show_looks
from aos_cli.show import show_rows
from support.evidence import CHEATING, SEEDED, TEXT_ONLY, TOKEN_IDS, Story, rows_of


def shown(story: Story) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        show_looks(console, looks_of(story.document()))
    return captured.get()


def test_each_round_has_its_members_and_its_verdict() -> None:
    story = Story()
    story.own()
    story.before("malicious")
    story.challenge()
    names = [look.name for look in looks_of(story.document())]
    assert names == ["the job, audited", "malicious, looked at again", "challenge 1"]
    for look in looks_of(story.document()):
        assert look.verdict is not None
        assert look.verdict.outcome == "match"
        assert {member.role for member in look.members} == (
            {"verifier"} if "challenge" in look.name else {"executor", "verifier"}
        )
        assert {member.verdict is None for member in look.members if member.role == "verifier"} == {False}


@pytest.mark.parametrize(("tag", "name"), [("suspicion", "suspicion, the job"), ("", "the job, audited")])
def test_a_claim_s_look_has_verifiers_only(tag: str, name: str) -> None:
    story = Story(tag, claim=SEEDED)
    story.own()
    [look] = looks_of(story.document())
    assert (look.name, {member.role for member in look.members}) == (name, {"verifier"})


def test_what_nobody_scored_has_no_verdict() -> None:
    story = Story(audit_ppm=0)
    story.own()
    assert "no verdict: nobody has scored this answer" in shown(story)
    assert shown(story).startswith("the job\n")


def test_an_answer_of_an_enclave_that_nobody_scored_rests_on_its_attestation() -> None:
    story = Story(enclaves=True, audit_ppm=0)
    story.own()
    assert (
        "\nno verdict: nobody has scored this answer; what stands for it is the attestation of its enclave, which is SIMULATED"
    ) in shown(story)
    audited = Story(enclaves=True)
    audited.own()
    assert "\nverdict: match. " in shown(audited)
    assert [look.kind for look in looks_of(audited.document())] == ["simulated"]


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ({"attestation": "nitro", "job": {}}, "no verdict: nobody has scored this answer; what stands"),
        (
            {"attestation": "nitro", "job": {"sealed": {}}},
            "sealed: only the enclave and the project can read",
        ),
        ({"attestation": None, "job": {}}, "no verdict: nobody has scored this answer, so nothing but"),
        ({"attestation": 7, "job": None}, "no verdict: nobody has scored this answer, so nothing but"),
        ({"attestation": "nitro", "verdict": {"outcome": "match"}}, "verdict: match. "),
    ],
)
def test_what_a_detail_says_of_an_enclave(detail: dict[str, object], said: str) -> None:
    assert said_of(detail).startswith(said)
    assert "SIMULATED" not in said_of(detail)
    assert ("SIMULATED" in said_of(detail | {"attestation": "simulated"})) == ("verdict: match" not in said)


def test_a_member_that_was_lost_is_shown_as_lost() -> None:
    story = Story("suspicion")
    story.own(lost=1)
    assert "executor  lost" in shown(story)


def test_a_mismatch_says_what_it_is_likest_to() -> None:
    story = Story("suspicion", distance=CHEATING)
    story.own()
    assert "mismatch  the fingerprints are not those of this model run as pinned" in shown(story)
    assert "verdict: mismatch. By the verifiers' own copies of the model" in shown(story)


def test_the_dispatcher_s_own_verdict_is_not_what_is_shown() -> None:
    story = Story("suspicion", distance=CHEATING)
    story.own()
    document = story.document()
    document["rounds"][0]["verdict"]["outcome"] = "match"
    [look] = looks_of(document)
    assert look.verdict is not None
    assert look.verdict.outcome == "mismatch"


def test_scores_that_do_not_hold_give_no_verdict() -> None:
    story = Story("suspicion")
    story.own()
    document = copy.deepcopy(story.document())
    document["rounds"][0]["scores"][0] = document["rounds"][0]["scores"][0].replace("scripted", "scrapped")
    [look] = looks_of(document)
    assert look.verdict is None
    assert {member.verdict for member in look.members} == {None}


def test_what_is_no_evidence_has_no_looks() -> None:
    assert looks_of({"version": "aos-evidence/1"}) == []


def test_rows_say_who_did_what_in_which_round() -> None:
    story = Story("suspicion")
    story.own()
    story.challenge()
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        show_rows(console, rows_of(story.document()))
    lines = captured.get().splitlines()
    assert [" ".join(line.split()[1:4]) for line in lines[1:4]] == ["executor suspicion after"] + [
        "verifier suspicion after"
    ] * 2
    assert [" ".join(line.split()[1:5]) for line in lines[4:7]] == ["verifier of challenge 1"] * 3
    assert lines[-1] == "a sensible answer"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            TEXT_ONLY,
            "the answer came from ollama, which shows text of it and no transcript: it is its operator's word",
        ),
        (
            TOKEN_IDS,
            "the answer came from llama.cpp, which shows token_ids of it and no transcript: how it was sampled",
        ),
    ],
)
def test_an_answer_without_a_transcript_says_what_it_shows(record: dict[str, Any], said: str) -> None:
    story = Story(record=record, least="text", audit_ppm=0)
    story.own()
    assert said in shown(story)
    [look] = looks_of(story.document())
    assert (look.to_json()["evidence"], look.to_json()["backend"]) == (record["level"], record["backend"])


def test_an_answer_with_its_transcript_says_nothing_of_it() -> None:
    story = Story(audit_ppm=0)
    story.own()
    assert "transcript" not in shown(story)
    [look] = looks_of(story.document())
    assert (look.to_json()["evidence"], look.to_json()["backend"]) == ("fingerprints", None)
