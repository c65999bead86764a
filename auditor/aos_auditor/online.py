"""The checks that ask the dispatcher itself: whether it tells everybody the same.

| id | what holds when it passes |
| --- | --- |
| AOS-FRESH-1 | the log that the dispatcher shows now is a later state of the one in the evidence |
| AOS-DETAIL-1 | what the API shows of the job, request, status, verdict and rows, is what the evidence says |
"""

from typing import Any

from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.errors import BadAnswer, Refused
from aos_auditor.http import JsonObject
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence import Check, round_views
from aos_protocol.evidence_document import Evidence, VerdictDocument
from aos_protocol.evidence_view import RoundView, domain_of, open_result
from aos_protocol.fields import parse_message
from aos_protocol.log import TreeHead, check_growth, check_head


async def check_online(api: DispatcherApi, document: JsonObject) -> list[Check]:
    """Make the checks against the dispatcher at `api`; `document` is an evidence document.

    Raises `Unreachable`.
    """
    return [await _fresh(api, parse_message(Evidence, document)), await _detail(api, document)]


async def check_continues(api: DispatcherApi, first: tuple[int, str], second: tuple[int, str]) -> None:
    """Raise `InvalidEvidence` unless one of two states (size, root) of a log continues the other, as the dispatcher can prove.

    Raises `Unreachable` and `BadAnswer`.
    """
    smaller, larger = sorted((first, second))
    proof: list[str] = []
    if 0 < smaller[0] < larger[0]:
        try:
            proof = await api.consistency(smaller[0], larger[0])
        except Refused as error:
            raise InvalidEvidence(
                f"the dispatcher does not prove that its log of {smaller[0]} entries is the beginning of that of {larger[0]}: {error}"
            ) from error
    check_growth(smaller, larger, proof)


async def _fresh(api: DispatcherApi, evidence: Evidence) -> Check:
    log = evidence.log
    if log is None:
        return Check("AOS-FRESH-1", "SKIP", "the evidence comes without its log")
    what = f"what {api.url} shows of its log now goes on from the {log.head.size} entries of the evidence"
    try:
        shown = await api.head()
        if shown is None:
            raise InvalidEvidence("it shows no log")
        head: TreeHead = shown[0]
        check_head(evidence.dispatcher.address, domain_of(evidence), head)
        if head.size < log.head.size:
            raise InvalidEvidence(f"it shows only {head.size} entries: some were taken back")
        await check_continues(api, (log.head.size, log.head.root), (head.size, head.root))
    except (ProtocolError, BadAnswer, Refused) as error:
        return Check("AOS-FRESH-1", "FAIL", f"{what}: {error}")
    return Check("AOS-FRESH-1", "PASS", f"{what}: {head.size} now")


async def _detail(api: DispatcherApi, document: JsonObject) -> Check:
    job = document["job"]
    what = "what the API shows of the job is what the evidence says"
    try:
        detail, rows = await api.detail(job["job_id"]), await api.results(job["job_id"])
    except Refused as error:
        status = "SKIP" if error.code in {401, 403} else "FAIL"
        return Check("AOS-DETAIL-1", status, f"{what}: {error}")  # type: ignore[arg-type]
    except BadAnswer as error:
        return Check("AOS-DETAIL-1", "FAIL", f"{what}: {error}")
    try:
        views = round_views(document)
        _compare_detail(detail, document, views)
        _compare_rows(rows, views)
    except ProtocolError as error:
        return Check("AOS-DETAIL-1", "FAIL", f"{what}: {error}")
    return Check("AOS-DETAIL-1", "PASS", f"{what}: rows: {len(rows)}")


def _compare_detail(detail: JsonObject, document: JsonObject, views: list[RoundView]) -> None:
    job, request = document["job"], document["job"]["request"]
    verdict = _decided(views)
    expected = {
        "id": job["job_id"],
        "sequence": job["sequence"],
        "from": request.get("from"),
        "user": request.get("user"),
        "tag": request.get("tag", ""),
        "job": request.get("job"),
        "status": job["status"],
        "reason": job["reason"],
        "clock": job["clock"],
    }
    for name, value in expected.items():
        if detail.get(name) != value:
            raise InvalidEvidence(f"its {name} is another one")
    shown = detail.get("verdict")
    if (None if shown is None else parse_message(VerdictDocument, shown)) != verdict:
        raise InvalidEvidence("it shows another verdict than the one that the evidence's rounds come to")


def _decided(views: list[RoundView]) -> VerdictDocument | None:
    """The verdict on the job's answer: its own round's, or that of the last challenge of this answer that decided.

    A result has one challenge at a time, so their numbers are in the order in which they ended.
    """
    own = next((view for view in views if view.is_own), None)
    if own is None:
        raise InvalidEvidence("the job has no round of its own")
    executor, verdict = own.executor, own.document.verdict
    answers = {
        text for text in own.document.results if executor and open_result(text).operator == executor.operator
    }
    for view in sorted(views, key=lambda view: view.document.challenge):
        said = view.document.verdict
        if view.document.subject in answers and said is not None and said.outcome != "inconclusive":
            verdict = said
    return verdict


def _compare_rows(rows: list[JsonObject], views: list[RoundView]) -> None:
    """Raise unless each row is an answer, or the score of somebody who only scored, as its operator signed it."""
    said: list[tuple[Any, ...]] = []
    for view in views:
        answered = {result.operator for result in view.results}
        said += [(r.operator, r.tag, "answer", r.result, r.signature) for r in view.results]
        said += [
            (s.operator, s.tag, "score", "", s.signature) for s in view.scores if s.operator not in answered
        ]
    shown = [
        tuple(str(row.get(key)) for key in ("operator", "tag", "signs", "result", "signature"))
        for row in rows
    ]
    if sorted(said) != sorted(shown):
        raise InvalidEvidence(
            f"it shows {len(shown)} rows, which are not the {len(said)} that operators signed"
        )
