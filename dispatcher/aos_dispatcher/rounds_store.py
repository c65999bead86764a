"""Rounds in PostgreSQL: leases, and each step of a round written under its lease.

Every write names the lease's owner. A dispatcher that stalled past its lease therefore fails with
`LeaseLost` instead of overwriting what its successor did.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.committee import SeatState
from aos_dispatcher.database import Database
from aos_dispatcher.errors import LeaseLost
from aos_dispatcher.operators import RegistrySnapshot, lift_clock, store_snapshot
from aos_dispatcher.tables import Assignment, Job, JsonObject, Registry, Rejection, Result, Round
from aos_protocol.messages import JobResult

_CLAIM = text(
    """
    with picked as (
        select id from rounds
        where status in ('created', 'dispatched')
          and (lease_until is null or lease_until < now())
          and (not_before is null or not_before <= now())
          and (status = 'dispatched' or deadline <= now()
               or (job_type, model) in (select * from unnest(cast(:types as text[]), cast(:models as text[]))))
        order by id
        limit :count
        for update skip locked
    )
    update rounds set lease_owner = :owner, lease_until = now() + make_interval(secs => :lease)
    from picked where rounds.id = picked.id
    returning rounds.id
    """
)
_RENEW = text(
    "update rounds set lease_until = now() + make_interval(secs => :lease) "
    "where id = any(:rounds) and lease_owner = :owner"
)
_RELEASE = text(
    "update rounds set lease_owner = null, lease_until = null, not_before = now() + make_interval(secs => :pause) "
    "where id = :round and lease_owner = :owner"
)
_RELEASE_ALL = text("update rounds set lease_owner = null, lease_until = null where lease_owner = :owner")


@dataclass(frozen=True)
class Claimed:
    """A leased round joined with its job; seats and registry are there once it was drawn."""

    row: Row[Any]
    seats: Sequence[Row[Any]] = ()
    registry: JsonObject = field(default_factory=dict)
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class Drawn:
    """What a draw decided, as it is stored."""

    snapshot: RegistrySnapshot
    draw_clock: dict[str, str]
    dispatch_clock: dict[str, str]
    electorate: list[JsonObject]
    assignments: list[JsonObject]


class RoundsStore:
    """The rounds that one dispatcher process holds; `owner` is unique to the process."""

    def __init__(self, database: Database, owner: str, lease: float) -> None:
        self._database = database
        self._owner = owner
        self._lease = lease

    async def claim(self, served: Collection[tuple[str, str]], count: int) -> list[Claimed]:
        """Lease up to `count` open rounds, oldest first.

        Taken are rounds of the `served` (job type, model) pairs, dispatched rounds whose lease ran out,
        and rounds past their deadline, which only need to be closed.
        """
        parameters = {
            "types": [job_type for job_type, _ in served],
            "models": [model for _, model in served],
            "count": count,
            "owner": self._owner,
            "lease": self._lease,
        }
        async with self._database.begin() as connection:
            ids = list((await connection.execute(_CLAIM, parameters)).scalars())
            return await _load(connection, ids) if ids else []

    async def renew(self, round_ids: Collection[int]) -> None:
        """Extend the leases of these rounds, as far as this process still has them."""
        async with self._database.begin() as connection:
            await connection.execute(
                _RENEW, {"rounds": list(round_ids), "owner": self._owner, "lease": self._lease}
            )

    async def release(self, round_id: int, pause: float) -> None:
        """Give a round back, to be claimed again by anybody after `pause` seconds."""
        async with self._database.begin() as connection:
            await connection.execute(_RELEASE, {"round": round_id, "owner": self._owner, "pause": pause})

    async def release_all(self) -> None:
        """Give every round back at once, so that another process goes on with it without waiting."""
        async with self._database.begin() as connection:
            await connection.execute(_RELEASE_ALL, {"owner": self._owner})

    async def drawn(self, round_id: int, job_id: str, drawn: Drawn) -> None:
        """Store a draw and its committee, and let job and round be `dispatched`. Raises `LeaseLost`."""
        async with self._database.begin() as connection:
            await store_snapshot(connection, drawn.snapshot)
            await self._update(
                connection,
                round_id,
                status="dispatched",
                registry_digest=drawn.snapshot.digest,
                draw_clock=drawn.draw_clock,
                dispatch_clock=drawn.dispatch_clock,
                electorate=drawn.electorate,
                size=len(drawn.assignments),
            )
            await connection.execute(
                update(Job).where(Job.id == job_id).values(status="dispatched", clock=drawn.dispatch_clock)
            )
            await connection.execute(
                insert(Assignment), [_assignment(round_id, row) for row in drawn.assignments]
            )

    async def seat(self, round_id: int, row: JsonObject) -> None:
        """Store a reserve that replaces a member. Raises `LeaseLost`."""
        async with self._database.begin() as connection:
            await self._update(connection, round_id)
            await connection.execute(insert(Assignment), [_assignment(round_id, row)])

    async def settle(self, round_id: int, operator: str, state: SeatState, reason: str) -> None:
        """Store that a member was lost or refused. Raises `LeaseLost`."""
        async with self._database.begin() as connection:
            await self._update(connection, round_id)
            await connection.execute(_seat_state(round_id, operator, state, reason))

    async def answered(
        self, round_id: int, result: JobResult, result_id: str, frame: str, counter: int
    ) -> None:
        """Store a verified answer, its seat and the clock seen, in one transaction. Raises `LeaseLost`."""
        async with self._database.begin() as connection:
            await self._update(connection, round_id)
            row = {"id": result_id, "job_id": result.job_id, "round_id": round_id}
            await connection.execute(insert(Result).values(**row, operator=result.operator, frame=frame))
            await connection.execute(_seat_state(round_id, result.operator, SeatState.ANSWERED, ""))
            await lift_clock(connection, result.operator, counter)

    async def close(
        self, round_id: int, job_id: str, status: str, reason: str, clock: Mapping[str, str]
    ) -> None:
        """End a round and its job. Raises `LeaseLost`."""
        async with self._database.begin() as connection:
            await self._update(connection, round_id, status=status)
            ended = {
                "status": status,
                "reason": reason,
                "clock": dict(clock),
                "finished_at": datetime.now(UTC),
            }
            await connection.execute(update(Job).where(Job.id == job_id).values(**ended))

    async def reject(self, job_id: str | None, operator: str, reason: str, frame: str) -> None:
        """Keep what was refused, with the reason."""
        row = {"job_id": job_id, "operator": operator, "reason": reason, "frame": frame}
        async with self._database.begin() as connection:
            await connection.execute(insert(Rejection).values(**row))

    async def result_frame(self, result_id: str) -> str | None:
        """Return the stored frame of a result, or None."""
        async with self._database.connect() as connection:
            return (await connection.execute(select(Result.frame).where(Result.id == result_id))).scalar()

    async def results(self, job_id: str) -> Sequence[Row[Any]]:
        """Return the verified results of a job, in the order of their arrival."""
        query = select(Result.__table__).where(Result.job_id == job_id).order_by(Result.created_at, Result.id)
        async with self._database.connect() as connection:
            return (await connection.execute(query)).all()

    async def is_open(self, job_id: str, tag: str) -> bool:
        """Return whether such a round exists and is not closed."""
        query = select(Round.status).where(Round.job_id == job_id, Round.tag == tag)
        async with self._database.connect() as connection:
            return (await connection.execute(query)).scalar() in {"created", "dispatched"}

    async def _update(self, connection: AsyncConnection, round_id: int, **values: object) -> None:
        held = update(Round).where(
            Round.id == round_id,
            Round.lease_owner == self._owner,
            Round.status.in_(("created", "dispatched")),
        )
        written = await connection.execute(held.values(lease_owner=self._owner, **values))
        if written.rowcount != 1:
            raise LeaseLost(f"round {round_id} was closed or taken over by another dispatcher")


def _assignment(round_id: int, row: JsonObject) -> JsonObject:
    columns = {key: row[key] for key in ("operator", "rank", "role", "filled")}
    return {"round_id": round_id, "state": SeatState.ASSIGNED, **columns}


def _seat_state(round_id: int, operator: str, state: SeatState, reason: str) -> Any:  # noqa: ANN401 - an Update
    seat = update(Assignment).where(Assignment.round_id == round_id, Assignment.operator == operator)
    return seat.values(state=state, reason=reason)


async def _load(connection: AsyncConnection, ids: Sequence[int]) -> list[Claimed]:
    job = [Job.request, Job.sequence, Job.request_digest, Job.receipt, Job.seed, Job.seed_proof, Job.clock]
    query = (
        select(Round.__table__, *job)
        .join(Job, Job.id == Round.job_id)
        .where(Round.id.in_(ids))
        .order_by(Round.id)
    )
    rows = list((await connection.execute(query)).all())
    return [await _resume(connection, row) if row.status == "dispatched" else Claimed(row) for row in rows]


async def _resume(connection: AsyncConnection, row: Row[Any]) -> Claimed:
    seats = select(Assignment.__table__).where(Assignment.round_id == row.id).order_by(Assignment.rank)
    registry = select(Registry.document).where(Registry.digest == row.registry_digest)
    frames = select(Result.frame).where(Result.round_id == row.id)
    return Claimed(
        row,
        (await connection.execute(seats)).all(),
        (await connection.execute(registry)).scalar_one(),
        (await connection.execute(frames)).scalars().all(),
    )
