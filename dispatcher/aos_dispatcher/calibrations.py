"""Calibrations in PostgreSQL: which one a model's name has, and which one a round's scores are judged by."""

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.tables import Calibration as Row
from aos_protocol.calibration import Calibration


async def keep(connection: AsyncConnection, calibration: Calibration) -> str:
    """Store a calibration and return its digest; one that is there already stays."""
    row = insert(Row).values(digest=calibration.digest(), document=calibration.to_json())
    await connection.execute(row.on_conflict_do_nothing())
    return calibration.digest()


_CHOSEN = text(
    """
    select calibration from (
        select 0 as place, id, calibration from rounds
        where job_id = :job and model_sha256 = :model and registry_digest is not null
        union all
        select 1, 0, calibration from models where sha256 = :model and calibration is not null
    ) as known
    order by place, id limit 1
    """
)


async def chosen(connection: AsyncConnection, job_id: str, model_sha256: str) -> str | None:
    """Return the digest of the calibration by which a job's next round of this model is judged, or None.

    It is that of the job's earlier rounds, even if they had none, so that one job's verdicts do not change with a model's
    recalibration; the first round takes the model's own of the time.
    """
    return (await connection.execute(_CHOSEN, {"job": job_id, "model": model_sha256})).scalar()


async def load(connection: AsyncConnection, digest: str | None) -> Calibration | None:
    """Read a calibration by its digest; None has none."""
    if digest is None:
        return None
    if digest not in _KNOWN:
        query = select(Row.document).where(Row.digest == digest)
        _KNOWN[digest] = Calibration.from_json((await connection.execute(query)).scalar_one())
    return _KNOWN[digest]


_KNOWN: dict[str, Calibration] = {}
# By digest, so no entry is ever out of date. A calibration works out its tables at the first use and keeps them.
