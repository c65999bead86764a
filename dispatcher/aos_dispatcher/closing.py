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

from sqlalchemy import ColumnElement, Row, Select, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import pools
from aos_dispatcher.challenges import Challenges, final_at
from aos_dispatcher.database import Database
from aos_dispatcher.documents import committee_documents, ended_document
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.log_pending import record
from aos_dispatcher.round_writes import hold, lock_jobs, lost, update_rows
from aos_dispatcher.settings import Verification
from aos_dispatcher.tables import Assignment, Job, JsonObject, Result, Round
from aos_dispatcher.verdicts import Judgement, judgement, verdict_json
from aos_protocol.log_entries import verdict_entry
from aos_protocol.verdict import Verdict
from aos_service.coalesce import Coalescer


@dataclass(frozen=True)
class End:
    """How a round ended, at which clock; `reason` says why it failed.

    A completed one has a verdict if it had verifiers, or if it is `unscored` for a reason: nobody could score, or can.
    """

    status: str
    reason: str
    clock: Mapping[str, str]
    verified: bool
    unscored: str = ""


_Ending = tuple[RoundFacts, End]
_BATCH = 128  # rounds of one transaction


class Closing:
    """Closes rounds that the process `owner` holds the leases of, many in one transaction."""

    def __init__(
        self, database: Database, owner: str, challenges: Challenges, settings: Verification
    ) -> None:
        self._database = database
        self._owner = owner
        self._challenges = challenges
        self._window = timedelta(seconds=settings.challenge_window)
        self._suspend_after = settings.suspend_after
        self._ends: Coalescer[_Ending, Verdict | None] = Coalescer(self._close_together, _BATCH)

    async def close(self, facts: RoundFacts, end: End) -> Verdict | None:
        """End a round and do all that follows from it; returns its verdict. Raises `LeaseLost`."""
        return await self._ends.submit((facts, end))

    async def _close_together(self, ends: Sequence[_Ending]) -> Sequence[Verdict | Exception | None]:
        return await self._database.write_all(ends, self._write)

    async def _write(
        self, connection: AsyncConnection, ends: Sequence[_Ending]
    ) -> list[Verdict | Exception | None]:
        # Whoever cancels or challenges a job locks it before its rounds: none waits for another in a circle.
        await lock_jobs(connection, {facts.job_id for facts, _ in ends})
        held = await hold(connection, self._owner, {facts.round_id for facts, _ in ends})
        kept = [(facts, end) for facts, end in ends if held.get(facts.round_id) == facts.fencing_token]
        judged = {
            facts.round_id: await judgement(connection, facts.round_id, end.unscored)
            for facts, end in kept
            if (end.verified or end.unscored) and end.status == "completed"
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
            committee = committees.get(facts.round_id, [])
            ended = ended_document(facts.round_id, end.status, committee, shown)
            own: JsonObject | None = {"reason": end.reason, "clock": dict(end.clock)} if facts.own else None
            record(connection, verdict_entry(facts.job_id, ended, own), facts.job_id)
            if own:
                final = {"final_at": final_at(end.status, now, self._window)}
                jobs.append((facts.job_id, written | own | final))
        await update_rows(connection, Job, jobs)
        await update_rows(connection, Round, rounds)

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
