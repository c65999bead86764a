"""Checks of a job's place in its dispatcher's transparency log: the head, every event, and the anchor on a chain."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aos_protocol.canonical import parse
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence_document import Evidence
from aos_protocol.evidence_view import Planned, domain_of
from aos_protocol.log import LogDocument, LogEntry, check_entry, check_growth, check_head
from aos_protocol.log_entries import is_own, job_entries

_UNLOGGED = "the evidence comes without its log"
_STEPS = {"job": 0, "round": 1, "tickets": 2, "result": 3, "score": 3, "verdict": 4}


def log_checks(evidence: Evidence, document: Mapping[str, Any]) -> Iterator[Planned]:
    """Plan the checks of an evidence document's log; `document` is the JSON that `evidence` was read from."""
    log = evidence.log
    missing = "" if log is not None else _UNLOGGED
    size, logged = (log.head.size, len(log.entries)) if log is not None else (0, 0)
    yield Planned(
        "AOS-HEAD-1",
        missing,
        f"the head of the log, {size} entries, is signed by {evidence.dispatcher.address}",
        lambda: _check_head(evidence),
    )
    yield Planned(
        "AOS-LOG-1",
        missing,
        f"all that happened to this job is in the log, once and in order: {logged} entries",
        lambda: _check_entries(_log(evidence), document),
    )
    if evidence.domain.chain_id:
        yield Planned(
            "AOS-ANCHOR-1",
            missing or _unanchored(_log(evidence)),
            f"the head is a later state of the log that is anchored on chain {evidence.domain.chain_id}",
            lambda: _check_anchor(evidence),
        )


def _log(evidence: Evidence) -> LogDocument:
    if evidence.log is None:
        raise InvalidEvidence(_UNLOGGED)
    return evidence.log


def _check_head(evidence: Evidence) -> None:
    check_head(evidence.dispatcher.address, domain_of(evidence), _log(evidence).head)


def _check_entries(log: LogDocument, document: Mapping[str, Any]) -> None:
    """Raise unless the log's entries are those that follow from the document: none missing, none more, each in its place.

    1. Each has its place under the head, and stands once, in the log's order.  2. As texts they are the expected ones.  3. They are
    in the order of the events.  4. The job, and each round that goes on, is as far as these tell.
    """
    for entry in log.entries:
        check_entry(entry, log.head)
    places = [entry.index for entry in log.entries]
    if places != sorted(set(places)):
        raise InvalidEvidence("an entry stands twice in the evidence, or they are not in the log's order")
    expected, found = sorted(job_entries(document)), sorted(entry.text for entry in log.entries)
    if expected != found:
        raise InvalidEvidence(_difference(expected, found))
    _check_order(log.entries)
    _check_progress(document)


def _difference(expected: list[str], found: list[str]) -> str:
    unlogged = [text for text in expected if text not in found]
    if unlogged:
        return f"the log has no such entry: {_named(unlogged[0])}"
    unfounded = [text for text in found if text not in expected]
    if unfounded:
        return f"the evidence has nothing to this entry of the log: {_named(unfounded[0])}"
    return "the log has an entry more often, or less often, than the evidence"


def _named(text: str) -> str:
    said = parse(text)
    if not isinstance(said, dict):
        return "what is no entry"
    return ", ".join(f"{key} {said[key]}" for key in ("kind", "round", "operator", "status") if key in said)


def _check_order(entries: list[LogEntry]) -> None:
    """Raise unless the job comes first, and within each round the opening, the draw, what members said, and the end."""
    reached: dict[str, int] = {}
    begun = False
    for entry in entries:
        said = json.loads(entry.text)
        if said["kind"] == "rejection":
            continue
        if (said["kind"] == "job") == begun:
            raise InvalidEvidence("the job is not the first of its entries in the log, or is there twice")
        begun = True
        step, which = _STEPS[said["kind"]], said.get("round", "")
        if step < reached.get(which, 0):
            raise InvalidEvidence(
                f"round {which} has a {said['kind']} in the log after what can only follow it"
            )
        reached[which] = step


def _check_progress(document: Mapping[str, Any]) -> None:
    for round_ in document["rounds"]:
        status, drawn = round_["status"], round_["electorate"] is not None
        if status in {"created", "dispatched"} and drawn != (status == "dispatched"):
            raise InvalidEvidence(
                f"round {round_['verify_id']} is {status}, and a draw is {'' if drawn else 'not '}in the log"
            )
        if is_own(round_) and status != document["job"]["status"]:
            raise InvalidEvidence(f"the job is {document['job']['status']}, and its own round {status}")


def _unanchored(log: LogDocument) -> str:
    if log.anchor is None:
        return "nothing of this log is anchored yet"
    if any(entry.index >= log.anchor.size for entry in log.entries):
        return f"the newest anchor, of {log.anchor.size} entries, is older than an entry of this job"
    return ""


def _check_anchor(evidence: Evidence) -> None:
    log = _log(evidence)
    anchor, domain = log.anchor, domain_of(evidence)
    if anchor is None or anchor.chain_id != domain.chain_id:
        raise InvalidEvidence("the anchor is on another chain than the one that signatures are valid for")
    check_growth((anchor.size, anchor.root), (log.head.size, log.head.root), anchor.proof)
