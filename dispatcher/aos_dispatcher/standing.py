"""Operators' standing: the frauds found, who is suspended for them, and who is not asked in a round.

A suspended operator may connect, and what it has begun it may finish; no draw asks it for a ticket. The registry keeps
it, so that ranges and numbers stay as they are: like an operator that is away, it is missing from the electorate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.documents import time
from aos_dispatcher.errors import NotFound
from aos_dispatcher.log_pending import record
from aos_dispatcher.log_reader import size
from aos_dispatcher.log_sequencer import Sequencer
from aos_dispatcher.projects import Projects
from aos_dispatcher.tables import Challenge, Fraud, Job, JsonObject, Operator, Pool, Project, Result, Round
from aos_protocol.log_entries import fraud_details, fraud_entry, pool_entry, standing_entry


@dataclass(frozen=True)
class Finding:
    """A fraud as it is kept: whose, in which job and result, and the first step that shows it with its proof.

    A finding over many jobs (a pool's) has neither result nor step. `verdict` is what the verifiers found.
    """

    operator: str
    job_id: str | None
    result: str | None
    round_id: int | None
    step: int | None
    proof: JsonObject | None
    verdict: JsonObject


async def suspended(connection: AsyncConnection) -> set[str]:
    """Return the operators that no draw may ask."""
    query = select(Operator.address).where(Operator.suspended_at.is_not(None))
    return set((await connection.execute(query)).scalars())


async def barred(connection: AsyncConnection, round_id: int) -> set[str]:
    """Return the operators that this round's draw may not ask: suspended ones, and the parties of its challenge."""
    parties = (
        select(Result.operator, Challenge.challenger)
        .join(Round, Round.subject == Result.id)
        .outerjoin(Challenge, Challenge.round_id == Round.id)
        .where(Round.id == round_id)
    )
    found = {party for row in await connection.execute(parties) for party in row if party is not None}
    return found | await suspended(connection)


async def record_fraud(connection: AsyncConnection, finding: Finding, suspend_after: int) -> bool:
    """Keep a finding, and suspend its operator when that makes `suspend_after`; returns whether it is suspended now."""
    # Two findings at once must both be counted: the second waits here for the first.
    await _lock(connection, finding.operator)
    kept = insert(Fraud).values(**vars(finding)).returning(Fraud.__table__)
    fraud = (await connection.execute(kept)).one()
    record(connection, fraud_entry(finding.operator, _shown(fraud, readable=False)))
    return await _review(connection, finding.operator, suspend_after)


async def record_pool_finding(
    connection: AsyncConnection, operator: str, job_id: str, verdict: JsonObject, suspend_after: int
) -> bool:
    """Keep what a pool of an operator's jobs shows; `job_id` is the job that tipped it. Counts as one fraud."""
    return await record_fraud(
        connection, Finding(operator, job_id, None, None, None, None, verdict), suspend_after
    )


async def withdraw_fraud(
    connection: AsyncConnection, fraud_id: int, operator: str, suspend_after: int
) -> bool:
    """Take a finding back, and lift the suspension that rested on it; returns whether the operator still is suspended."""
    await _lock(connection, operator)
    withdrawn = update(Fraud).where(Fraud.id == fraud_id).values(withdrawn_at=func.now())
    fraud = (await connection.execute(withdrawn.returning(Fraud.__table__))).one()
    record(connection, fraud_entry(operator, _shown(fraud, readable=False)))
    return await _review(connection, operator, suspend_after)


class Standing:
    """Shows anybody where an operator stands; a step proof holds the prompt, so a private project's needs its token."""

    def __init__(self, sequencer: Sequencer, projects: Projects, suspend_after: int) -> None:
        self._sequencer = sequencer
        self._projects = projects
        self._suspend_after = suspend_after

    async def of(self, address: str, token: str | None) -> tuple[JsonObject, int]:
        """Return an operator's standing, with the frauds that count or counted against it and its pools, as the log of this size has them.

        Raises `NotFound`.
        """
        own = await self._projects.owner(token) if token else None
        async with self._sequencer.settled(None) as connection:
            operator = await _operator(connection, address)
            frauds = await _frauds(connection, address)
            shown = {
                "operator": address,
                "number": operator.number,
                **_standing(operator, await _appeal(connection, address), frauds),
                "suspend_after": self._suspend_after,
                "frauds": [
                    _shown(fraud, readable=not fraud.private or fraud.project == own) for fraud in frauds
                ],
                "pools": await _pools(connection, address),
            }
            return shown, await size(connection)


async def record_standing(connection: AsyncConnection, address: str) -> None:
    """Have the log tell where an operator stands now."""
    await _lock(connection, address)
    operator, appeal = await _operator(connection, address), await _appeal(connection, address)
    shown = _standing(operator, appeal, await _frauds(connection, address))
    record(connection, standing_entry(address, shown))


async def record_all(connection: AsyncConnection, address: str) -> None:
    """Have the log tell of an operator's findings and pools, and where it stands, as they are now."""
    frauds = await _frauds(connection, address)
    for fraud in frauds:
        record(connection, fraud_entry(address, _shown(fraud, readable=False)))
    for pool in await _pools(connection, address):
        record(connection, pool_entry(address, pool))
    if frauds:
        await record_standing(connection, address)


async def _pools(connection: AsyncConnection, address: str) -> list[JsonObject]:
    query = select(Pool.__table__).where(Pool.operator == address).order_by(Pool.model_sha256)
    return [pool_document(row._asdict()) for row in await connection.execute(query)]


def pool_document(row: Mapping[str, Any]) -> JsonObject:
    """What an operator's standing shows of a pool, and the log binds; `row` is one of `pools`."""
    return {
        "model": row["model_sha256"],
        "tokens": row["tokens"],
        "llr": row["llr"],
        "decision": row["decision"],
    }


async def _operator(connection: AsyncConnection, address: str) -> Row[Any]:
    query = select(Operator.__table__).where(Operator.address == address)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"there is no operator {address} here")
    return row


async def _frauds(connection: AsyncConnection, address: str) -> Sequence[Row[Any]]:
    query = (
        select(Fraud.__table__, Project.id.label("project"), Project.private)
        .outerjoin(Job, Job.id == Fraud.job_id)
        .outerjoin(Project, Project.id == Job.project_id)
        .where(Fraud.operator == address)
        .order_by(Fraud.id)
    )
    return (await connection.execute(query)).all()


async def _appeal(connection: AsyncConnection, address: str) -> str | None:
    """Return the status of the operator's last appeal, if there ever was one."""
    query = (
        select(Challenge.status)
        .where(Challenge.challenger == address, Challenge.purpose == "appeal")
        .order_by(Challenge.id.desc())
        .limit(1)
    )
    return (await connection.execute(query)).scalar()


def _appeal_state(operator: Row[Any], last: str | None, frauds: Sequence[Row[Any]]) -> str:
    """Say whether the operator may appeal: once, and against a finding about one result, which alone can be scored again."""
    if last == "open":
        return "open"
    about_one = [fraud for fraud in frauds if fraud.result is not None and fraud.withdrawn_at is None]
    if operator.suspended_at is None or not about_one:
        return "none"
    return "available" if operator.appealed_at is None else "used"


def _standing(operator: Row[Any], appeal: str | None, frauds: Sequence[Row[Any]]) -> JsonObject:
    return {
        "standing": "suspended" if operator.suspended_at else "good",
        "suspended_at": time(operator.suspended_at) if operator.suspended_at else None,
        "appeal": _appeal_state(operator, appeal, frauds),
    }


def _shown(fraud: Row[Any], *, readable: bool) -> JsonObject:
    return {
        "id": str(fraud.id),
        "job_id": fraud.job_id,
        "result": fraud.result,
        "verify_id": None if fraud.round_id is None else str(fraud.round_id),
        "status": "upheld" if fraud.withdrawn_at is None else "withdrawn",
        "step": fraud.step,
        "proof": fraud.proof if readable else None,
        "verdict": {name: value for name, value in fraud.verdict.items() if readable or name != "verifiers"},
        "created_at": time(fraud.created_at),
        "details": fraud_details(fraud.proof, fraud.verdict),
    }


async def _lock(connection: AsyncConnection, operator: str) -> None:
    # NO KEY UPDATE: rows that refer to the operator can be inserted meanwhile.
    query = select(Operator.address).where(Operator.address == operator)
    await connection.execute(query.with_for_update(key_share=True))


async def _review(connection: AsyncConnection, operator: str, suspend_after: int) -> bool:
    """Let the suspension follow from the number of findings that stand."""
    standing = select(func.count()).where(Fraud.operator == operator, Fraud.withdrawn_at.is_(None))
    suspend = (await connection.execute(standing)).scalar_one() >= suspend_after
    row = update(Operator).where(Operator.address == operator)
    if suspend:
        await connection.execute(row.where(Operator.suspended_at.is_(None)).values(suspended_at=func.now()))
    else:
        await connection.execute(row.values(suspended_at=None, appealed_at=None))
    await record_standing(connection, operator)
    return suspend
