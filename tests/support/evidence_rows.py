"""What the API shows of a job, made from its evidence."""

from typing import Any

from aos_protocol.evidence import round_views
from aos_protocol.messages import JobResult


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that `/api/job/result` shows of a job with this evidence: answers, and scores of those that only scored."""
    rows: list[dict[str, Any]] = []
    for view in round_views(document):
        stated = view.document.verdict
        for said in (*view.results, *view.scores):
            if any(
                (row["operator"], row["verify_id"]) == (said.operator, view.document.verify_id)
                for row in rows
            ):
                continue
            answer = said.result if isinstance(said, JobResult) else None
            rows.append(
                {
                    "operator": said.operator,
                    "verify_id": view.document.verify_id,
                    "tag": said.tag,
                    "position": said.position,
                    "challenge": view.document.challenge,
                    "result": answer or "",
                    "signature": said.signature,
                    "signs": "score" if answer is None else "answer",
                    "role": next(s.role for s in view.document.committee if s.operator == said.operator),
                    "verdict": stated.outcome if stated else None,
                    "reason": stated.reason if stated else "nobody was asked to score it",
                }
            )
    return rows
