"""What a log says of a job: each word of the evidence is bound by an entry, and none but digests and ids stand in it."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import log_entries
from aos_protocol.canonical import canonical, digest
from aos_protocol.errors import InvalidEvidence
from support.evidence import Story


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    story = Story("suspicion")
    story.own()
    story.challenge(by="operator")
    story.reject()
    return story.document()


def kinds(document: Any) -> list[str]:
    return [json.loads(entry)["kind"] for entry in log_entries.job_entries(document)]


def test_every_event_of_a_job_has_its_entry_in_order(document: dict[str, Any]) -> None:
    own, again = document["rounds"]
    scores = ["score"] * len(own["scores"]), ["score"] * len(again["scores"])
    held = ["round", "tickets"]
    expected = ["job", *held, "result", *scores[0], "verdict", *held, *scores[1], "verdict", "rejection"]
    assert kinds(document) == expected


def test_entries_are_canonical_json_with_ids_and_digests_only(document: dict[str, Any]) -> None:
    for entry in log_entries.job_entries(document):
        said = json.loads(entry)
        assert canonical(said).decode() == entry
        assert said["job_id"] == document["job"]["job_id"]
        assert said.keys() <= {"kind", "job_id", "round", "operator", "status", "sequence", "asked", "digest"}
        for word in ("What is AI?", "shop", "device 1"):
            assert word not in entry


@pytest.mark.parametrize(
    ("status", "left"),
    [("created", ["round"]), ("dispatched", ["round", "tickets"]), ("cancelled", ["round", "verdict"])],
)
def test_a_round_has_the_entries_of_how_far_it_came(
    document: dict[str, Any], status: str, left: list[str]
) -> None:
    round_ = document["rounds"][0] | {"status": status, "results": [], "scores": []}
    if status != "dispatched":
        round_ |= {"registry": None, "electorate": None}
    assert kinds(document | {"rounds": [round_], "rejections": []}) == ["job", *left]


PLACES = ("tag", "position", "challenge", "cause", "seed", "plea", "model", "subject")
DRAWS = ("registry", "draw_clock", "electorate", "dispatch_clock", "calibration")
ENDS = ("status", "committee", "verdict")


@pytest.mark.parametrize(
    ("path", "kind"),
    [(("job", name), "job") for name in ("request_digest", "receipt", "sequence")]
    + [((name, "value"), "job") for name in ("seed",)]
    + [(("seed", "proof"), "job"), (("policy", "audit_ppm"), "job")]
    + [(("job", name), "verdict") for name in ("reason", "clock")]
    + [(("rounds", 0, name), "round") for name in PLACES]
    + [(("rounds", 0, name), "tickets") for name in DRAWS]
    + [(("rounds", 0, name), "verdict") for name in ENDS]
    + [(("rounds", 0, "results", 0), "result"), (("rounds", 0, "scores", 1), "score")]
    + [(("rejections", 0, name), "rejection") for name in ("operator", "reason", "frame")],
)
def test_every_word_is_bound_by_an_entry(document: dict[str, Any], path: tuple[Any, ...], kind: str) -> None:
    changed = copy.deepcopy(document)
    holder: Any = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = _other(holder[path[-1]], path)
    before, after = log_entries.job_entries(document), log_entries.job_entries(changed)
    different = {json.loads(entry)["kind"] for entry in set(before) ^ set(after)}
    assert kind in different


def _other(value: Any, path: tuple[Any, ...]) -> Any:
    if path[-1] == "status":
        return "failed"
    if path[-1] == "subject":
        return "another frame"
    if path[-2] in {"results", "scores"}:
        return value.replace("job_", "jab_")
    if isinstance(value, str):
        return value + "0"
    if isinstance(value, int):
        return value + 1
    return {"1": "77"} if isinstance(value, dict) or value is None else value[1:]


def test_the_end_of_a_job_is_bound_by_its_own_round_only(document: dict[str, Any]) -> None:
    own, again = document["rounds"]
    assert (log_entries.is_own(own), log_entries.is_own(again)) == (True, False)
    assert not log_entries.is_own(own | {"position": "before"})
    changed = log_entries.job_entries(document | {"job": document["job"] | {"reason": "another"}})
    different = set(changed) - set(log_entries.job_entries(document))
    assert [json.loads(entry)["round"] for entry in different] == [own["verify_id"]]


@pytest.mark.parametrize("frame", ["[]", '{"address":7}', "{}", "no JSON"])
def test_a_result_that_is_no_frame_has_no_entry(document: dict[str, Any], frame: str) -> None:
    changed = copy.deepcopy(document)
    changed["rounds"][0]["results"] = [frame]
    with pytest.raises(Exception, match=r"frame|JSON") as refused:
        log_entries.job_entries(changed)
    assert frame == "no JSON" or refused.type is InvalidEvidence


def test_what_a_private_projects_finding_hides_is_bound_all_the_same() -> None:
    verdict = {"outcome": "mismatch", "verifiers": [{"token": 3}]}
    seen = {"id": "1", "job_id": None, "result": None, "verify_id": None, "status": "upheld", "step": 3, "created_at": "now",
            "details": log_entries.fraud_details({"step": 3}, verdict), "proof": {"step": 3}, "verdict": verdict}  # fmt: skip
    hidden = seen | {"proof": None, "verdict": {"outcome": "mismatch"}}
    assert log_entries.fraud_entry("0x1", seen) == log_entries.fraud_entry("0x1", hidden)
    assert log_entries.fraud_details(None, verdict) != seen["details"]
    assert log_entries.fraud_details({"step": 3}, {"verifiers": []}) != seen["details"]


REGISTRY = st.fixed_dictionaries(
    {
        "max_range": st.integers(1, 600_000),
        "chain": st.none()
        | st.fixed_dictionaries({"block": st.integers(0, 10**9), "chain_id": st.integers(1, 9)}),
        "operators": st.lists(st.fixed_dictionaries({"operator": st.text(), "number": st.integers(2, 9)})),
    }
)


@given(REGISTRY, st.dictionaries(st.text(), st.text()))
def test_a_draw_s_digest_is_that_of_its_members(registry: dict[str, Any], clock: dict[str, str]) -> None:
    """However the text that it is of was put together."""
    drawn = dict.fromkeys(DRAWS, clock) | {"registry": registry, "electorate": [{"operator": "0x1"}]}
    expected = digest(drawn)
    round_ = drawn | {"verify_id": "7"}
    given_text = log_entries.tickets_entry("ab" * 32, round_ | {"registry": None}, canonical(registry))
    assert json.loads(given_text)["digest"] == expected
    assert log_entries.tickets_entry("ab" * 32, round_) == given_text
