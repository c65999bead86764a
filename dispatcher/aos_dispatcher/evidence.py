"""Puts a job's evidence together (`aos_protocol.evidence` says what it holds and checks it)."""

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import log_reader
from aos_dispatcher.documents import (
    committee_documents,
    place_document,
    plea_document,
    policy_document,
    seed_document,
)
from aos_dispatcher.log_sequencer import Sequencer
from aos_dispatcher.operators import registry_document
from aos_dispatcher.tables import (
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
    """Reads evidence documents from the database; everything in them is as it was stored. `contract` anchors the log, if one does."""

    def __init__(
        self, sequencer: Sequencer, signer: Signer, domain: Domain, contract: str | None = None
    ) -> None:
        self._sequencer = sequencer
        self._signer = signer
        self._domain = domain
        self._contract = contract

    async def document(self, job_id: str) -> JsonObject:
        """Return the evidence of this job with its log, as far as both have come at one moment. The caller knows that there is such a job.

        Raises `LogDamaged` when the log can prove nothing.
        """
        async with self._sequencer.settled(job_id) as connection:
            log = await log_reader.log_of(connection, job_id, self._domain, self._contract)
            return await self.unlogged(connection, job_id) | {"log": log.model_dump()}

    async def unlogged(self, connection: AsyncConnection, job_id: str) -> JsonObject:
        """Return the evidence of this job without what the log has of it."""
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
            "seed": seed_document(job.seed, job.seed_proof),
            "policy": policy_document(job.audit_ppm, job.least_evidence),
            "calibrations": calibrations,
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
    results = select(Result.frame).where(Result.round_id == row.id).order_by(Result.created_at, Result.id)
    scores = select(Score.frame).where(Score.round_id == row.id).order_by(Score.id)
    subject = select(Result.frame).where(Result.id == row.subject)
    kept = select(Registry.document).where(Registry.digest == row.registry_digest)
    shares = (await connection.execute(kept)).scalar()
    challenged = (await connection.execute(subject)).scalar()
    plea = await _plea(connection, row.id) if row.challenge else None
    return {
        **place_document(row._asdict(), challenged, plea),
        "calibration": row.calibration,
        "status": row.status,
        "registry": None if shares is None else registry_document(shares, row.registry_chain),
        "draw_clock": row.draw_clock,
        "electorate": row.electorate,
        "dispatch_clock": row.dispatch_clock,
        "committee": (await committee_documents(connection, [row.id])).get(row.id, []),
        "results": list((await connection.execute(results)).scalars()),
        "scores": list((await connection.execute(scores)).scalars()),
        "verdict": row.verdict,
    }


async def _plea(connection: AsyncConnection, round_id: int) -> JsonObject | None:
    query = select(Challenge.__table__).where(Challenge.round_id == round_id)
    row = (await connection.execute(query)).one_or_none()
    # A plea that somebody deleted is missing in the evidence, too, and the log tells.
    return None if row is None else plea_document(row._asdict())
