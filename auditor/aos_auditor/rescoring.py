"""The check that has answers scored once more, by a worker of the auditor's own.

| id | what holds when it passes |
| --- | --- |
| AOS-SCORE-2 | that worker's score of an answer, or of the claim, judged by the round's calibration, gives the verdict that the evidence states |
"""

from typing import Final

import httpx

from aos_auditor.errors import AuditorError, BadAnswer
from aos_auditor.http import JsonObject, ask
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import Check, round_views
from aos_protocol.evidence_verdict import verdict_of
from aos_protocol.evidence_view import RoundView, Subject
from aos_protocol.evidence_work import check_extent
from aos_protocol.fields import parse_message
from aos_protocol.score_document import Score
from aos_protocol.shown import score_item
from aos_protocol.verdict import Verdict, judge
from aos_service.transport import WorkerTransport

_ID: Final = "AOS-SCORE-2"
_TIMEOUT_S: Final = 600.0


async def check_scores_again(url: str, document: JsonObject) -> list[Check]:
    """Score the subject of every round of an evidence document again. Raises `WorkerUrlError` for a bad URL."""
    transport = WorkerTransport(url)
    async with httpx.AsyncClient(
        transport=transport, base_url=transport.base_url, timeout=_TIMEOUT_S
    ) as client:
        return [await _again(client, url, view) for view in round_views(document)]


async def _again(client: httpx.AsyncClient, url: str, view: RoundView) -> Check:
    if view.hidden:
        return Check(_ID, "SKIP", "nobody else can read a sealed or direct answer")
    if view.undrawn or not view.has_subject:
        return Check(_ID, "SKIP", f"there is nothing to score{view.where}")
    try:
        stated = verdict_of(view) if view.document.scores else None
        subject = view.subject
    except (ProtocolError, KeyError) as error:
        return Check(_ID, "FAIL", f"the subject or its scores do not hold{view.where}: {error}")
    try:
        served = await _served(client, url)
        if view.document.model.sha256 not in served:
            return Check(_ID, "SKIP", f"{url} does not serve model {view.document.model.sha256}")
        own = judge(
            await _score(client, url, served[view.document.model.sha256], view, subject), view.calibration
        )
    except (AuditorError, ProtocolError) as error:
        return Check(_ID, "SKIP", f"it could not be scored again{view.where}: {error}")
    return _compare(own, stated, view.where)


def _compare(own: Verdict, stated: Verdict | None, where: str) -> Check:
    """A decision against a decision fails; one that says nothing decides nothing; without scores, ours is the only one."""
    said = f"scored again: {own.outcome}: {own.reason}{where}"
    if own.outcome == "inconclusive" or (stated is not None and stated.outcome == "inconclusive"):
        same = stated is not None and stated.outcome == own.outcome
        return Check(_ID, "PASS" if same else "SKIP", said if same else f"{said}; {_theirs(stated)}")
    expected = stated.outcome if stated is not None else "match"
    return Check(_ID, "PASS" if own.outcome == expected else "FAIL", f"{said}; {_theirs(stated)}")


def _theirs(stated: Verdict | None) -> str:
    return "nobody had scored it" if stated is None else f"the committee's scores give {stated.outcome}"


async def _served(client: httpx.AsyncClient, url: str) -> dict[str, str]:
    """The models that the worker has: name by digest."""
    models = (await ask(client, "GET", "/v1/models", name=url)).get("models")
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise BadAnswer(f"{url} is no worker: it lists no models")
    return {str(model.get("sha256")): str(model.get("name")) for model in models}


async def _score(client: httpx.AsyncClient, url: str, name: str, view: RoundView, subject: Subject) -> Score:
    """Have the worker score a subject, asked for as the job asked: an answer to another prompt shows."""
    text = subject.result.result if subject.result else ""
    item = score_item(view.request.job, subject.digest, text, subject.shown)
    answer = await ask(client, "POST", "/v1/score", name=url, body={"model": name, "items": [item]})
    scores = answer.get("scores")
    if not isinstance(scores, list) or len(scores) != 1:
        raise BadAnswer(f"{url} gave no score")
    score = parse_message(Score, scores[0])
    if (score.subject, score.model) != (subject.digest, view.document.model.sha256):
        raise BadAnswer(f"{url} scored something else, or with another model")
    check_extent(score, view.request.job, subject.shown)
    return score
