"""Puts a job's evidence together (`aos_protocol.evidence` says what it holds and checks it)."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.tables import (
    Assignment,
    Calibration,
    Challenge,
    Job,
    JsonObject,
    Registry,
    Rejection,
    Result,
    Round,
    Score,
)
from aos_protocol.evidence_document import VERSION
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain


class EvidenceDesk:
    """Reads evidence documents from the database; everything in them is as it was stored."""

    def __init__(self, database: Database, signer: Signer, domain: Domain) -> None:
        self._database = database
        self._signer = signer
        self._domain = domain

    async def document(self, job_id: str) -> JsonObject:
        """Return the evidence of this job, as far as it has come at one moment. The caller knows that there is such a job."""
        async with self._database.snapshot() as connection:
            job = (await connection.execute(select(Job.__table__).where(Job.id == job_id))).one()
            query = select(Round.__table__).where(Round.job_id == job_id).order_by(Round.id)
            rows = (await connection.execute(query)).all()
            rounds = [await _round(connection, row) for row in rows]
            judged_by = {row.calibration for row in rows}
            used = select(Calibration.document).where(Calibration.digest.in_(judged_by))
            calibrations = list((await connection.execute(used.order_by(Calibration.digest))).scalars())
            rejected = select(Rejection.__table__).where(Rejection.job_id == job_id).order_by(Rejection.id)
            rejections = [
                {"operator": row.operator, "reason": row.reason, "frame": row.frame}
                for row in await connection.execute(rejected)
            ]
        return {
            "version": VERSION,
            "dispatcher": {"address": self._signer.address, "public_key": self._signer.public_key.hex()},
            "domain": {"chain_id": self._domain.chain_id, "registry": self._domain.registry},
            "job": _job(job),
            "seed": {"value": job.seed, "proof": job.seed_proof},
            "policy": {"audit_ppm": job.audit_ppm},
            "calibrations": calibrations,
            "rounds": rounds,
            "rejections": rejections,
            "log": None,
        }


def _job(job: Row[Any]) -> JsonObject:
    return {
        "job_id": job.id,
        "sequence": job.sequence,
        "request": job.request,
        "request_digest": job.request_digest,
        "receipt": job.receipt,
        "status": job.status,
        "reason": job.reason,
        "clock": job.clock,
    }


async def _round(connection: AsyncConnection, row: Row[Any]) -> JsonObject:
    seats = select(Assignment.__table__).where(Assignment.round_id == row.id).order_by(Assignment.rank)
    results = select(Result.frame).where(Result.round_id == row.id).order_by(Result.created_at, Result.id)
    scores = select(Score.frame).where(Score.round_id == row.id).order_by(Score.id)
    subject = select(Result.frame).where(Result.id == row.subject)
    registry = select(Registry.document).where(Registry.digest == row.registry_digest)
    return {
        "verify_id": str(row.id),
        "tag": row.tag,
        "position": row.position,
        "challenge": row.challenge,
        "cause": row.cause,
        "seed": {"value": row.seed, "proof": row.seed_proof} if row.seed else None,
        "subject": (await connection.execute(subject)).scalar(),
        "plea": await _plea(connection, row.id) if row.challenge else None,
        "model": {"name": row.model, "sha256": row.model_sha256},
        "calibration": row.calibration,
        "status": row.status,
        "registry": (await connection.execute(registry)).scalar(),
        "draw_clock": row.draw_clock,
        "electorate": row.electorate,
        "dispatch_clock": row.dispatch_clock,
        "committee": [_seat(seat) for seat in await connection.execute(seats)],
        "results": list((await connection.execute(results)).scalars()),
        "scores": list((await connection.execute(scores)).scalars()),
        "verdict": row.verdict,
    }


async def _plea(connection: AsyncConnection, round_id: int) -> JsonObject:
    query = select(Challenge.__table__).where(Challenge.round_id == round_id)
    row = (await connection.execute(query)).one()
    by = "operator" if row.challenger else "project" if row.project else "dispatcher"
    return {
        "purpose": row.purpose,
        "by": by,
        "operator": row.challenger,
        "reason": row.reason,
        "signature": row.signature,
    }


def _seat(row: Row[Any]) -> JsonObject:
    return {
        "operator": row.operator,
        "role": row.role,
        "filled": row.filled,
        "state": row.state,
        "reason": row.reason,
    }
