"""No operator uses an entry of its clock twice, and none that was seen before: over all rounds of a job."""

from typing import Any

import pytest

from aos_protocol.errors import InvalidEvidence, InvalidFrame
from aos_protocol.evidence import check_evidence, round_views
from aos_protocol.evidence_clocks import Statement, equivocation, statements_of
from aos_protocol.frames import seal_request
from support.evidence import DISPATCHER, Story, logged

A, B = "0x" + "1" * 40, "0x" + "2" * 40


def clock_check(document: Any) -> tuple[str, str]:
    document |= {"log": logged(document)}
    checks = check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])
    [check] = [check for check in checks if check.id == "AOS-CLOCK-2"]
    return check.status, check.what


def told() -> Story:
    story = Story(operators=4)
    story.own()
    return story


def test_rounds_that_follow_each_other_pass() -> None:
    story = told()
    story.before("malicious")
    story.challenge()
    status, what = clock_check(story.document())
    assert status == "PASS"
    assert what.endswith(f": {len(statements_of(round_views(story.document())))} signed statements")


def test_two_things_under_one_entry_are_equivocation() -> None:
    """An operator whose counter was set back says other things as the same events, in another round."""
    story = told()
    for actor in story.crew:
        actor.counter = 0
    story._clock = {"1": story._clock["1"]}  # the dispatcher, too, forgets what it had seen
    story.before("malicious")
    status, what = clock_check(story.document())
    assert status == "FAIL"
    assert "signed two different things as its event 1" in what


def test_an_entry_that_had_been_seen_is_a_replay() -> None:
    story = told()
    executor = story.rounds[0]["committee"][0]["operator"]
    next(actor for actor in story.crew if actor.address == executor).counter -= 1
    story.before("malicious")
    status, what = clock_check(story.document())
    assert status == "FAIL"
    assert "of them had been seen: a replay" in what


def test_where_nobody_was_asked_there_is_nothing_to_compare() -> None:
    document = told().document()
    document["rounds"][0] |= {
        "registry": None,
        "electorate": None,
        "results": [],
        "scores": [],
        "committee": [],
    }
    assert clock_check(document) == ("SKIP", "nothing is signed by an operator yet")


def test_the_same_said_again_is_no_equivocation() -> None:
    def frame(number: str, **said: Any) -> str:
        return seal_request(DISPATCHER, number, "job_result", [said]).text

    first = Statement(A, 3, frame("1", result="yes", signature="one"))
    assert not equivocation(first, first)
    assert not equivocation(first, Statement(A, 3, frame("2", result="yes", signature="another")))
    assert not equivocation(first, Statement(A, 4, frame("1", result="no")))
    assert not equivocation(first, Statement(B, 3, frame("1", result="no")))
    assert equivocation(first, Statement(A, 3, frame("1", result="no", signature="one")))


def test_what_cannot_be_read_is_told() -> None:
    with pytest.raises(InvalidFrame):
        Statement(A, 1, "no frame").content()
    with pytest.raises(InvalidEvidence, match="says nothing"):
        Statement(A, 1, seal_request(DISPATCHER, "1", "job_result", []).text).content()
