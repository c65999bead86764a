"""Every single change to an evidence document is found, but for what only its dispatcher can know and nothing rests on."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import evidence_challenge, evidence_view, evidence_work, typed_data, verification, vrf
from aos_protocol.attestation import statement
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import check_evidence
from support.enclaves import policy
from support.evidence import CHEATING, DISPATCHER, FINGERPRINTED, MODEL, Story

Path = tuple[Any, ...]


@pytest.fixture(scope="module", autouse=True)
def _each_signature_is_verified_once() -> Iterator[None]:
    """Thousands of documents with the same frames, but for one each: what is a pure function of its arguments is remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vrf, "verify", cache(vrf.verify))
        patch.setattr(evidence_view, "open_frame", cache(evidence_view.open_frame))
        for module in (verification, evidence_work, evidence_challenge, statement):
            patch.setattr(module, "recover_typed", cache(typed_data.recover_typed))
        yield


# Testimony of the dispatcher. What it says in words, its own numbers of rounds, which other job had a round held, and which
# share of jobs it audits: whoever has the evidence of several jobs compares.
TESTIMONY = {
    ("job", "reason"),
    ("policy", "audit_ppm"),
    ("rejections", "reason"),
    ("rounds", "verify_id"),
    ("rounds", "cause"),
    ("rounds", "committee", "reason"),
    ("rounds", "electorate", "reason"),
    ("rounds", "plea", "reason"),
    ("rounds", "verdict", "reason"),
}
# The dispatcher's own counter lies between those that operators have signed, which is all that anybody can see of it; and
# how much of what they signed it had seen at a draw, it alone knows. It cannot have seen more than there is.
OWN_COUNTER = {("job", "clock", "1"), ("rounds", "draw_clock", "1"), ("rounds", "dispatch_clock", "1")}
CLOCKS = {("job", "clock"), ("rounds", "draw_clock"), ("rounds", "dispatch_clock")}


def audited() -> Story:
    story = Story(operators=4)
    story.own()
    story.before("malicious")
    story.challenge(by="operator")
    story.reject()
    return story


def replaced() -> Story:
    story = Story("malicious", operators=6)
    story.own(lost=1)
    return story


def claimed() -> Story:
    story = Story(operators=4, claim=FINGERPRINTED)
    story.own(cause_tag="suspicion")
    return story


def cheated() -> Story:
    story = Story(operators=4, distance=CHEATING)
    story.own()
    story.challenge()
    story.challenge(by="operator", purpose="appeal")
    return story


def enclosed() -> Story:
    story = Story(operators=4, enclaves=True)
    story.own()
    return story


def private() -> Story:
    story = Story(operators=3, sealed=True)
    story.own()
    return story


BUILDS = (audited, replaced, claimed, cheated, enclosed, private)
DOCUMENTS = {build.__name__: build().document() for build in BUILDS}
POLICY = policy(MODEL.name)
NAMES = list(DOCUMENTS)


def statuses(document: Any, job_id: str) -> list[tuple[str, str]]:
    """The outcome as somebody sees it who knows the job's id and the dispatcher."""
    outcome = check_evidence(document, dispatcher=DISPATCHER.address, job_id=job_id, policy=POLICY)
    return [(check.id, check.status) for check in outcome]


HONEST = {name: statuses(document, document["job"]["job_id"]) for name, document in DOCUMENTS.items()}


def found(document: Any, name: str) -> bool:
    """Whether a change to this document turns some check that passed into one that does not."""
    try:
        outcome = statuses(document, DOCUMENTS[name]["job"]["job_id"])
    except InvalidEvidence:
        return True
    passing = [check for check in outcome if check[1] == "PASS"]
    return passing != [check for check in HONEST[name] if check[1] == "PASS"]


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place of a document that holds a single value; of a long list of numbers, every fiftieth."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if not children:
        yield path
        return
    for key, inner in children:
        if not isinstance(key, int) or not isinstance(inner, int) or key % 50 == 0:
            yield from leaves(inner, (*path, key))


def entries(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every list of a document that has anything in it."""
    if isinstance(value, list) and value:
        yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from entries(inner, (*path, key))


def at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def with_value(name: str, path: Path, value: Any) -> Any:
    document = copy.deepcopy(DOCUMENTS[name])
    at(document, path[:-1])[path[-1]] = value
    return document


def others(value: Any) -> list[Any]:
    """Other values of the same form, so that types alone do not give the change away."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(value - 1, 0)] if value else [1]
    if isinstance(value, float):
        return [value * 2 + 1, value / 2 + 1]
    if value is None or value in ("", [], {}):
        return ["x"]
    if value.isdigit():
        return [str(int(value) + 1), str(int(value) + 1000), str(max(int(value) - 1, 1))]
    middle = len(value) // 2
    return [
        value[:middle] + ("0" if value[middle] != "0" else "1") + value[middle + 1 :],
        value[:-1],
        value + "0",
    ]


def plain(path: Path) -> Path:
    """A path without places in lists."""
    return tuple(step for step in path if not isinstance(step, int))


def test_every_kind_of_round_is_among_the_documents() -> None:
    rounds = [round_ for document in DOCUMENTS.values() for round_ in document["rounds"]]
    assert {(r["tag"], r["position"], r["challenge"]) for r in rounds} == {
        ("", "", 0), ("malicious", "before", 0), ("malicious", "after", 0), ("suspicion", "after", 0),
        ("suspicion", "after", 1), ("suspicion", "after", 2),
    }  # fmt: skip
    for name in set(DOCUMENTS) - {"cheated"}:
        assert {status for _, status in HONEST[name]} == {"PASS"}
    assert [check for check in HONEST["cheated"] if check[1] != "PASS"] == [("AOS-MATCH-1", "FAIL")]


@pytest.mark.parametrize("name", NAMES)
def test_every_changed_leaf_is_found(name: str) -> None:
    missed = set()
    for path in leaves(DOCUMENTS[name]):
        if plain(path) in TESTIMONY:
            continue
        old = at(DOCUMENTS[name], path)
        new_values = [str(int(old) + 1000)] if plain(path)[:-1] in CLOCKS else others(old)
        if any(not found(with_value(name, path, new), name) for new in new_values if new != old):
            missed.add(plain(path))
    # The number of an operator that could not read the prompt, and hence took no part, stands nowhere else.
    unasked = {("rounds", "registry", "operators", "number")} if name == "private" else set()
    assert missed <= {("job", "clock", "1")} | unasked


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_that_is_taken_away_is_found(name: str) -> None:
    missed = set()
    for path in leaves(DOCUMENTS[name]):
        if isinstance(path[-1], int) or at(DOCUMENTS[name], path) in (None, ""):
            continue
        without = copy.deepcopy(DOCUMENTS[name])
        del at(without, path[:-1])[path[-1]]
        if not found(without, name):
            missed.add(plain(path))
    assert {path for path in missed if path[:-1] not in CLOCKS} <= {("calibrations", "version")}
    assert OWN_COUNTER.isdisjoint(missed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["dropped", "doubled", "swapped"])
def test_every_dropped_doubled_or_swapped_entry_is_found(name: str, change: str) -> None:
    good = DOCUMENTS[name]
    missed = set()
    for path in entries(good):
        if path[0] == "calibrations" and len(path) > 1:
            continue  # each has its digest
        for index in range(len(at(good, path))):
            document = copy.deepcopy(good)
            there = at(document, path)
            if change == "dropped":
                del there[index]
            elif change == "doubled":
                there.insert(index, there[index])
            elif index:
                there[index - 1], there[index] = there[index], there[index - 1]
            if document != good and not found(document, name):
                missed.add((plain(path), reserve(good, path, index)))
    # An operator that the draw did not choose can be left out unseen: only a public log of draws will show that. In which order
    # tickets, answers, rejections and rounds are listed means nothing.
    unseen: dict[str, set[tuple[Path, bool]]] = {
        "dropped": {(("rounds", "electorate"), True), (("rejections",), False)},
        "doubled": {(("rejections",), False), (("calibrations",), False)},
        "swapped": {(("rounds", "electorate"), r) for r in (True, False)}
        | {
            ((*where,), False)
            for where in (("rounds",), ("rounds", "results"), ("rounds", "scores"), ("rejections",))
        },
    }
    assert missed <= unseen[change]


def reserve(document: Any, path: Path, index: int) -> bool:
    """Whether an entry is an operator that was asked for a ticket and has no seat."""
    if path[-1] != "electorate":
        return False
    seated = {seat["operator"] for seat in at(document, path[:-1])["committee"]}
    return at(document, path)[index]["operator"] not in seated


@pytest.mark.parametrize("name", NAMES)
def test_every_changed_word_of_a_signed_frame_is_found(name: str) -> None:
    """Every tenth leaf of every frame is changed within the frame, whose JSON stays well-formed."""
    missed = []
    for path in leaves(DOCUMENTS[name]):
        text = at(DOCUMENTS[name], path)
        if not isinstance(text, str) or not text.startswith("{"):
            continue
        frame = json.loads(text)
        for inner in list(leaves(frame))[::10]:
            bent = copy.deepcopy(frame)
            at(bent, inner[:-1])[inner[-1]] = others(at(frame, inner))[0]
            if not found(with_value(name, path, json.dumps(bent, separators=(",", ":"))), name):
                missed.append((plain(path), inner))
    assert missed == []


@given(st.data())
def test_a_frame_of_another_place_is_found(data: st.DataObject) -> None:
    """Frames are genuine, every one: only where they stand tells what they are worth."""
    name = data.draw(st.sampled_from(NAMES))
    frames = [path for path in leaves(DOCUMENTS[name]) if str(at(DOCUMENTS[name], path)).startswith("{")]
    here, there = data.draw(st.sampled_from(frames)), data.draw(st.sampled_from(frames))
    other = at(DOCUMENTS[name], there)
    if at(DOCUMENTS[name], here) != other and here[0] != "rejections":
        assert found(with_value(name, here, other), name)


@given(st.data())
def test_nothing_that_can_be_written_breaks_the_checks(data: st.DataObject) -> None:
    """Any value anywhere gives checks that do not pass, or InvalidEvidence: never another error."""
    name = data.draw(st.sampled_from(NAMES))
    path = data.draw(st.sampled_from([path for path in leaves(DOCUMENTS[name]) if path[0] != "calibrations"]))
    length = data.draw(st.integers(1, len(path)))
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
    found(with_value(name, path[:length], data.draw(values)), name)
