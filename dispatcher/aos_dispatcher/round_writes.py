"""What is written about rounds, many of them in one transaction: group commit for the dispatch loop.

A `Change` is all that one step of one round writes, under the lease that it was begun with: one with a later fencing token (M. Kleppmann, 2016)
may be the same process's, which took the round up afresh. Rounds are independent, so a batch of changes is written table by table, each
with one statement for all. Whoever has lost a lease is left out and told so; the others' changes count.

Rows are locked in one order everywhere, jobs before rounds before operators, each by their keys: no two transactions wait in a circle.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, insert, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.errors import LeaseLost
from aos_dispatcher.log_pending import record
from aos_dispatcher.operators import Shares, lift_clocks, store_shares
from aos_dispatcher.tables import Assignment, Job, JsonObject, Result, Round, Score

OPEN: Final = ("created", "dispatched")
"""The states of a job or round that still has something to come."""


_LOCK_JOBS = text("select id from jobs where id = any(:ids) order by id for no key update")
_HOLD = text(
    "select id, fencing_token from rounds where id = any(:ids) and lease_owner = :owner and status in ('created', 'dispatched') "
    "order by id for no key update"
)
_BY_ID = {table: update(table).where(table.id == bindparam("row_id")) for table in (Job, Round)}
_RESULTS, _SCORES = insert(Result), insert(Score)
_SEAT = upsert(Assignment)
_SEATED = _SEAT.on_conflict_do_update(
    index_elements=["round_id", "operator"],
    set_={name: _SEAT.excluded[name] for name in ("state", "role", "reason")},
)
_ANSWERED = (
    update(Assignment)
    .where(Assignment.round_id == bindparam("held_round"), Assignment.operator == bindparam("member"))
    .values(state="answered")
)


@dataclass(frozen=True)
class Change:
    """What one step of a round writes, under the lease with this fencing token.

    `round` and `job` are columns of the two rows; `seats` whole rows of its committee, new ones or those that have changed, and `answered`
    the operators whose seats are done. `heard` are operators' clock counters, `entries` what the log is told.
    """

    round_id: int
    fencing_token: int
    job_id: str
    round: JsonObject = field(default_factory=dict)
    job: JsonObject = field(default_factory=dict)
    shares: Shares | None = None
    seats: Sequence[JsonObject] = ()
    answered: Sequence[str] = ()
    results: Sequence[JsonObject] = ()
    scores: Sequence[JsonObject] = ()
    heard: Sequence[tuple[str, int]] = ()
    entries: Sequence[str] = ()


async def write(
    connection: AsyncConnection, changes: Sequence[Change], *, owner: str
) -> list[Exception | None]:
    """Write those changes whose rounds this owner holds under the same lease; returns `LeaseLost` for each of the others."""
    await lock_jobs(connection, {change.job_id for change in changes if change.job})
    held = await hold(connection, owner, {change.round_id for change in changes})
    kept = [change for change in changes if held.get(change.round_id) == change.fencing_token]
    if kept:
        await _write_draws(connection, kept)
        await _write_statements(connection, kept)
    for change in kept:
        for entry in change.entries:
            record(connection, entry, change.job_id)
    return [
        None if held.get(change.round_id) == change.fencing_token else lost(change.round_id)
        for change in changes
    ]


def lost(round_id: int) -> LeaseLost:
    """What a process is told that no longer holds a round."""
    return LeaseLost(f"round {round_id} was closed or taken over by another dispatcher")


async def lock_jobs(connection: AsyncConnection, job_ids: Collection[str]) -> None:
    """Lock jobs as an update of their rows does; rows that refer to them can be inserted meanwhile."""
    if job_ids:
        await connection.execute(_LOCK_JOBS, {"ids": list(job_ids)})


async def hold(connection: AsyncConnection, owner: str, round_ids: Collection[int]) -> dict[int, int]:
    """Lock those of these open rounds that the owner has the lease of, until the transaction ends; returns their fencing tokens."""
    locked = await connection.execute(_HOLD, {"ids": list(round_ids), "owner": owner})
    return {row.id: row.fencing_token for row in locked}


async def update_rows(
    connection: AsyncConnection, table: type[Job] | type[Round], rows: Sequence[tuple[Any, JsonObject]]
) -> None:
    """Write columns of rows, given as (id, columns); rows with the same columns share a statement."""
    alike: dict[tuple[str, ...], list[JsonObject]] = {}
    for id_, columns in rows:
        alike.setdefault(tuple(columns), []).append({"row_id": id_, **columns})
    for some in alike.values():
        await connection.execute(_BY_ID[table], some)


async def _write_draws(connection: AsyncConnection, changes: Sequence[Change]) -> None:
    for shares in {change.shares.digest: change.shares for change in changes if change.shares}.values():
        await store_shares(connection, shares)
    await update_rows(connection, Job, [(change.job_id, change.job) for change in changes if change.job])
    await update_rows(
        connection, Round, [(change.round_id, change.round) for change in changes if change.round]
    )
    seats = [seat for change in changes for seat in change.seats]
    if seats:
        await connection.execute(_SEATED, seats)


async def _write_statements(connection: AsyncConnection, changes: Sequence[Change]) -> None:
    results = [result for change in changes for result in change.results]
    if results:
        await connection.execute(_RESULTS, results)
    scores = [score for change in changes for score in change.scores]
    if scores:
        await connection.execute(_SCORES, scores)
    answered = [
        {"held_round": change.round_id, "member": operator}
        for change in changes
        for operator in change.answered
    ]
    if answered:
        await connection.execute(_ANSWERED, answered)
    await lift_clocks(connection, [heard for change in changes for heard in change.heard])
