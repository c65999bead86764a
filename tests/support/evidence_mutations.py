"""Every single change to an evidence document: each leaf to other values of its form, each member and entry dropped, added or doubled.

A signed frame is a text with JSON in it: it is changed as a whole, and within, where its JSON stays well-formed.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path as FilePath
from typing import Any, Literal

import pytest

from aos_protocol import evidence_challenge, evidence_view, evidence_work, log, typed_data, verification, vrf
from aos_protocol.attestation import statement
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import check_evidence
from support.enclaves import policy
from support.evidence import CHAIN, CHEATING, DISPATCHER, FINGERPRINTED, MODEL, TEXT_ONLY, TOKEN_IDS, Story

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """One change: where, what kind of, what exactly, and the changed document when it is made."""

    path: Path
    kind: Literal["changed", "within", "dropped", "added", "doubled", "swapped"]
    what: str
    make: Callable[[], Any]

    @property
    def place(self) -> str:
        """The path without places in lists, as the format's page writes it."""
        return ".".join(step for step in self.path if not isinstance(step, int))


def audited() -> Story:
    story = Story(operators=4)
    story.own()
    story.before("malicious")
    story.challenge(by="operator")
    story.reject()
    return story


def suspected() -> Story:
    story = Story("suspicion", operators=4)
    story.own()
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


def chained() -> Story:
    story = Story(operators=3, chain=CHAIN)
    story.own()
    return story


def elected() -> Story:
    """More operators than an electorate has: of those that are there, the seed chose."""
    story = Story(operators=19)
    story.crew[3].away = True
    story.own()
    return story


def recorded() -> Story:
    """Token ids in place of transcripts, scored and looked at again."""
    story = Story("suspicion", operators=4, record=TOKEN_IDS, least="token_ids")
    story.own()
    story.challenge()
    return story


def texts() -> Story:
    """Nothing but text, of an executor and of verifiers that executed, too, and were sent home."""
    story = Story("malicious", operators=6, record=TEXT_ONLY, least="text")
    story.own(lost=1)
    return story


BUILDS = (
    audited,
    suspected,
    replaced,
    claimed,
    cheated,
    enclosed,
    private,
    chained,
    elected,
    recorded,
    texts,
)
NAMES = tuple(build.__name__ for build in BUILDS)
POLICY = policy(MODEL.name)
PAGE = FilePath(__file__).resolve().parents[2] / "docs" / "evidence.md"
_ROW = re.compile(r"^\| `([a-z_.]+)` \| (changed|within|dropped|added|doubled|swapped) \|", re.MULTILINE)


@cache
def unauthenticated() -> frozenset[tuple[str, str]]:
    """The places, and kinds of changes there, that the format's page lists as unauthenticated."""
    _, _, after = PAGE.read_text("utf-8").partition("## Unauthenticated")
    return frozenset(_ROW.findall(after.partition("\n## ")[0]))


def missed(change: Change, name: str) -> bool:
    """Whether a change is neither found by a named check nor one of those that the page lists."""
    return (change.place, change.kind) not in unauthenticated() and not found_by(change.make(), name)


@cache
def document(name: str) -> Any:
    """The good document of this name, as it comes out of JSON."""
    build = next(build for build in BUILDS if build.__name__ == name)
    return json.loads(json.dumps(build().document()))


@contextmanager
def each_signature_verified_once() -> Iterator[None]:
    """Thousands of documents with the same frames, but for one each: what is a pure function of its arguments is remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vrf, "verify", cache(vrf.verify))
        patch.setattr(evidence_view, "open_frame", cache(evidence_view.open_frame))
        for module in (verification, evidence_work, evidence_challenge, statement, log):
            patch.setattr(module, "recover_typed", cache(typed_data.recover_typed))
        yield


def outcome(changed: Any, name: str) -> list[tuple[str, str]]:
    """The checks' ids and statuses, as somebody sees them who knows the job's id, the dispatcher and the enclaves."""
    job_id = document(name)["job"]["job_id"]
    checks = check_evidence(changed, dispatcher=DISPATCHER.address, job_id=job_id, policy=POLICY)
    return [(check.id, check.status) for check in checks]


def found_by(changed: Any, name: str) -> set[str]:
    """The ids of the checks that fail on a changed document and not on the good one; `AOS-DOCUMENT-1` for what is none at all."""
    try:
        failed = {check for check, status in outcome(changed, name) if status == "FAIL"}
    except InvalidEvidence:
        return {"AOS-DOCUMENT-1"}
    return failed - {check for check, status in outcome_of_good(name) if status == "FAIL"}


@cache
def outcome_of_good(name: str) -> tuple[tuple[str, str], ...]:
    """The outcome of the good document."""
    return tuple(outcome(document(name), name))


def changes(name: str) -> Iterator[Change]:
    """Every change to the good document of this name."""
    good = document(name)
    for path in places(good):
        value = value_at(good, path)
        if isinstance(value, dict):
            yield from _changed_object(name, path, value)
        elif isinstance(value, list) and value:
            yield from _changed_list(name, path, value)
        else:
            for other in others(value):
                yield Change(path, "changed", f"{value!r:.40} to {other!r:.40}", _setting(name, path, other))
            if isinstance(value, str) and value.startswith("{"):
                yield from _changed_frame(name, path, value)


def _changed_object(name: str, path: Path, value: dict[str, Any]) -> Iterator[Change]:
    for key in value:
        yield Change(
            (*path, key),
            "dropped",
            "member",
            _setting(name, path, {k: v for k, v in value.items() if k != key}),
        )
    yield Change(path, "added", "member", _setting(name, path, value | {"7": "7"}))


def _changed_list(name: str, path: Path, value: list[Any]) -> Iterator[Change]:
    for index in _sample(value):
        yield Change(
            (*path, index),
            "dropped",
            f"entry {index}",
            _setting(name, path, value[:index] + value[index + 1 :]),
        )
        twice = value[: index + 1] + value[index:]
        yield Change((*path, index), "doubled", f"entry {index}", _setting(name, path, twice))
        if index and value[index] != value[index - 1]:
            swapped = [*value[: index - 1], value[index], value[index - 1], *value[index + 1 :]]
            yield Change(
                (*path, index), "swapped", f"entries {index - 1} and {index}", _setting(name, path, swapped)
            )


def _changed_frame(name: str, path: Path, text: str) -> Iterator[Change]:
    frame = json.loads(text)
    for inner in places(frame):
        value = value_at(frame, inner)
        if isinstance(value, dict | list) and value:
            continue
        bent = with_value(frame, inner, others(value)[0])
        yield Change(
            path, "within", str(inner), _setting(name, path, json.dumps(bent, separators=(",", ":")))
        )


def others(value: Any) -> list[Any]:
    """Other values of the same form, so that types alone do not give the change away; and null."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, *([value - 1] if value else []), None]
    if isinstance(value, float):
        return [value * 2 + 1, value / 2 + 1, None]
    if value is None:
        return ["x", 1, DISPATCHER.address, "0" * 64]
    if value in ("", [], {}):
        return ["x", None]
    if value.isdigit() and len(value) < 20:
        return [str(int(value) + 1), str(int(value) + 1000), str(max(int(value) - 1, 0)), None]
    middle = len(value) // 2
    digit = "0" if value[middle] != "0" else "1"
    return [
        f"{value[:middle]}{digit}{value[middle + 1 :]}",
        value[:-1],
        value + "0",
        _other_address(value),
        None,
    ]


def _other_address(value: str) -> str:
    """For an address, another one; for another text, that text twice."""
    is_address = value.startswith("0x") and len(value) == 42
    return DISPATCHER.address if is_address and value != DISPATCHER.address else value * 2


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value in a JSON value, its own first; of a long list of numbers, of every fiftieth."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index in _sample(value):
            yield from places(value[index], (*path, index))


def _sample(value: list[Any]) -> list[int]:
    """The places in a list; of a long list of numbers, every fiftieth: it has a digest."""
    step = 50 if len(value) > 50 and all(isinstance(entry, int) for entry in value) else 1
    return list(range(0, len(value), step))


def value_at(value: Any, path: Path) -> Any:
    """The value at a path."""
    for step in path:
        value = value[step]
    return value


def with_value(value: Any, path: Path, new: Any) -> Any:
    """A copy of a JSON value with another one at this path; only what leads there is copied."""
    if not path:
        return new
    inner = copy.copy(value)
    inner[path[0]] = with_value(value[path[0]], path[1:], new)
    return inner


def _setting(name: str, path: Path, new: Any) -> Callable[[], Any]:
    return lambda: with_value(document(name), path, new)
