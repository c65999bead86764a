"""Puts a job's evidence together (`aos_protocol.evidence` says what it holds and checks it)."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.tables import Assignment, JsonObject, Registry, Rejection, Result, Round
from aos_protocol.evidence_document import VERSION
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain


class EvidenceDesk:
    """Reads evidence documents from the database; everything in them is as it was stored."""

    def __init__(self, database: Database, signer: Signer, domain: Domain) -> None:
        self._database = database
        self._signer = signer
        self._domain = domain

    async def document(self, job: Row[Any]) -> JsonObject:
        """Return the evidence of this job, as far as it has come."""
        async with self._database.connect() as connection:
            query = select(Round.__table__).where(Round.job_id == job.id).order_by(Round.id)
            rounds = [await _round(connection, row) for row in await connection.execute(query)]
            rejected = select(Rejection.__table__).where(Rejection.job_id == job.id).order_by(Rejection.id)
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
            "rounds": rounds,
            "rejections": rejections,
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
    registry = select(Registry.document).where(Registry.digest == row.registry_digest)
    return {
        "verify_id": str(row.id),
        "tag": row.tag,
        "position": row.position,
        "model": {"name": row.model, "sha256": row.model_sha256},
        "status": row.status,
        "registry": (await connection.execute(registry)).scalar(),
        "draw_clock": row.draw_clock,
        "electorate": row.electorate,
        "dispatch_clock": row.dispatch_clock,
        "committee": [
            {
                "operator": seat.operator,
                "role": seat.role,
                "filled": seat.filled,
                "state": seat.state,
                "reason": seat.reason,
            }
            for seat in await connection.execute(seats)
        ],
        "results": list((await connection.execute(results)).scalars()),
    }
