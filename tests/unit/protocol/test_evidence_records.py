"""Evidence of answers that come with a record in place of a transcript: what passes, what is skipped and why, and what fails."""

from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.evidence import Check, check_evidence, round_views
from support.evidence import DISPATCHER, TEXT_ONLY, TOKEN_IDS, TOKENS, UNSCORED, Story, logged

Said = dict[str, Any]


def told(record: Said = TEXT_ONLY, tag: str = "", least: str | None = "text", **how: Any) -> Story:
    story = Story(tag, record=record, least=least, **({"operators": 4} | how))
    story.own()
    return story


def checks(document: Said) -> list[Check]:
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])


def of(document: Said, id_: str) -> list[Check]:
    return [check for check in checks(document) if check.id == id_]


def failing(document: Said) -> dict[str, str]:
    return {check.id: check.what for check in checks(document) if check.status == "FAIL"}


def bent(change: Callable[[Said], object], **how: Any) -> Said:
    """A story in which every result was changed before its operator signed it."""

    def bend(_: object, said: Said) -> None:
        if "result" in said:
            said["record"] = dict(said["record"])
            change(said)

    document: Said = told(**how, bend=bend).document()
    return document


@pytest.mark.parametrize("tag", ["", "suspicion", "malicious"])
@pytest.mark.parametrize("audit_ppm", [0, 1_000_000])
def test_an_honest_answer_of_text_has_no_transcript_that_could_pass(tag: str, audit_ppm: int) -> None:
    document = told(tag=tag, operators=6, audit_ppm=audit_ppm).document()
    assert failing(document) == {}
    (record,), (transcript,), (match,) = (
        of(document, f"AOS-{name}-1") for name in ("RECORD", "TRANSCRIPT", "MATCH")
    )
    assert (record.status, transcript.status, match.status) == ("PASS", "SKIP", "SKIP")
    assert "text (ollama)" in record.what
    assert transcript.what.startswith("there is no transcript: 0x")
    assert "ollama shows text of its answers, and no tokens" in match.what


def test_token_ids_are_scored_as_likely_or_not_and_looked_at_again() -> None:
    story = told(TOKEN_IDS, "suspicion", least="token_ids")
    story.challenge()
    document = story.document()
    assert failing(document) == {}
    assert {check.status for check in of(document, "AOS-SCORE-1")} == {"PASS"}
    assert [round_["verdict"]["level"] for round_ in document["rounds"]] == ["likelihood"] * 2


def test_answers_with_transcripts_have_no_line_about_records() -> None:
    assert of(told(least="text", record=None).document(), "AOS-RECORD-1") == []  # type: ignore[arg-type]


BENT: dict[str, tuple[Said, Callable[[Said], object], str]] = {
    "no level": ({}, lambda said: said["record"].pop("level"), "Record: level"),
    "fingerprints in the open": ({}, lambda said: said["record"].update(level="fingerprints", transcript="ab" * 32), "show the transcript"),
    "token ids without tokens": ({}, lambda said: said["record"].update(level="token_ids"), "has output_tokens"),
    "logprobs of nothing": ({}, lambda said: said["record"].update(level="logprobs"), "there are none"),
    "too many tokens": (
        {"record": TOKEN_IDS}, lambda said: said["record"].update(output_tokens=TOKENS * 400), "exceed max_tokens",
    ),
    "images": (
        {},
        lambda said: said["record"].update(images=[{"sha256": "ab" * 32, "media_type": "image/png", "size": 1, "width": 1, "height": 1}]),
        "images if the job asks",
    ),
    "a transcript beside it": ({}, lambda said: said.update(transcript={"rule": 1}), "not both"),
}  # fmt: skip


@pytest.mark.parametrize("name", BENT)
def test_a_record_that_does_not_fit_its_answer_fails_though_it_is_signed(name: str) -> None:
    how, change, why = BENT[name]
    found = failing(bent(change, **how))
    assert why in found["AOS-RESULT-1"]
    if "AOS-RECORD-1" in found:
        assert why in found["AOS-RECORD-1"]
    else:  # what cannot be read is no record: then there is no transcript, either
        assert "AOS-TRANSCRIPT-1" in found


@pytest.mark.parametrize(
    ("least", "record"), [("token_ids", TEXT_ONLY), ("fingerprints", TOKEN_IDS), (None, TOKEN_IDS)]
)
def test_less_than_the_policy_wanted_fails(least: str | None, record: Said) -> None:
    """A dispatcher that says nothing of it took transcripts only."""
    found = failing(told(record, least=least).document())
    assert set(found) == {"AOS-RECORD-1"}
    assert f"shows {record['level']} only" in found["AOS-RECORD-1"]
    assert f"is {least or 'fingerprints'}" in found["AOS-RECORD-1"]


def test_the_policy_cannot_be_changed_afterwards() -> None:
    document = told(TEXT_ONLY, least="token_ids").document()
    document["policy"]["least_evidence"] = "text"
    assert set(failing(document)) == {"AOS-LOG-1"}


def test_somebody_else_s_record_fails() -> None:
    """The signature binds the digest of the record, which is all that differs here."""
    document = told().document()
    story = told(TEXT_ONLY | {"backend": "vllm"})
    document["rounds"][0]["results"] = story.document()["rounds"][0]["results"]
    document["log"] = logged(document)
    assert failing(document) == {}  # it is as good an answer, of the same operator and signed
    assert "vllm" in of(document, "AOS-RECORD-1")[0].what


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda round_: round_.update(verdict=UNSCORED | {"outcome": "match"}), "AOS-VERDICT-1"),
        (lambda round_: round_.update(verdict=UNSCORED | {"level": "likelihood"}), "AOS-VERDICT-1"),
        (lambda round_: round_.update(verdict=None), "AOS-VERDICT-1"),
        (lambda round_: round_["committee"][1].update(state="answered"), "AOS-COMPLETE-1"),
        (lambda round_: round_["committee"][1].update(state="assigned"), "AOS-COMPLETE-1"),
        (lambda round_: round_["committee"].pop(), "AOS-COMMITTEE-1"),
    ],
)
def test_a_round_that_nobody_could_score_says_so_and_no_more(
    change: Callable[[Said], object], check: str
) -> None:
    document = told(tag="suspicion").document()
    change(document["rounds"][0])
    document["log"] = logged(document)
    assert check in failing(document)


def test_verifiers_may_not_be_sent_home_where_there_is_something_to_score() -> None:
    document = told(TOKEN_IDS, "suspicion", operators=6).document()
    round_ = document["rounds"][0]
    for seat in round_["committee"][1:]:
        seat |= {"state": "refused", "reason": "not today"}
    round_ |= {"scores": [], "verdict": UNSCORED}
    document["log"] = logged(document)
    assert {"AOS-COMMITTEE-1", "AOS-COMPLETE-1"} <= failing(document).keys()


def test_what_a_view_tells_of_its_answers() -> None:
    [view] = round_views(told().document())
    assert list(view.recorded.values()) == ["text (ollama)"]
    assert view.least == "text"
    assert "nothing that could be scored" in view.unscorable
    [view] = round_views(told(TOKEN_IDS).document())
    assert view.unscorable == ""
