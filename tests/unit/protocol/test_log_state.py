"""A log folded, and held against what its dispatcher shows of operators and models."""

import copy
from typing import Any

import pytest

from aos_protocol.errors import InvalidEvidence
from aos_protocol.log_entries import (
    fraud_details,
    fraud_entry,
    job_entry,
    model_entry,
    operator_entry,
    pool_entry,
    rejection_entry,
    standing_entry,
)
from aos_protocol.log_state import LogState

A, B = "0x" + "a" * 40, "0x" + "b" * 40
SUSPENDED = {"standing": "suspended", "suspended_at": "2026-01-01 00:00:00", "appeal": "available"}
VERDICT: dict[str, Any] = {"outcome": "mismatch", "verifiers": [{"verifier": B, "token": 4}]}
FRAUD: dict[str, Any] = {
    "id": "7", "job_id": "f" * 64, "result": "row", "verify_id": "9", "status": "upheld", "step": 3, "proof": {"token": 4},
    "verdict": VERDICT, "created_at": "2026-01-01 00:00:00", "details": fraud_details({"token": 4}, VERDICT),
}  # fmt: skip
POOL = {"model": "d" * 64, "tokens": 128, "llr": 12.5, "decision": "open"}
MODEL = {"name": "tiny.gguf", "job_type": "opml", "sha256": "d" * 64, "calibration": None}
STANDING: dict[str, Any] = {
    "operator": A,
    "number": 2,
    **SUSPENDED,
    "suspend_after": 1,
    "frauds": [FRAUD],
    "pools": [POOL],
}
OTHER: dict[str, Any] = {
    "operator": B,
    "number": 3,
    "standing": "good",
    "suspended_at": None,
    "appeal": "none",
    "frauds": [],
    "pools": [],
}
LISTED = [{"operator": A, "number": 2}, {"operator": B, "number": 3}]


def job(sequence: int) -> str:
    accepted = {"request_digest": "1" * 64, "receipt": "2", "job_id": f"{sequence:064}", "sequence": sequence}
    return job_entry(accepted, {"value": "3", "proof": "4"}, {"audit_ppm": 5})


HISTORY = [
    operator_entry(A, 2),
    model_entry("tiny.gguf", "opml", "e" * 64, None),
    operator_entry(B, 3),
    job(1),
    model_entry("tiny.gguf", "opml", "d" * 64, None),
    rejection_entry(None, {"operator": B, "reason": "late", "frame": "{}"}),
    pool_entry(A, POOL | {"tokens": 64}),
    pool_entry(A, POOL),
    fraud_entry(A, FRAUD),
    standing_entry(A, SUSPENDED),
    job(2),
]


def folded(entries: list[str]) -> LogState:
    state = LogState()
    for index, entry in enumerate(entries):
        state.take(index, entry)
    return state


@pytest.fixture
def state() -> LogState:
    return folded(HISTORY)


def test_what_is_shown_agrees_with_the_log(state: LogState) -> None:
    assert (state.size, state.sequence) == (len(HISTORY), 2)
    assert state.differences_of_operators(LISTED) == []
    assert state.differences_of_models([MODEL]) == []
    assert state.differences_of_standing(STANDING) == []
    assert state.differences_of_standing(OTHER) == []


def test_a_state_is_kept_and_taken_up_again(state: LogState) -> None:
    again = LogState.from_json(copy.deepcopy(state.to_json()))
    assert again == state
    again.take(len(HISTORY), job(3))
    assert again.sequence == 3
    for kept in ({"height": 3}, {"size": 0, "more": 1}):
        with pytest.raises(InvalidEvidence, match="no kept state"):
            LogState.from_json(kept)


@pytest.mark.parametrize("path", [("number",), ("standing",), ("suspended_at",), ("appeal",)])
def test_a_changed_standing_differs(state: LogState, path: tuple[str]) -> None:
    changed = STANDING | {path[0]: 9 if path[0] == "number" else "good"}
    assert len(state.differences_of_standing(changed)) in {1, 2}


@pytest.mark.parametrize(
    "name", ["id", "job_id", "result", "verify_id", "status", "step", "created_at", "details"]
)
def test_a_changed_finding_differs(state: LogState, name: str) -> None:
    changed = STANDING | {"frauds": [FRAUD | {name: "other"}]}
    assert any("finding" in line for line in state.differences_of_standing(changed))


def test_a_findings_proof_and_verifiers_are_bound_where_they_are_shown(state: LogState) -> None:
    hidden = FRAUD | {"proof": None, "verdict": {"outcome": "mismatch"}}
    assert state.differences_of_standing(STANDING | {"frauds": [hidden]}) == []
    for change in ({"proof": {"token": 5}}, {"verdict": VERDICT | {"verifiers": []}}, {"proof": None}):
        lines = state.differences_of_standing(STANDING | {"frauds": [FRAUD | change]})
        assert any("details" in line for line in lines)


@pytest.mark.parametrize("name", ["model", "tokens", "llr", "decision"])
def test_a_changed_pool_differs(state: LogState, name: str) -> None:
    lines = state.differences_of_standing(STANDING | {"pools": [POOL | {name: "other"}]})
    assert any("pool" in line for line in lines)


@pytest.mark.parametrize("name", ["frauds", "pools"])
def test_what_is_left_out_doubled_or_invented_differs(state: LogState, name: str) -> None:
    (one,) = STANDING[name]
    assert state.differences_of_standing(STANDING | {name: []})
    assert state.differences_of_standing(STANDING | {name: [one, one]})
    assert state.differences_of_standing(OTHER | {name: [one]})


@pytest.mark.parametrize(
    "listed",
    [
        LISTED[:1],
        [*LISTED, {"operator": "0xc", "number": 4}],
        [LISTED[0] | {"number": 4}, LISTED[1]],
        LISTED * 2,
    ],
)
def test_a_list_of_operators_that_differs(state: LogState, listed: list[dict[str, Any]]) -> None:
    assert state.differences_of_operators(listed)


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"job_type": "tee"}, {"sha256": "0" * 64}, {"calibration": "0" * 64}]
)
def test_a_model_that_differs(state: LogState, change: dict[str, str]) -> None:
    assert state.differences_of_models([MODEL | change])
    assert state.differences_of_models([])
    assert state.differences_of_models([MODEL, MODEL])


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (job(4), "job 4 of the log does not follow job 2"),
        (job(2), "job 2 of the log does not follow job 2"),
        (operator_entry(A, 4), "twice"),
        (operator_entry("0xc", 3), "twice"),
        (operator_entry("0xc", 1), "is none"),
        (standing_entry("0xc", SUSPENDED), "never got a number"),
        (fraud_entry("0xc", FRAUD), "never got a number"),
        (pool_entry("0xc", POOL), "never got a number"),
        ('{"kind":"weather"}', "a kind that there is not"),
        ('{"kind":"operator"}', "lacks 'operator'"),
        ('{"job_id":"x"}', "lacks 'kind'"),
        ('{ "kind":"job"}', "no object in canonical JSON"),
        ("[]", "no object in canonical JSON"),
        ("{", "cannot be read"),
    ],
)
def test_an_entry_that_cannot_follow_is_refused(state: LogState, entry: str, says: str) -> None:
    before = copy.deepcopy(state)
    with pytest.raises(InvalidEvidence, match=says):
        state.take(len(HISTORY), entry)
    assert state == before


@pytest.mark.parametrize("index", [0, len(HISTORY) - 1, len(HISTORY) + 1])
def test_an_entry_in_another_place_is_refused(state: LogState, index: int) -> None:
    with pytest.raises(InvalidEvidence, match="does not follow entry"):
        state.take(index, job(3))
