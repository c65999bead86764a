"""Operators' pools in PostgreSQL: every scored answer's margins, tested together (`aos_protocol.pool`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median_low

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.log_pending import record
from aos_dispatcher.standing import pool_document, record_pool_finding
from aos_dispatcher.tables import Pool as Row
from aos_protocol.calibration import Calibration
from aos_protocol.log_entries import pool_entry
from aos_protocol.pool import Pool
from aos_protocol.score_document import Score


@dataclass(frozen=True)
class Scored:
    """An operator's answer of one job, and what its verifiers, by address, measured on it."""

    operator: str
    job_id: str
    model: str
    scores: Mapping[str, Score]

    def margins(self) -> list[float]:
        """Return each position's lower median over the verifiers, so that no minority of them moves a pool.

        Only margins of transcripts count: what other backends compute is not as near as the calibration's samples.
        """
        lists = [
            score.margins
            for score in self.scores.values()
            if score.margins is not None and score.level == "fingerprint"
        ]
        return [median_low(at) for at in zip(*lists, strict=True)]


async def add(
    connection: AsyncConnection, scored: Scored, calibration: Calibration, suspend_after: int
) -> None:
    """Put an answer into its operator's pool; the one that tips it over is kept as a finding.

    Called in the transaction that closes the answer's round, once for each answer: a challenge looks at it again, and adds nothing.
    """
    margins = scored.margins()
    if not margins:
        return
    before = await _locked(connection, scored)
    after = before.add(margins, calibration)
    key = {"operator": scored.operator, "model_sha256": scored.model}
    row = insert(Row).values(**key, **asdict(after))
    await connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=asdict(after)))
    record(connection, pool_entry(scored.operator, pool_document(key | asdict(after))))
    if after.decision == "cheating" and before.decision != "cheating":
        found = _finding(after, calibration)
        await record_pool_finding(connection, scored.operator, scored.job_id, found, suspend_after)


async def _locked(connection: AsyncConnection, scored: Scored) -> Pool:
    query = select(Row.llr, Row.tokens, Row.decision).where(
        Row.operator == scored.operator, Row.model_sha256 == scored.model
    )
    # An operator's first two answers at once would both find no row to lock.
    fresh = insert(Row).values(operator=scored.operator, model_sha256=scored.model, **asdict(Pool()))
    await connection.execute(fresh.on_conflict_do_nothing())
    row = (await connection.execute(query.with_for_update())).one()
    return Pool(row.llr, row.tokens, row.decision)


def _finding(pool: Pool, calibration: Calibration) -> dict[str, object]:
    return {
        "outcome": "mismatch",
        "level": "fingerprint",
        "reason": f"the margins of its answers of this model, {pool.tokens} tokens together, are those of: {calibration.pool}",
        "statistics": {"pool_evidence": pool.llr, "tokens": pool.tokens},
        "tokens_needed": None,
    }
