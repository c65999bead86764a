"""What the API shows of a job: a row for every operator that answered or scored, and how its verdict came about."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, select

from aos_dispatcher.database import Database
from aos_dispatcher.documents import time
from aos_dispatcher.round import stored_result, stored_score
from aos_dispatcher.rounds_store import result_id
from aos_dispatcher.tables import Assignment, Job, JsonObject, Result, Round, Score
from aos_protocol.messages import JobResult, JobScore

_WHOLE: Final = "fingerprints"
"""What an answer without a record shows: its transcript, or, sealed inside it, to its project."""


class Views:
    """Reads what is shown of jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def results(self, job: Row[Any]) -> list[JsonObject]:
        """Return a job's rows, round by round, each in the order of arrival.

        A member that answered has its answer in its row, a verifier that only scored its score's signature and no answer.
        """
        answers = _said(Result, job.id).order_by(Round.id, Result.created_at, Result.id)
        scores = _said(Score, job.id).order_by(Round.id, Score.id)
        async with self._database.connect() as connection:
            answered = (await connection.execute(answers)).all()
            scored = (await connection.execute(scores)).all()
        verdicts = {(row.round_id, row.operator): row.verdict for row in scored}
        rows = [
            (row, _answer_row(row, job, _verdict_of(row, verdicts.pop((row.round_id, row.operator), None))))
            for row in answered
        ]
        rows += [(row, _score_row(row, job)) for row in scored if (row.round_id, row.operator) in verdicts]
        return [shown for _, shown in sorted(rows, key=lambda pair: pair[0].round_id)]

    async def detail(self, job_id: str) -> JsonObject:
        """Return a job's request, where it stands, its verdict, and its rounds, each with what its verifiers found, at one moment.

        The caller knows that there is such a job.
        """
        rounds = select(Round.__table__).where(Round.job_id == job_id).order_by(Round.id)
        members: dict[int, list[JsonObject]] = defaultdict(list)
        async with self._database.snapshot() as connection:
            job = (await connection.execute(select(Job.__table__).where(Job.id == job_id))).one()
            rows = (await connection.execute(rounds)).all()
            for seat in await connection.execute(_seats(job_id)):
                members[seat.round_id].append(_member(seat))
            attested = (await connection.execute(_executors_enclave(job_id))).scalar()
        rounds_shown = [_look(row) | {"members": members[row.id]} for row in rows]
        return _job(job) | _enclave_kind(attested) | {"rounds": rounds_shown}


def _job(job: Row[Any]) -> JsonObject:
    request = job.request
    return {
        "id": job.id,
        "from": request["from"],
        "job": request["job"],
        "user": job.user_id,
        "job_type": request["job"]["tag"],
        "status": job.status,
        "reason": job.reason,
        "tag": request.get("tag", ""),
        "clock": job.clock,
        "sequence": job.sequence,
        "created_at": time(job.created_at),
        "finished_at": time(job.finished_at) if job.finished_at else None,
        "verdict": job.verdict,
        "final": job.final_at is not None and job.final_at <= datetime.now(UTC),
        "final_at": time(job.final_at) if job.final_at else None,
    }


def _seats(job_id: str) -> Any:  # noqa: ANN401 - a Select
    return (
        select(Assignment.__table__, Score.verdict)
        .join(Round, Round.id == Assignment.round_id)
        .outerjoin(Score, (Score.round_id == Assignment.round_id) & (Score.operator == Assignment.operator))
        .where(Round.job_id == job_id)
        .order_by(Assignment.round_id, Assignment.rank)
    )


def _executors_enclave(job_id: str) -> Any:  # noqa: ANN401 - a Select
    """The appraisal of the enclave that gave the answer with which a job ended."""
    seat = (Assignment.round_id == Result.round_id) & (Assignment.operator == Result.operator)
    return (
        select(Result.attestation)
        .join(Round, Round.id == Result.round_id)
        .join(Assignment, seat)
        .where(Result.job_id == job_id, Round.challenge == 0, Round.position != "before")
        .where(Assignment.role == "executor", Assignment.state == "answered")
    )


def _enclave_kind(appraisal: JsonObject | None) -> JsonObject:
    return {"attestation": appraisal["kind"] if appraisal else None}


def _said(kind: type[Result] | type[Score], job_id: str) -> Any:  # noqa: ANN401 - a Select
    return (
        select(
            kind.__table__,
            Round.challenge,
            Round.verdict.label("overall"),
            Round.status.label("round_status"),
            Assignment.role,
        )
        .join(Round, Round.id == kind.round_id)
        .join(Assignment, (Assignment.round_id == kind.round_id) & (Assignment.operator == kind.operator))
        .where(kind.job_id == job_id)
    )


def _verdict_of(row: Row[Any], own: JsonObject | None) -> JsonObject | None:
    """Return the verdict on the executor's answer, or the one that a verifier which executed, too, came to itself."""
    return row.overall if row.role == "executor" else own


def _answer_row(row: Row[Any], job: Row[Any], verdict: JsonObject | None) -> JsonObject:
    said = stored_result(row.frame)
    shown = _row(said, row, job, verdict)
    enclave = _enclave_kind(row.attestation) | {"build": _build(row.attestation)}
    return shown | {"id": row.id, "result": said.result, "signs": "answer"} | enclave | _evidence(said)


def _evidence(said: JobResult) -> JsonObject:
    """What is shown of an answer, and by which kind of server, where that is not a worker of ours."""
    record = said.record or {}
    return {"evidence": record.get("level", _WHOLE), "backend": record.get("backend")}


def _build(appraisal: JsonObject | None) -> str | None:
    """Name an enclave's build; a host can read one in debug mode, so that is said wherever it shows."""
    if appraisal is None:
        return None
    return f"{appraisal['build']} (debug)" if appraisal["debug"] else str(appraisal["build"])


def _score_row(row: Row[Any], job: Row[Any]) -> JsonObject:
    said = stored_score(row.frame)
    shown = _row(said, row, job, row.verdict)
    suffix = f"_{row.challenge}" if row.challenge else ""
    named = f"{result_id(said)}{suffix}"
    nothing = dict.fromkeys(("attestation", "build", "evidence", "backend"))
    return shown | {"id": named, "result": "", "signs": "score"} | nothing


def _row(said: JobResult | JobScore, row: Row[Any], job: Row[Any], verdict: JsonObject | None) -> JsonObject:
    return {
        "job_id": said.job_id,
        "operator": said.operator,
        "verify_id": str(row.round_id),
        "vrf": said.vrf.to_json(),
        "clock": said.clock,
        "signature": said.signature,
        "job_type": job.request["job"]["tag"],
        "tag": said.tag,
        "position": said.position,
        "challenge": row.challenge,
        "role": row.role,
        "verdict": verdict["outcome"] if verdict else None,
        "reason": verdict["reason"] if verdict else _unjudged(row),
        "created_at": time(row.created_at),
    }


def _unjudged(row: Row[Any]) -> str:
    if row.round_status in {"created", "dispatched"}:
        return "its committee has not finished"
    return (
        "nobody was asked to score it"
        if row.round_status == "completed"
        else f"its round is {row.round_status}"
    )


def _member(seat: Row[Any]) -> JsonObject:
    verdict = seat.verdict
    return {
        "operator": seat.operator,
        "role": seat.role,
        "state": seat.state,
        "verdict": verdict["outcome"] if verdict else None,
        "reason": verdict["reason"] if verdict else seat.reason,
    }


def _look(row: Row[Any]) -> JsonObject:
    return {
        "verify_id": str(row.id),
        "purpose": row.purpose,
        "tag": row.tag,
        "position": row.position,
        "challenge": row.challenge,
        "cause": row.cause,
        "result": row.subject,
        "status": row.status,
        "verdict": row.verdict["outcome"] if row.verdict else None,
        "reason": row.verdict["reason"] if row.verdict else row.reason,
    }
