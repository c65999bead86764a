"""Evidence checks: an honest document passes whole, and a change to any part of it is found."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import Check, answers, check_evidence
from aos_protocol.identity import Signer
from support.evidence import DISPATCHER, honest_evidence

# Testimony of the dispatcher that nothing binds, and that no check relies on.
UNAUTHENTICATED = {
    ("job", "reason"),
    ("rounds", 0, "verify_id"),
    ("rounds", 0, "status"),
    ("rounds", 0, "committee", "reason"),
}


def checks(document: Any) -> list[Check]:
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])


def found(document: Any, good: dict[str, Any]) -> bool:
    """Whether the change is found by somebody who knows the job's id and the dispatcher."""
    try:
        outcome = check_evidence(document, dispatcher=DISPATCHER.address, job_id=good["job"]["job_id"])
    except InvalidEvidence:
        return True
    return any(check.status != "PASS" for check in outcome)


@pytest.mark.parametrize("tag", ["", "suspicion", "malicious"])
def test_honest_evidence_passes_every_check(tag: str) -> None:
    outcome = checks(honest_evidence(tag, operators=6))
    assert [check for check in outcome if check.status != "PASS"] == []
    assert [check.id for check in outcome] == [
        "AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1", "AOS-TICKET-1", "AOS-COMMITTEE-1", "AOS-RESULT-1", "AOS-CLOCK-1",
        "AOS-MODEL-1", "AOS-COMPLETE-1",
    ]  # fmt: skip


def test_it_survives_a_trip_through_json() -> None:
    document = json.loads(json.dumps(honest_evidence()))
    assert {check.status for check in checks(document)} == {"PASS"}


def test_answers_are_read_from_the_signed_frames() -> None:
    (result, *_) = answers(honest_evidence())
    assert result.result == "a sensible answer"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def changed(value: Any) -> Any:
    """Another value of the same form, so that types alone do not give the change away."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2
    if value is None or value == "":
        return "x"
    middle = len(value) // 2
    return value[:middle] + ("0" if value[middle] != "0" else "1") + value[middle + 1 :]


def unauthenticated(path: tuple[Any, ...]) -> bool:
    if path[:3] == ("rounds", 0, "committee"):
        path = (*path[:3], path[-1])
    return path in UNAUTHENTICATED


def test_every_changed_leaf_is_found_but_for_the_documented_few() -> None:
    good = honest_evidence("suspicion")
    missed = []
    for path in leaves(good):
        document = copy.deepcopy(good)
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = changed(place[path[-1]])
        if not found(document, good) and not unauthenticated(path):
            missed.append(path)
    assert missed == []


@pytest.mark.parametrize("change", ["drop", "double"])
def test_every_dropped_or_doubled_entry_of_a_round_is_found(change: str) -> None:
    good = honest_evidence("suspicion")
    missed = []
    for name in ("electorate", "committee", "results"):
        for index in range(len(good["rounds"][0][name])):
            document = copy.deepcopy(good)
            entries = document["rounds"][0][name]
            if change == "drop":
                del entries[index]
            else:
                entries.insert(index, entries[index])
            if not found(document, good):
                missed.append((name, index))
    # Dropping a reserve from the electorate hides an operator that was not chosen; only a public log of draws can show that.
    seated = {seat["operator"] for seat in good["rounds"][0]["committee"]}
    reserves = [e["operator"] not in seated for e in good["rounds"][0]["electorate"]]
    allowed = [
        ("electorate", index) for index, reserve in enumerate(reserves) if reserve and change == "drop"
    ]
    assert missed == allowed


def failing(document: Any) -> dict[str, str]:
    return {check.id: check.what for check in checks(document) if check.status == "FAIL"}


def test_a_good_ticket_that_was_set_aside_is_found() -> None:
    document = honest_evidence()
    first = document["rounds"][0]["committee"][0]["operator"]
    for elector in document["rounds"][0]["electorate"]:
        if elector["operator"] == first:
            elector["reason"] = "absent"
    assert "set aside" in failing(document)["AOS-TICKET-1"]


def test_another_dispatcher_or_job_is_not_this_evidence() -> None:
    document = honest_evidence()
    with pytest.raises(InvalidEvidence, match="of dispatcher"):
        check_evidence(document, dispatcher=Signer(b"\x55" * 32).address, job_id=document["job"]["job_id"])
    with pytest.raises(InvalidEvidence, match="of job"):
        check_evidence(document, dispatcher=DISPATCHER.address, job_id="0" * 64)


@pytest.mark.parametrize("document", [None, [], {}, {"version": "aos-evidence/2"}, "text", 7])
def test_what_is_no_evidence_is_said_to_be_none(document: Any) -> None:
    with pytest.raises(InvalidEvidence):
        check_evidence(document, dispatcher=DISPATCHER.address, job_id="0" * 64)


def test_an_undrawn_job_is_skipped_and_never_passed() -> None:
    document = honest_evidence()
    document["job"] |= {"status": "failed", "reason": "no operator"}
    document["rounds"][0] |= {
        "registry": None, "draw_clock": None, "electorate": None, "dispatch_clock": None, "committee": [], "results": [],
    }  # fmt: skip
    outcome = {check.id: check for check in checks(document)}
    assert [outcome[name].status for name in ("AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1")] == ["PASS"] * 3
    assert {
        check.status
        for name, check in outcome.items()
        if name not in {"AOS-JOB-1", "AOS-RECEIPT-1", "AOS-SEED-1"}
    } == {"SKIP"}


def replaced(document: dict[str, Any]) -> dict[str, Any]:
    """Let the first member be lost and the next in the draw's order hold a seat."""
    round_ = document["rounds"][0]
    round_["committee"][0]["state"] = "lost"
    return document


@pytest.mark.parametrize(
    ("bend", "check"),
    [
        (replaced, "AOS-COMMITTEE-1"),
        (lambda d: d["rounds"][0]["committee"].reverse() or d, "AOS-COMMITTEE-1"),
        (lambda d: d["rounds"][0]["registry"]["operators"][0].update(end=600_001) or d, "AOS-COMMITTEE-1"),
        (lambda d: d["rounds"][0]["results"].clear() or d, "AOS-COMPLETE-1"),
        (lambda d: d["rounds"][0].update(dispatch_clock={"1": "1"}) or d, "AOS-CLOCK-1"),
        (lambda d: d["job"].update(clock={"1": "1"}) or d, "AOS-CLOCK-1"),
    ],
)
def test_a_bent_round_fails_the_check_that_is_made_for_it(
    bend: Callable[[dict[str, Any]], dict[str, Any]], check: str
) -> None:
    assert check in failing(bend(honest_evidence("suspicion")))
