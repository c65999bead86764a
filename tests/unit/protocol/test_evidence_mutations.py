"""Every single change to an evidence document is found by a named check, but for what its page lists as unauthenticated.

All of them: python -m tests.fuzz.evidence
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.evidence_mutations import (
    BUILDS,
    NAMES,
    Path,
    changes,
    document,
    each_signature_verified_once,
    found_by,
    missed,
    outcome_of_good,
    places,
    unauthenticated,
    value_at,
    with_value,
)

STEP = 23
"""Every how manyth change is made here; it has no factor in common with how many there are of one value."""


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    with each_signature_verified_once():
        yield


def test_every_kind_of_round_is_among_the_documents() -> None:
    rounds = [round_ for build in BUILDS for round_ in document(build.__name__)["rounds"]]
    assert {(r["tag"], r["position"], r["challenge"]) for r in rounds} == {
        ("", "", 0), ("malicious", "before", 0), ("malicious", "after", 0), ("suspicion", "after", 0),
        ("suspicion", "after", 1), ("suspicion", "after", 2),
    }  # fmt: skip
    for name in set(NAMES) - {"cheated", "recorded", "texts"}:
        assert {status for _, status in outcome_of_good(name)} == {"PASS"}
    for name, skipped in (
        ("recorded", {"AOS-TRANSCRIPT-1", "AOS-MATCH-1"}),
        ("texts", {"AOS-TRANSCRIPT-1", "AOS-MATCH-1", "AOS-SCORE-1"}),
    ):
        assert {check for check in outcome_of_good(name) if check[1] != "PASS"} == {
            (id_, "SKIP") for id_ in skipped
        }
    assert [check for check in outcome_of_good("cheated") if check[1] != "PASS"] == [("AOS-MATCH-1", "FAIL")]
    ids = {check for name in NAMES for check, _ in outcome_of_good(name)}
    assert {"AOS-ANCHOR-1", "AOS-REJECTION-1", "AOS-ATTEST-1", "AOS-CHALLENGE-1", "AOS-CLOCK-2"} <= ids


@pytest.mark.parametrize("name", NAMES)
def test_every_change_is_found_by_a_named_check(name: str) -> None:
    sample = islice(changes(name), NAMES.index(name), None, STEP)
    assert [(change.place, change.kind, change.what) for change in sample if missed(change, name)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_dropped_or_doubled_entry_and_every_dropped_member_of_the_document_is_found(name: str) -> None:
    """Of what is not deep inside, every one in every run."""
    sample = (
        c
        for c in changes(name)
        if c.kind not in {"changed", "within"} and len(c.path) <= 3 and c.path[:1] != ("calibrations",)
    )
    assert [(change.place, change.kind, change.what) for change in sample if missed(change, name)] == []


def test_what_the_page_lists_is_unauthenticated_indeed() -> None:
    """A line of the list that no change needs any more would hide the next one."""
    names = ("audited", "chained")
    needed = {
        (change.place, change.kind)
        for name in names
        for change in changes(name)
        if (change.place, change.kind) in unauthenticated() and not found_by(change.make(), name)
    }
    assert needed == unauthenticated()


@given(st.data())
def test_a_frame_of_another_place_is_found(data: st.DataObject) -> None:
    """Frames are genuine, every one: only where they stand tells what they are worth."""
    name = data.draw(st.sampled_from(NAMES))
    frames = [
        path for path in places(document(name)) if str(value_at(document(name), path)).startswith('{"id"')
    ]
    here, there = data.draw(st.sampled_from(frames)), data.draw(st.sampled_from(frames))
    other = value_at(document(name), there)
    if value_at(document(name), here) != other:
        assert found_by(with_value(document(name), here, other), name)


@given(st.data())
def test_nothing_that_can_be_written_breaks_the_checks(data: st.DataObject) -> None:
    """Any value anywhere gives checks, or InvalidEvidence: never another error."""
    name = data.draw(st.sampled_from(NAMES))
    path: Path = data.draw(
        st.sampled_from([path for path in places(document(name)) if path and path[0] != "calibrations"])
    )
    values: Any = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
    )
    found_by(with_value(document(name), path, data.draw(values)), name)
