"""Calibrations in PostgreSQL: which one a model's name has, and which one a round's scores are judged by."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.tables import Calibration as Row
from aos_dispatcher.tables import Model
from aos_protocol.calibration import Calibration


async def keep(connection: AsyncConnection, calibration: Calibration) -> str:
    """Store a calibration and return its digest; one that is there already stays."""
    row = insert(Row).values(digest=calibration.digest(), document=calibration.to_json())
    await connection.execute(row.on_conflict_do_nothing())
    return calibration.digest()


async def of_model(connection: AsyncConnection, sha256: str) -> str | None:
    """Return the digest of the calibration by which rounds of this model file are judged from now on, or None."""
    query = select(Model.calibration).where(Model.sha256 == sha256, Model.calibration.is_not(None))
    return (await connection.execute(query.limit(1))).scalar()


async def load(connection: AsyncConnection, digest: str | None) -> Calibration | None:
    """Read a calibration by its digest; None has none."""
    if digest is None:
        return None
    if digest not in _KNOWN:
        query = select(Row.document).where(Row.digest == digest)
        _KNOWN[digest] = Calibration.from_json((await connection.execute(query)).scalar_one())
    return _KNOWN[digest]


def known(digest: str) -> Calibration | None:
    """Return a calibration that this process has read already."""
    return _KNOWN.get(digest)


_KNOWN: dict[str, Calibration] = {}
# By digest, so no entry is ever out of date. A calibration works out its tables at the first use and keeps them.
