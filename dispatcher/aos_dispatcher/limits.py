"""Whether a job is taken in: its project's quota (`quotas`), and how many jobs may wait for a committee.

Everything is counted in PostgreSQL, in the transaction that stores the jobs, while it holds the lock of the job sequence: so
limits are exact, however many dispatchers share the database, and a repeated submission, which stores nothing, counts nothing.

Waiting jobs are not counted at each submission. Only submissions add to them, so how many waited when they were counted
last, and how many jobs were taken in since, is never less than how many wait now. They are counted anew when that bound
reaches the limit, and not again within 10 µs for each job of the limit: a queue of 100,000 once a second.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import monotonic

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError, TooMany
from aos_dispatcher.metrics import SUBMISSIONS_REFUSED
from aos_dispatcher.quotas import (
    FASTEST_RATE,
    LARGEST_BURST,
    SLOWEST_RATE,
    Quota,
    Standing,
    Usage,
    seconds,
)
from aos_dispatcher.tables import Project, ProjectLimit, Round

_READ_EVERY_S = 1.0
_COUNT_EVERY_S = 1e-5
_FULL_RETRY_S = 5

# The server's clock, read under the lock: the clocks of several dispatchers differ.
_LOAD = text(
    "select project_id, rate, burst, daily, waiting, full_at, day, used, accepted, "
    "cast(extract(epoch from clock_timestamp()) * 1000000000 as bigint) as now "
    "from project_limits where project_id = any(:projects) order by project_id"
)
_STORE = text(
    """
    update project_limits set full_at = fresh.full_at, day = fresh.day, used = fresh.used, accepted = fresh.accepted
    from unnest(cast(:projects as text[]), cast(:full_at as bigint[]), cast(:day as bigint[]), cast(:used as bigint[]),
                cast(:accepted as bigint[])) as fresh(project_id, full_at, day, used, accepted)
    where project_limits.project_id = fresh.project_id
    """
)


@dataclass
class _Account:
    """A limited project in one batch; `waiting` is at least the number of its jobs that wait."""

    quota: Quota
    usage: Usage
    now: int
    waiting: int = 0
    taken: int = 0


@dataclass(frozen=True)
class _Count:
    """How many jobs of a queue waited when `accepted` jobs had been taken in, and when that was."""

    waiting: int
    accepted: int
    at: float


class Limits:
    """The limits of one dispatcher process, which lets at most `most_waiting` jobs wait in all.

    A limit that is set for a project that had none counts within a second; a changed one at once.
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._limited: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._counts: dict[str | None, _Count] = {}

    async def admit(
        self, connection: AsyncConnection, projects: Sequence[str], last: int
    ) -> list[TooMany | Standing | None]:
        """Decide about new jobs of these projects, in order, and count those that are let in.

        A refused job has a `TooMany`, one that is let in what the rate of its project then leaves, if it has a rate. The
        caller holds the lock of the job sequence, whose last number is `last`, and stores the jobs in this transaction.
        """
        if not projects:
            return []
        await self._read_limited(connection)
        accounts = await self._accounts(connection, projects)
        room = self._most_waiting - await self._waiting(
            connection, None, self._most_waiting, last, len(projects)
        )
        outcomes: list[TooMany | Standing | None] = []
        for project in projects:
            account = accounts.get(project)
            refusal = _refusal(project, account) if account else None
            if refusal is None and room <= 0:
                refusal = _full(
                    "this dispatcher", "dispatcher", self._most_waiting, self._most_waiting - room
                )
            if refusal is not None:
                SUBMISSIONS_REFUSED.labels(refusal.limit).inc()
                outcomes.append(refusal)
                continue
            room -= 1
            outcomes.append(_take(account) if account else None)
        await _store(connection, accounts)
        return outcomes

    async def _read_limited(self, connection: AsyncConnection) -> None:
        if self._read_at is not None and monotonic() - self._read_at < _READ_EVERY_S:
            return
        self._limited = frozenset((await connection.execute(select(ProjectLimit.project_id))).scalars())
        self._read_at = monotonic()

    async def _accounts(self, connection: AsyncConnection, projects: Sequence[str]) -> dict[str, _Account]:
        limited = self._limited.intersection(projects)
        if not limited:
            return {}
        accounts = {}
        for row in (await connection.execute(_LOAD, {"projects": sorted(limited)})).all():
            quota = Quota(row.rate, row.burst, row.daily, row.waiting)
            usage = Usage(row.full_at, row.day, row.used, row.accepted)
            accounts[row.project_id] = _Account(quota, usage, row.now)
        for project, account in accounts.items():
            most = account.quota.waiting
            if most is not None:
                account.waiting = await self._waiting(
                    connection, project, most, account.usage.accepted, projects.count(project)
                )
        return accounts

    async def _waiting(
        self, connection: AsyncConnection, project: str | None, most: int, accepted: int, coming: int
    ) -> int:
        """Return at least how many jobs wait, of a project or of all; exactly that where `coming` more might be too many."""
        count = self._counts.get(project)
        if count is not None:
            bound = count.waiting + accepted - count.accepted
            if bound + coming <= most or monotonic() - count.at < most * _COUNT_EVERY_S:
                return bound
        waiting = await count_waiting(connection, project)
        self._counts[project] = _Count(waiting, accepted, monotonic())
        return waiting


async def count_waiting(connection: AsyncConnection, project: str | None) -> int:
    """Count the jobs, of one project or of all, that were taken in and have no committee yet."""
    query = select(func.count()).where(Round.status == "created", Round.project_id.is_not(None))
    if project is not None:
        query = query.where(Round.project_id == project)
    return (await connection.execute(query)).scalar_one()


async def set_quota(database: Database, project: str, changes: dict[str, float | int]) -> Quota:
    """Change some of a project's limits, by the names of `Quota`; a 0 takes a limit away. Returns what holds now.

    Raises `DispatcherError` for a project that does not exist, and for a limit that cannot be.
    """
    _check(changes)
    values = {name: value or None for name, value in changes.items()}
    if values.keys() & {"rate", "burst"}:
        values["full_at"] = 0  # a bucket of the new size begins full
    async with database.begin() as connection:
        known = select(Project.id).where(Project.id == project)
        if (await connection.execute(known)).scalar() is None:
            raise DispatcherError(f"there is no project {project!r}: make it with dispatcher project create")
        row = insert(ProjectLimit).values(project_id=project, **values)
        if values:
            row = row.on_conflict_do_update(index_elements=["project_id"], set_=values)
            await connection.execute(row)
        columns = (ProjectLimit.rate, ProjectLimit.burst, ProjectLimit.daily, ProjectLimit.waiting)
        found = await connection.execute(select(*columns).where(ProjectLimit.project_id == project))
        stands = found.one_or_none()
    return Quota(*stands) if stands else Quota()


def _check(changes: dict[str, float | int]) -> None:
    rate, burst = changes.get("rate", 0), changes.get("burst", 1)
    if rate and not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise DispatcherError(
            f"a rate of {rate:g} jobs a second cannot be: use one an hour ({SLOWEST_RATE:.2g}) to {FASTEST_RATE:.0f}, or 0 for none"
        )
    if not 1 <= burst <= LARGEST_BURST:
        raise DispatcherError(f"a burst of {burst} jobs cannot be: use 1 to {LARGEST_BURST}")
    for name in ("daily", "waiting"):
        if not 0 <= changes.get(name, 0) < 1 << 63:
            raise DispatcherError(f"{changes[name]} {name} jobs cannot be: use 1 or more, or 0 for no limit")


def _refusal(project: str, account: _Account) -> TooMany | None:
    quota, usage, now = account.quota, account.usage, account.now
    who = f"project {project!r}"
    if late := usage.late(quota, now):
        refusal = TooMany(
            f"{who} submits faster than {quota.rate:g} jobs a second, {quota.burst} at once",
            "rate",
            seconds(late),
        )
    elif spent := usage.spent(quota, now):
        refusal = TooMany(
            f"{who} has submitted its {quota.daily} jobs of this day (UTC)", "daily", seconds(spent)
        )
    elif quota.waiting is not None and account.waiting + account.taken >= quota.waiting:
        refusal = _full(who, "waiting", quota.waiting, account.waiting + account.taken)
    else:
        return None
    standing = usage.standing(quota, now)
    refusal.headers = standing.headers() if standing else {}
    return refusal


def _full(who: str, limit: str, most: int, waiting: int) -> TooMany:
    said = f"{who} has {waiting} jobs waiting, and at most {most} may wait"
    return TooMany(said, limit, _FULL_RETRY_S, position=waiting)


def _take(account: _Account) -> Standing | None:
    account.usage.take(account.quota, account.now)
    account.taken += 1
    return account.usage.standing(account.quota, account.now)


async def _store(connection: AsyncConnection, accounts: dict[str, _Account]) -> None:
    changed: Collection[tuple[str, Usage]] = [(p, a.usage) for p, a in accounts.items() if a.taken]
    if not changed:
        return
    columns = {
        name: [getattr(usage, name) for _, usage in changed]
        for name in ("full_at", "day", "used", "accepted")
    }
    await connection.execute(_STORE, {"projects": [project for project, _ in changed], **columns})
