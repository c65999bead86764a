"""What is written about rounds, many of them in one statement: group commit for the dispatch loop.

A `Change` is all that one step of one round writes, under the lease that it was begun with: one with a later fencing token (M. Kleppmann, 2016)
may be the same process's, which took the round up afresh. Rounds are independent, so a batch of changes is one statement, which is a transaction
by itself: one round trip. Whoever has lost a lease is left out and told so; the others' changes count.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import round_sql as sql
from aos_dispatcher.database import Database, together_or_apart
from aos_dispatcher.errors import LeaseLost
from aos_dispatcher.tables import JsonObject

OPEN: Final = ("created", "dispatched")
"""The states of a job or round that still has something to come."""

_LOCK_JOBS = text("select id from jobs where id = any(:ids) order by id for no key update")
_HOLD = text(
    f"select id, fencing_token from rounds where id = any(:ids) and {sql.OPEN_AND_MINE} order by id for no key update"  # noqa: S608 - constants
)


@dataclass(frozen=True)
class Change:
    """What one step of a round writes, under the lease with this fencing token.

    `drawn`, `ended` and `session` are columns of the round, the first two of its job, too, where it is that one's `own` round; `seats` are
    whole rows of its committee, new ones or those that have changed, and `answered` the operators whose seats are done. `heard` are
    operators' clock counters, `entries` what the log is told.
    """

    round_id: int
    fencing_token: int
    job_id: str
    drawn: JsonObject | None = None
    ended: JsonObject | None = None
    session: JsonObject | None = None
    seats: Sequence[JsonObject] = ()
    answered: Sequence[str] = ()
    results: Sequence[JsonObject] = ()
    scores: Sequence[JsonObject] = ()
    heard: Sequence[tuple[str, int]] = ()
    entries: Sequence[str] = ()


async def write(database: Database, changes: Sequence[Change], *, owner: str) -> list[Exception | None]:
    """Write those changes whose rounds this owner holds under the same lease; returns `LeaseLost` for each of the others.

    One that cannot be written fails alone, with its error. Raises `Unavailable`.
    """
    outcomes: dict[int, Exception | None] = {}
    for some in _once_a_round(changes):

        async def store(those: Sequence[Change]) -> list[Exception | None]:
            return await _store(database, those, owner)

        found = await together_or_apart(some, store)
        outcomes |= {id(change): outcome for change, outcome in zip(some, found, strict=True)}
    return [outcomes[id(change)] for change in changes]


async def _store(database: Database, changes: Sequence[Change], owner: str) -> list[Exception | None]:
    rows = _rows_of(changes)
    statement = sql.statement(tuple(each.name for each in sql.ROWS if rows[each.name]))
    asked = [{"id": change.round_id, "fencing_token": change.fencing_token} for change in changes]
    written = rows[sql.DRAWS.name] + rows[sql.ENDS.name]
    locked = [row["job_id"] for row in written if row["own"]]
    parameters = {"owner": owner, "locked": locked} | sql.ASKED.parameters(asked)
    for each in sql.ROWS:
        if rows[each.name]:
            parameters |= each.parameters(rows[each.name])
    found = await database.write(statement, parameters, records=bool(rows[sql.ENTRIES.name]))
    held = {row.id: row.fencing_token for row in found}
    return [
        None if held.get(change.round_id) == change.fencing_token else lost(change.round_id)
        for change in changes
    ]


def _rows_of(changes: Sequence[Change]) -> dict[str, list[JsonObject]]:
    rows: dict[str, list[JsonObject]] = {each.name: [] for each in sql.ROWS}
    for change in changes:
        of_round = {"round_id": change.round_id}
        if change.drawn is not None:
            rows[sql.DRAWS.name].append({"id": change.round_id, "job_id": change.job_id} | change.drawn)
        if change.ended is not None:
            rows[sql.ENDS.name].append({"id": change.round_id, "job_id": change.job_id} | change.ended)
        if change.session is not None:
            rows[sql.SESSIONS.name].append({"id": change.round_id, "session": change.session})
        rows[sql.SEATS.name] += change.seats
        rows[sql.ANSWERED.name] += [of_round | {"operator": operator} for operator in change.answered]
        rows[sql.RESULTS.name] += change.results
        rows[sql.SCORES.name] += change.scores
        rows[sql.HEARD.name] += [
            of_round | {"operator": operator, "counter": counter} for operator, counter in change.heard
        ]
        rows[sql.ENTRIES.name] += [
            of_round | {"place": place, "job_id": change.job_id, "entry": entry}
            for place, entry in enumerate(change.entries, len(rows[sql.ENTRIES.name]))
        ]
    return rows


def _once_a_round(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Part changes so that no round has two in a statement, which would see neither's rows in the other."""
    waiting = list(changes)
    while waiting:
        first: dict[int, Change] = {}
        for change in waiting:
            first.setdefault(change.round_id, change)
        yield list(first.values())
        waiting = [change for change in waiting if first[change.round_id] is not change]


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
