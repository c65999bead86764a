"""The last step of rounds, in one transaction: its verdict, its job's end, and what follows for whoever made the answer.

1. The round gets its status and, when members were to score, their verdict.
2. If it is the job's own, the job ends with it; a challenge that decides gives the job's answer its verdict.
3. A mismatch has the answer looked at by a second committee; a challenge's round decides about its challenge.
4. The answer's margins go into the pool of its operator.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import pools
from aos_dispatcher.challenges import Challenges, final_at
from aos_dispatcher.committee import Seat
from aos_dispatcher.database import Database, together_or_apart
from aos_dispatcher.documents import committee_documents, ended_document, seat_document
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.log_pending import record
from aos_dispatcher.round_writes import hold, lock_jobs, lost
from aos_dispatcher.rounds_store import RoundsStore
from aos_dispatcher.settings import Verification
from aos_dispatcher.tables import Assignment, Job, JsonObject, Result, Round
from aos_dispatcher.verdicts import Judgement, judgement, verdict_json
from aos_protocol.log_entries import verdict_entry
from aos_protocol.verdict import Verdict
from aos_service.coalesce import Coalescer


@dataclass(frozen=True)
class End:
    """How a round ended, at which clock; `reason` says why it failed.

    A completed one has a verdict if it had verifiers, or if it is `unscored` for a reason: nobody could score, or can. `seats` are its
    committee as it is stored, None where only the database knows it.
    """

    status: str
    reason: str
    clock: Mapping[str, str]
    verified: bool
    unscored: str = ""
    seats: Sequence[Seat] | None = None

    @property
    def judged(self) -> bool:
        """True for a round that ends with a verdict."""
        return self.status == "completed" and (self.verified or bool(self.unscored))


_BY_ID = {table: update(table).where(table.id == bindparam("row_id")) for table in (Job, Round)}
_Ending = tuple[RoundFacts, End]
_BATCH = 128  # rounds of one transaction


class Closing:
    """Closes rounds that the process `owner` holds the leases of, many in one transaction."""

    def __init__(
        self, database: Database, store: RoundsStore, challenges: Challenges, settings: Verification
    ) -> None:
        self._database = database
        self._store = store
        self._challenges = challenges
        self._window = timedelta(seconds=settings.challenge_window)
        self._suspend_after = settings.suspend_after
        self._ends: Coalescer[_Ending, Verdict | None] = Coalescer(self._close_together, _BATCH)

    async def close(self, facts: RoundFacts, end: End) -> Verdict | None:
        """End a round and do all that follows from it; returns its verdict. Raises `LeaseLost`.

        From an end without a verdict nothing follows but the end itself: it is written as any step of a round.
        """
        if end.seats is None or end.judged or facts.challenge:
            return await self._ends.submit((facts, end))
        now, committee = datetime.now(UTC), [seat_document(seat) for seat in end.seats]
        ended: JsonObject = {"own": facts.own, "status": end.status, "reason": end.reason, "clock": end.clock}
        ended |= {"finished_at": now, "final_at": final_at(end.status, now, self._window)}
        entry = _entry(facts, end, committee, None)
        await self._store.ended(facts, ended, entry)
        return None

    async def _close_together(self, ends: Sequence[_Ending]) -> Sequence[Verdict | Exception | None]:
        return await together_or_apart(ends, self._write)

    async def _write(self, ends: Sequence[_Ending]) -> list[Verdict | Exception | None]:
        async with self._database.begin() as connection:
            return await self._end_all(connection, ends)

    async def _end_all(
        self, connection: AsyncConnection, ends: Sequence[_Ending]
    ) -> list[Verdict | Exception | None]:
        # Whoever cancels or challenges a job locks it before its rounds: none waits for another in a circle.
        await lock_jobs(connection, {facts.job_id for facts, _ in ends})
        held = await hold(connection, self._store.owner, {facts.round_id for facts, _ in ends})
        kept = [(facts, end) for facts, end in ends if held.get(facts.round_id) == facts.fencing_token]
        judged = {
            facts.round_id: await judgement(connection, facts.round_id, end.unscored)
            for facts, end in kept
            if end.judged
        }
        await self._write_ends(connection, kept, judged)
        for facts, _ in kept:
            if facts.challenge:
                await self._decide(connection, facts, judged.get(facts.round_id))
        followed = {f.round_id: f for f, _ in kept if f.round_id in judged and f.executes and not f.challenge}
        for answer in await _executors_answers(connection, followed) if followed else ():
            facts = followed[answer.round_id]
            await self._follow(connection, facts, answer, judged[facts.round_id])
        return [
            _verdict_of(judged.get(facts.round_id))
            if held.get(facts.round_id) == facts.fencing_token
            else lost(facts.round_id)
            for facts, _ in ends
        ]

    async def _write_ends(
        self, connection: AsyncConnection, ends: Sequence[_Ending], judged: Mapping[int, Judgement]
    ) -> None:
        """Write how rounds ended, and the jobs that end with them."""
        now = datetime.now(UTC)
        committees = await committee_documents(connection, [facts.round_id for facts, _ in ends])
        rounds, jobs = [], []
        for facts, end in ends:
            verdict = _verdict_of(judged.get(facts.round_id))
            shown = verdict_json(verdict) if verdict else None
            written: JsonObject = {
                "status": end.status,
                "reason": end.reason,
                "verdict": shown,
                "finished_at": now,
            }
            rounds.append((facts.round_id, written))
            entry = _entry(facts, end, committees.get(facts.round_id, []), shown)
            record(connection, entry, facts.job_id)
            if facts.own:
                final = {"final_at": final_at(end.status, now, self._window)}
                jobs.append((facts.job_id, written | final | {"clock": dict(end.clock)}))
        await _update_rows(connection, Job, jobs)
        await _update_rows(connection, Round, rounds)

    async def _decide(self, connection: AsyncConnection, facts: RoundFacts, judged: Judgement | None) -> None:
        await self._challenges.decide(connection, facts.round_id, judged)
        if judged and judged.verdict.outcome != "inconclusive":
            answer = exists(_executors_result().where(Result.id == facts.subject, _is_own()))
            job = update(Job).where(Job.id == facts.job_id, answer)
            await connection.execute(job.values(verdict=verdict_json(judged.verdict)))

    async def _follow(
        self, connection: AsyncConnection, facts: RoundFacts, answer: Row[Any], judged: Judgement
    ) -> None:
        if judged.verdict.outcome == "mismatch":
            await self._challenges.open_automatic(connection, answer.id, judged.verdict.reason)
        if judged.calibration is not None:
            said = pools.Scored(answer.operator, facts.job_id, facts.model.sha256, judged.scores)
            await pools.add(connection, said, judged.calibration, self._suspend_after)


def _entry(facts: RoundFacts, end: End, committee: Sequence[JsonObject], verdict: JsonObject | None) -> str:
    ended = ended_document(facts.round_id, end.status, committee, verdict)
    own: JsonObject | None = {"reason": end.reason, "clock": dict(end.clock)} if facts.own else None
    return verdict_entry(facts.job_id, ended, own)


async def _update_rows(
    connection: AsyncConnection, table: type[Job] | type[Round], rows: Sequence[tuple[Any, JsonObject]]
) -> None:
    """Write the same columns of rows, given as (id, columns)."""
    if rows:
        await connection.execute(_BY_ID[table], [{"row_id": id_, **columns} for id_, columns in rows])


async def _executors_answers(connection: AsyncConnection, rounds: Collection[int]) -> list[Row[Any]]:
    """The answers of these rounds' executors, by operator: in this order their pools are locked."""
    query = _executors_result().add_columns(Result.round_id).where(Result.round_id.in_(rounds))
    rows = await connection.execute(query.order_by(Assignment.rank))
    first: dict[int, Row[Any]] = {}
    for row in rows:
        first.setdefault(row.round_id, row)
    return sorted(first.values(), key=lambda row: (row.operator, row.round_id))


def _verdict_of(judged: Judgement | None) -> Verdict | None:
    return judged.verdict if judged else None


def _executors_result() -> Select[str, str]:
    return (
        select(Result.id, Result.operator)
        .join(Round, Round.id == Result.round_id)
        .join(
            Assignment,
            (Assignment.round_id == Result.round_id) & (Assignment.operator == Result.operator),
        )
        .where(Assignment.role == "executor", Assignment.state == "answered")
    )


def _is_own() -> ColumnElement[bool]:
    return (Round.challenge == 0) & (Round.position != "before")
