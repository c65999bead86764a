"""Rounds in PostgreSQL: leases, and each step of a round written under its lease. `closing` writes the last step.

Every write names the lease's owner. A dispatcher that stalled past its lease therefore fails with
`LeaseLost` instead of overwriting what its successor did.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, Self

from sqlalchemy import Row, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import calibrations, standing
from aos_dispatcher.committee import Seat
from aos_dispatcher.database import Database
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.log_pending import record
from aos_dispatcher.operators import RegistrySnapshot, Shares, registry_document, store_shares
from aos_dispatcher.round_writes import OPEN, Change, write
from aos_dispatcher.tables import Assignment, Job, JsonObject, Registry, Rejection, Result, Round, Score
from aos_protocol.attestation.appraisal import Appraisal
from aos_protocol.calibration import Calibration
from aos_protocol.log_entries import rejection_entry, result_entry, score_entry, tickets_entry
from aos_protocol.messages import JobResult, JobScore
from aos_service.coalesce import Coalescer

_FREE: Final = "(lease_until is null or lease_until < now()) and (not_before is null or not_before <= now())"
# Each part goes down an index of its own, so that rounds whose operators are away cost nothing, however many wait. For `=` in place of the
# comparisons of rows, PostgreSQL may read along the primary key, past all of those, where most rounds of the table wait.
_CLAIM = text(
    f"""
    with served as (
        select * from unnest(cast(:types as text[]), cast(:models as text[])) as pair(job_type, model)
    ), waiting as (
        select first.id from served cross join lateral (
            select id from rounds
            where status = 'created' and (job_type, model, id) > (served.job_type, served.model, 0)
              and (job_type, model) <= (served.job_type, served.model) and {_FREE}
            order by job_type, model, id limit :count
        ) first
    ), late as (
        select id from rounds where status = 'created' and deadline <= now() and {_FREE} order by deadline limit :count
    ), left_behind as (
        select id from rounds where status = 'dispatched' and {_FREE} order by id limit :count
    ), picked as (
        select id from rounds
        where id in (select id from waiting union select id from late union select id from left_behind)
          and status in ('created', 'dispatched') and {_FREE}
        order by id
        limit :count
        for update skip locked
    )
    update rounds set lease_owner = :owner, lease_until = now() + make_interval(secs => :lease), fencing_token = fencing_token + 1
    from picked where rounds.id = picked.id
    returning rounds.id
    """  # noqa: S608 - constants of this file
)
# Rows are locked in the order of their ids, as whoever writes about rounds locks them: else two transactions may wait for each other.
_RENEW = text(
    """
    with held as (select id from rounds where id = any(:rounds) and lease_owner = :owner order by id for no key update)
    update rounds set lease_until = now() + make_interval(secs => :lease) from held where rounds.id = held.id
    """
)
_RELEASE = text(
    "update rounds set lease_owner = null, lease_until = null, not_before = now() + make_interval(secs => :pause) "
    "where id = :round and lease_owner = :owner"
)
_BATCH = 128  # changes of one transaction
_RELEASE_ALL = text(
    """
    with held as (select id from rounds where lease_owner = :owner order by id for no key update)
    update rounds set lease_owner = null, lease_until = null from held where rounds.id = held.id
    """
)


@dataclass(frozen=True)
class Current:
    """What a draw goes by, as it was read when its job was stored: the number of the registry's version, the digest of the model's calibration."""

    registry: int
    calibration: str | None


@dataclass(frozen=True)
class Claimed:
    """A leased round; `row` is joined with its job. The rest is there once it was drawn; answers and scores are signed frames.

    `current` is there for one that was leased as its job was stored.
    """

    row: Any
    seats: Sequence[Row[Any]] = ()
    registry: JsonObject = field(default_factory=dict)
    calibration: Calibration | None = None
    answers: Sequence[str] = ()
    scores: Sequence[str] = ()
    current: Current | None = None

    @classmethod
    def fresh(cls, job: JsonObject, round_: JsonObject, current: Current) -> Self:
        """Return a round that was leased as it was stored: rows of `jobs` and `rounds` as they were inserted, with the round's id."""
        own = {"challenge": 0, "session": None}
        own |= dict.fromkeys(("subject", "subject_frame", "seed", "seed_proof"))
        names = ("request", "sequence", "request_digest", "receipt", "clock", "least_evidence")
        of_job = {name: job[name] for name in names}
        seeds = {"job_seed": job["seed"], "job_seed_proof": job["seed_proof"]}
        row = SimpleNamespace(**own, **of_job, **seeds, **round_)
        return cls(row, current=current)


@dataclass(frozen=True)
class Drawn:
    """What a draw decided, as it is stored; `calibration` is the digest of what its round's scores are judged by."""

    snapshot: RegistrySnapshot
    draw_clock: dict[str, str]
    dispatch_clock: dict[str, str]
    electorate: list[JsonObject]
    seats: list[Seat]
    calibration: str | None


class RoundsStore:
    """The rounds that one dispatcher process holds; `owner` is unique to the process."""

    def __init__(self, database: Database, owner: str, lease: float) -> None:
        self.owner = owner
        self._database = database
        self._lease = lease
        self._changes: Coalescer[Change, None] = Coalescer(self._write, _BATCH)
        self._calibrations: Coalescer[str, str | None] = Coalescer(self._calibrations_of, _BATCH)
        self._kept_shares = ""

    async def claim(self, served: Collection[tuple[str, str]], count: int) -> list[Claimed]:
        """Lease up to `count` open rounds, oldest first.

        Taken are rounds of the `served` (job type, model) pairs, dispatched rounds whose lease ran out,
        and rounds past their deadline, which only need to be closed.
        """
        parameters = {
            "types": [job_type for job_type, _ in served],
            "models": [model for _, model in served],
            "count": count,
            "owner": self.owner,
            "lease": self._lease,
        }
        async with self._database.begin() as connection:
            ids = list((await connection.execute(_CLAIM, parameters)).scalars())
            return await _load(connection, ids) if ids else []

    async def renew(self, round_ids: Collection[int]) -> None:
        """Extend the leases of these rounds, as far as this process still has them."""
        async with self._database.begin() as connection:
            await connection.execute(
                _RENEW, {"rounds": list(round_ids), "owner": self.owner, "lease": self._lease}
            )

    async def release(self, round_id: int, pause: float) -> None:
        """Give a round back, to be claimed again by anybody after `pause` seconds."""
        async with self._database.begin() as connection:
            await connection.execute(_RELEASE, {"round": round_id, "owner": self.owner, "pause": pause})

    async def release_all(self) -> None:
        """Give every round back at once, so that another process goes on with it without waiting."""
        async with self._database.begin() as connection:
            await connection.execute(_RELEASE_ALL, {"owner": self.owner})

    async def barred(self, round_id: int) -> set[str]:
        """Return the operators that this round's draw may not ask."""
        async with self._database.connect() as connection:
            return await standing.barred(connection, round_id)

    async def calibration_of(self, model_sha256: str) -> str | None:
        """Return the digest of the calibration that scores of this model are judged by from now on, if it has one."""
        return await self._calibrations.submit(model_sha256)

    async def drawn(self, facts: RoundFacts, drawn: Drawn) -> Calibration | None:
        """Store a draw and its committee; a job's own round makes it `dispatched`. Raises `LeaseLost`.

        Returns the calibration that the round's scores are judged by.
        """
        shares, digest = drawn.snapshot.shares, drawn.calibration
        await self._keep(shares)
        round_ = {
            "own": facts.own,
            "registry_digest": shares.digest,
            "registry_chain": drawn.snapshot.chain,
            "draw_clock": drawn.draw_clock,
            "dispatch_clock": drawn.dispatch_clock,
            "electorate": drawn.electorate,
            "size": len(drawn.seats),
            "calibration": digest,
        }
        document = {
            "verify_id": str(facts.round_id),
            "draw_clock": drawn.draw_clock,
            "electorate": drawn.electorate,
            "dispatch_clock": drawn.dispatch_clock,
            "calibration": digest,
        }
        await self._changes.submit(
            Change(
                facts.round_id,
                facts.fencing_token,
                facts.job_id,
                drawn=round_,
                seats=[_assignment(facts.round_id, rank, seat) for rank, seat in enumerate(drawn.seats)],
                entries=[tickets_entry(facts.job_id, document, drawn.snapshot.canonical())],
            )
        )
        return await self._calibration(digest)

    async def settle(self, facts: RoundFacts, seats: Sequence[tuple[int, Seat]]) -> None:
        """Store where seats stand now, each with its rank: reserves that were seated, and members that were given up. Raises `LeaseLost`."""
        rows = [_assignment(facts.round_id, rank, seat) for rank, seat in seats]
        await self._changes.submit(Change(facts.round_id, facts.fencing_token, facts.job_id, seats=rows))

    async def session_given(self, facts: RoundFacts, session: JsonObject) -> None:
        """Store the session that a direct job's executor has accepted, and its acceptance. Raises `LeaseLost`."""
        change = Change(facts.round_id, facts.fencing_token, facts.job_id, session=session)
        await self._changes.submit(change)

    async def executed(
        self,
        facts: RoundFacts,
        result: JobResult,
        frame: str,
        counter: int,
        *,
        done: bool,
        appraisal: Appraisal | None = None,
    ) -> None:
        """Store a verified answer, its enclave's appraisal and the clock seen; `done` says that its member has no more to do.

        Raises `LeaseLost`.
        """
        row: JsonObject = {"id": result_id(result), "job_id": result.job_id, "round_id": facts.round_id}
        row |= {"operator": result.operator, "frame": frame}
        row["attestation"] = None if appraisal is None else appraisal.to_json()
        row["tokens"] = tokens_of(result, facts.request.job.params.max_tokens)
        await self._changes.submit(
            Change(
                facts.round_id,
                facts.fencing_token,
                facts.job_id,
                results=[row],
                answered=[result.operator] if done else [],
                heard=[(result.operator, counter)],
                entries=[result_entry(facts.job_id, str(facts.round_id), result.operator, frame)],
            )
        )

    async def scored(
        self, facts: RoundFacts, score: JobScore, verdict: JsonObject, frame: str, counter: int
    ) -> None:
        """Store a verified score, that its verifier has answered, and the clock seen. Raises `LeaseLost`."""
        row = {"round_id": facts.round_id, "job_id": score.job_id, "operator": score.operator}
        row |= {"subject": score.subject, "frame": frame, "verdict": verdict}
        await self._changes.submit(
            Change(
                facts.round_id,
                facts.fencing_token,
                facts.job_id,
                scores=[row],
                answered=[score.operator],
                heard=[(score.operator, counter)],
                entries=[score_entry(facts.job_id, str(facts.round_id), score.operator, frame)],
            )
        )

    async def ended(self, facts: RoundFacts, ended: JsonObject, entry: str) -> None:
        """Store the end of a round without a verdict, with its log entry; `ended` are columns of the round and of its job. Raises `LeaseLost`."""
        change = Change(facts.round_id, facts.fencing_token, facts.job_id, ended=ended, entries=[entry])
        await self._changes.submit(change)

    async def _write(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        return await write(self._database, changes, owner=self.owner)

    async def _keep(self, shares: Shares) -> None:
        """Store the shares that a draw refers to, unless this process has done so: they are the same for many draws."""
        if shares.digest != self._kept_shares:
            async with self._database.begin() as connection:
                await store_shares(connection, shares)
            self._kept_shares = shares.digest

    async def _calibrations_of(self, models: Sequence[str]) -> list[str | Exception | None]:
        async with self._database.connect() as connection:
            found = {sha256: await calibrations.of_model(connection, sha256) for sha256 in set(models)}
        return [found[sha256] for sha256 in models]

    async def _calibration(self, digest: str | None) -> Calibration | None:
        if digest is None or (known := calibrations.known(digest)):
            return known if digest else None
        async with self._database.connect() as connection:
            return await calibrations.load(connection, digest)

    async def reject(self, job_id: str | None, operator: str, reason: str, frame: str) -> None:
        """Keep what was refused, with the reason."""
        row = {"job_id": job_id, "operator": operator, "reason": reason, "frame": frame}
        async with self._database.begin() as connection:
            await connection.execute(insert(Rejection).values(**row))
            record(connection, rejection_entry(job_id, row), job_id)

    async def result_frame(self, result_id: str) -> str | None:
        """Return the stored frame of a result, or None."""
        async with self._database.connect() as connection:
            return (await connection.execute(select(Result.frame).where(Result.id == result_id))).scalar()

    async def score_frame(self, job_id: str, tag: str, challenge: int, operator: str) -> str | None:
        """Return the stored frame of a verifier's score in a round, or None."""
        query = select(Score.frame).join(Round, Round.id == Score.round_id)
        named = (Round.job_id == job_id, Round.tag == tag, Round.challenge == challenge)
        async with self._database.connect() as connection:
            return (await connection.execute(query.where(*named, Score.operator == operator))).scalar()

    async def is_open(self, job_id: str, tag: str, challenge: int) -> bool:
        """Return whether such a round exists and is not closed."""
        named = (Round.job_id == job_id, Round.tag == tag, Round.challenge == challenge)
        async with self._database.connect() as connection:
            status = (await connection.execute(select(Round.status).where(*named))).scalar()
        return status in OPEN


def _assignment(round_id: int, rank: int, seat: Seat) -> JsonObject:
    return {
        "round_id": round_id,
        "operator": seat.operator,
        "rank": rank,
        "role": seat.role,
        "filled": seat.member.filled,
        "state": seat.state,
        "reason": seat.reason,
    }


def tokens_of(result: JobResult, most: int) -> int | None:
    """Return how many tokens an answer has, no more than its job allows; None where nobody knows, as of a sealed one or an image."""
    shown = result.transcript or result.record or {}
    tokens = shown.get("output_tokens")
    said = shown.get("completion_tokens") if tokens is None else len(tokens)
    return None if said is None else min(said, most)


def result_id(result: JobResult | JobScore) -> str:
    """Return the published id of a result's row: `<operator>_<job id>_<tag>`."""
    return f"{result.operator}_{result.job_id}_{result.tag}"


async def _load(connection: AsyncConnection, ids: Sequence[int]) -> list[Claimed]:
    job = [Job.request, Job.sequence, Job.request_digest, Job.receipt, Job.clock, Job.least_evidence]
    seed = [Job.seed.label("job_seed"), Job.seed_proof.label("job_seed_proof")]
    query = (
        select(Round.__table__, *job, *seed, Result.frame.label("subject_frame"))
        .join(Job, Job.id == Round.job_id)
        .outerjoin(Result, Result.id == Round.subject)
        .where(Round.id.in_(ids))
        .order_by(Round.id)
    )
    rows = list((await connection.execute(query)).all())
    return [await _resume(connection, row) if row.status == "dispatched" else Claimed(row) for row in rows]


async def _resume(connection: AsyncConnection, row: Row[Any]) -> Claimed:
    seats = select(Assignment.__table__).where(Assignment.round_id == row.id).order_by(Assignment.rank)
    shares = select(Registry.document).where(Registry.digest == row.registry_digest)
    answers = select(Result.frame).where(Result.round_id == row.id)
    scores = select(Score.frame).where(Score.round_id == row.id)
    return Claimed(
        row,
        (await connection.execute(seats)).all(),
        registry_document((await connection.execute(shares)).scalar_one(), row.registry_chain),
        await calibrations.load(connection, row.calibration),
        (await connection.execute(answers)).scalars().all(),
        (await connection.execute(scores)).scalars().all(),
    )
