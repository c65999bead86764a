"""The rule of tags: what a user's jobs run under, against a model that keeps the whole history."""

from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.errors import InvalidEvidence
from aos_protocol.fields import Tag
from aos_protocol.sortition import ticket_threshold
from aos_protocol.tagging import AFTER_JOBS, ActiveTag, Placement, check_placements, place

TAGS = get_args(Tag)
REPLACED_BY = {"suspicion": ["suspicion", "malicious"], "malicious": ["malicious"]}


def run(asked: list[Tag], active: ActiveTag | None = None) -> tuple[list[Placement], ActiveTag | None]:
    """Place a user's jobs one after the other; job n has the id `str(n)`."""
    placements = []
    for number, tag in enumerate(asked):
        placement, active = place(active, str(number), tag)
        placements.append(placement)
    return placements, active


@cache
def expected(asked: tuple[Tag, ...], number: int) -> tuple[str, str | None]:
    """Tag and cause of one job, found by looking back for whoever brought a tag rather than by counting down."""
    for cause in range(number - 1, max(number - 1 - AFTER_JOBS, -1), -1):
        brought_a_tag = asked[cause] and expected(asked, cause)[1] is None
        if brought_a_tag and asked[number] in REPLACED_BY[asked[cause]]:
            break
        if brought_a_tag:
            return asked[cause], str(cause)
    return asked[number], None


@given(st.lists(st.sampled_from(TAGS), max_size=40))
def test_every_job_has_the_tag_that_looking_back_gives_it(asked: list[Tag]) -> None:
    placements, _ = run(asked)
    assert [(p.tag, p.cause) for p in placements] == [expected(tuple(asked), n) for n in range(len(asked))]


@given(st.lists(st.sampled_from(TAGS), max_size=60))
def test_a_job_is_never_placed_below_what_it_asked_for(asked: list[Tag]) -> None:
    order = list(TAGS)
    placements, _ = run(asked)
    assert all(order.index(p.tag) >= order.index(tag) for p, tag in zip(placements, asked, strict=True))


@given(st.lists(st.sampled_from(TAGS), max_size=60))
def test_placements_are_rounds_that_the_protocol_knows(asked: list[Tag]) -> None:
    for placement, tag in zip(run(asked)[0], asked, strict=True):
        assert ticket_threshold(0, 100, placement.tag, placement.position) >= 100
        assert placement.position == ("after" if placement.tag else "")
        assert placement.tagging == (placement.cause is None and placement.tag != "")
        assert not placement.tagging or placement.tag == tag


@given(st.lists(st.sampled_from(TAGS), max_size=60))
def test_no_cause_follows_its_job_or_lies_further_back_than_the_rule_allows(asked: list[Tag]) -> None:
    for number, placement in enumerate(run(asked)[0]):
        assert placement.cause is None or 1 <= number - int(placement.cause) <= AFTER_JOBS


@pytest.mark.parametrize("tag", ["suspicion", "malicious"])
def test_a_tag_is_lifted_after_exactly_ten_jobs(tag: Tag) -> None:
    placements, active = run([tag, *[""] * AFTER_JOBS, ""])
    assert [p.tag for p in placements] == [tag] * (AFTER_JOBS + 1) + [""]
    assert [p.cause for p in placements] == [None, *["0"] * AFTER_JOBS, None]
    assert active is None


def test_a_stronger_tag_counts_anew_and_a_weaker_one_only_counts_down() -> None:
    placements, active = run(["suspicion", "", "malicious", "suspicion"])
    assert [(p.tag, p.cause, p.tagging) for p in placements] == [
        ("suspicion", None, True),
        ("suspicion", "0", False),
        ("malicious", None, True),
        ("malicious", "2", False),
    ]
    assert active == ActiveTag("malicious", "2", AFTER_JOBS - 1)


def test_the_same_tag_again_counts_anew() -> None:
    _, active = run(["suspicion", "", "", "suspicion"])
    assert active == ActiveTag("suspicion", "3", AFTER_JOBS)


@given(st.sampled_from(["suspicion", "malicious"]), st.integers(2, AFTER_JOBS))
def test_an_untagged_job_uses_up_exactly_one(tag: Tag, remaining: int) -> None:
    active = ActiveTag(tag, "cause", remaining)
    assert place(active, "job", "")[1] == replace(active, remaining=remaining - 1)


def _evidence(
    sequence: int, asked: str, tag: str, cause: str | None = None, again: str = ""
) -> dict[str, Any]:
    """As much of a job's evidence as tells its place; `again` is the tag under which a later job had it looked at once more."""
    own = {"tag": tag, "position": "after" if tag else "", "cause": cause, "challenge": 0}
    before = {"tag": again, "position": "before", "cause": "later", "challenge": 0}
    job = {"job_id": f"job {sequence}", "sequence": sequence, "request": {"tag": asked}}
    return {"job": job, "rounds": [own, before] if again else [own]}


def test_a_users_jobs_follow_the_rule_as_their_evidence_shows() -> None:
    following = [_evidence(n, "", "suspicion", "job 2") for n in range(3, 3 + AFTER_JOBS)]
    tagging = [_evidence(1, "", "", again="suspicion"), _evidence(2, "suspicion", "suspicion")]
    check_placements([*tagging, *following, _evidence(30, "", "")])
    check_placements([])


@pytest.mark.parametrize(
    "third",
    [
        _evidence(3, "", ""),
        _evidence(3, "", "malicious", "job 2"),
        _evidence(3, "", "suspicion", "job 1"),
        _evidence(3, "", "suspicion"),
    ],
)
def test_a_tag_that_was_left_out_or_changed_is_found(third: dict[str, Any]) -> None:
    tagging = [_evidence(1, "", "", again="suspicion"), _evidence(2, "suspicion", "suspicion")]
    with pytest.raises(InvalidEvidence, match="job 3 ran under tag"):
        check_placements([*tagging, third])


def test_a_tag_that_was_invented_or_kept_too_long_is_found() -> None:
    with pytest.raises(InvalidEvidence, match="job 1 ran under"):
        check_placements([_evidence(1, "", "suspicion", "job 0")])
    following = [_evidence(n, "", "suspicion", "job 1") for n in range(2, 3 + AFTER_JOBS)]
    with pytest.raises(InvalidEvidence, match=f"job {2 + AFTER_JOBS} ran under"):
        check_placements([_evidence(1, "suspicion", "suspicion"), *following])
