"""AOS-HEAD-1, AOS-LOG-1 and AOS-ANCHOR-1: what an evidence document tells is in its dispatcher's log, once and in order."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol import merkle
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_protocol.log_entries import job_entries
from aos_protocol.typed_data import TreeHeadClaim, sign_typed
from support.evidence import DISPATCHER, DOMAIN, Story

Lines = list[str]


@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    story = Story("suspicion")
    story.own()
    story.challenge()
    story.reject()
    return story.document()


def logged(lines: Lines, chosen: list[int], *, signer: Signer = DISPATCHER) -> dict[str, Any]:
    """A log of these entries, of which the evidence has the chosen ones."""
    leaves = [line.encode() for line in lines]
    claim = TreeHeadClaim(DISPATCHER.address, len(leaves), merkle.root(leaves).hex(), 1_790_000_000)
    head = {
        "size": claim.size,
        "root": claim.root,
        "timestamp": claim.timestamp,
        "signature": sign_typed(signer, DOMAIN, claim),
    }
    entries = [
        {
            "index": place,
            "text": lines[place],
            "proof": [node.hex() for node in merkle.inclusion_proof(leaves, place)],
        }
        for place in chosen
    ]
    return {"head": head, "entries": entries, "anchor": None}


def check(document: dict[str, Any], name: str) -> tuple[str, str]:
    checks = check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])
    (found,) = [check for check in checks if check.id == name]
    return found.status, found.what


def refused(document: dict[str, Any], name: str = "AOS-LOG-1") -> str:
    status, what = check(document, name)
    assert status == "FAIL"
    return what


def test_an_honest_log_passes_wherever_the_job_stands_in_it(honest: dict[str, Any]) -> None:
    lines = job_entries(honest)
    spread = [line for entry in lines for line in ("another entry", entry)]
    for document in (honest, honest | {"log": logged(spread, list(range(1, len(spread), 2)))}):
        assert [check(document, name)[0] for name in ("AOS-HEAD-1", "AOS-LOG-1")] == ["PASS", "PASS"]


def test_without_a_log_nothing_passes(honest: dict[str, Any]) -> None:
    for name in ("AOS-HEAD-1", "AOS-LOG-1"):
        assert check(honest | {"log": None}, name)[0] == "SKIP"


def test_a_head_of_somebody_else_is_refused(honest: dict[str, Any]) -> None:
    lines = job_entries(honest)
    forged = logged(lines, list(range(len(lines))), signer=Signer(b"\x77" * 32))
    assert "signed by" in refused(honest | {"log": forged}, "AOS-HEAD-1")


def _kind(line: str) -> str:
    return str(json.loads(line)["kind"])


@pytest.mark.parametrize("kind", ["job", "round", "tickets", "result", "score", "verdict", "rejection"])
def test_an_event_that_was_never_logged_is_named(honest: dict[str, Any], kind: str) -> None:
    lines = job_entries(honest)
    left_out = next(line for line in lines if _kind(line) == kind)
    lines.remove(left_out)
    assert f"no such entry: kind {kind}" in refused(honest | {"log": logged(lines, list(range(len(lines))))})


@pytest.mark.parametrize("kind", ["result", "score", "verdict", "rejection"])
def test_an_entry_that_the_evidence_hides_is_named(honest: dict[str, Any], kind: str) -> None:
    lines = job_entries(honest)
    hidden = next(line for line in lines if _kind(line) == kind).replace('"digest":"', '"digest":"0')
    log = logged([*lines, hidden], list(range(len(lines) + 1)))
    assert f"nothing to this entry of the log: kind {kind}" in refused(honest | {"log": log})


@pytest.mark.parametrize("entry", ["[]", "{", "what is no JSON at all"])
def test_an_entry_that_is_none_is_refused_and_nothing_breaks(honest: dict[str, Any], entry: str) -> None:
    lines = [*job_entries(honest), entry]
    assert check(honest | {"log": logged(lines, list(range(len(lines))))}, "AOS-LOG-1")[0] == "FAIL"


def test_what_was_logged_twice_is_refused(honest: dict[str, Any]) -> None:
    lines = job_entries(honest)
    doubled = logged([*lines, lines[3]], list(range(len(lines) + 1)))
    assert "more often" in refused(honest | {"log": doubled})
    shown_twice = logged(lines, [*range(len(lines)), len(lines) - 1])
    assert "twice in the evidence" in refused(honest | {"log": shown_twice})


def _first_last(lines: Lines) -> Lines:
    return [*lines[1:], lines[0]]


def _verdict_first(lines: Lines) -> Lines:
    place = next(n for n, line in enumerate(lines) if _kind(line) == "verdict")
    return [*lines[:2], lines[place], *lines[2:place], *lines[place + 1 :]]


def _result_before_draw(lines: Lines) -> Lines:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (_first_last, "the job is not the first"),
        (_verdict_first, "after what can only follow it"),
        (_result_before_draw, "has a tickets in the log after"),
    ],
)
def test_an_order_that_cannot_be_is_refused(
    honest: dict[str, Any], order: Callable[[Lines], Lines], says: str
) -> None:
    lines = order(job_entries(honest))
    assert says in refused(honest | {"log": logged(lines, list(range(len(lines))))})


def test_an_entry_in_another_place_or_with_another_proof_is_refused(honest: dict[str, Any]) -> None:
    for change in ({"index": 0}, {"text": "{}"}, {"proof": []}):
        document = copy.deepcopy(honest)
        document["log"]["entries"][2] |= change
        assert "is not in the log" in refused(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": "failed"}, "the job is failed, and its own round completed"),
        ({"status": "created"}, "its own round"),
    ],
)
def test_a_job_is_as_far_as_its_own_round(honest: dict[str, Any], change: dict[str, str], says: str) -> None:
    assert says in refused(honest | {"job": honest["job"] | change})


def test_an_open_round_is_as_far_as_its_draw(honest: dict[str, Any]) -> None:
    """The log of a round that was drawn and goes on does not bind its status otherwise."""
    again = honest["rounds"][1] | {"status": "created", "verdict": None, "scores": []}
    document = honest | {"rounds": [honest["rounds"][0], again]}
    lines = job_entries(document)
    assert "is created, and a draw is in the log" in refused(
        document | {"log": logged(lines, list(range(len(lines))))}
    )


def _anchored(honest: dict[str, Any], size: int, **changes: Any) -> dict[str, Any]:
    """The document with its log anchored at this size; signatures stay those of no chain, which other checks tell."""
    lines = job_entries(honest)
    leaves = [line.encode() for line in [*lines, "later"]]
    log = logged([*lines, "later"], list(range(len(lines))))
    anchor = {
        "chain_id": 31337, "contract": "0x" + "5" * 40, "size": size, "root": merkle.root(leaves[:size]).hex(), "block": 7,
        "proof": [node.hex() for node in merkle.consistency_proof(leaves, size)],
    }  # fmt: skip
    domain = {"chain_id": 31337, "registry": "0x" + "1" * 40}
    return honest | {"domain": domain, "log": log | {"anchor": anchor | changes}}


def test_an_anchor_is_an_earlier_state_of_the_log(honest: dict[str, Any]) -> None:
    size = len(job_entries(honest))
    for anchored in (size, size + 1):
        assert check(_anchored(honest, anchored), "AOS-ANCHOR-1")[0] == "PASS"
    status, what = check(_anchored(honest, size - 1), "AOS-ANCHOR-1")
    assert (status, "older than an entry of this job" in what) == ("SKIP", True)
    unanchored = _anchored(honest, size)
    unanchored["log"]["anchor"] = None
    assert check(unanchored, "AOS-ANCHOR-1")[0] == "SKIP"


@pytest.mark.parametrize(
    "change", [{"root": "0" * 64}, {"proof": []}, {"chain_id": 1}, {"proof": ["0" * 64]}]
)
def test_an_anchor_that_the_log_has_not_grown_from_is_refused(
    honest: dict[str, Any], change: dict[str, Any]
) -> None:
    refused(_anchored(honest, len(job_entries(honest)), **change), "AOS-ANCHOR-1")


def test_without_a_chain_nobody_asks_for_an_anchor(honest: dict[str, Any]) -> None:
    checks = check_evidence(honest, dispatcher=DISPATCHER.address, job_id=honest["job"]["job_id"])
    assert "AOS-ANCHOR-1" not in {check.id for check in checks}
