"""The last step of a round, in one transaction: its verdict, its job's end, and what follows for whoever made the answer.

1. The round gets its status and, when members were to score, their verdict.
2. If it is the job's own, the job ends with it; a challenge that decides gives the job's answer its verdict.
3. A mismatch has the answer looked at by a second committee; a challenge's round decides about its challenge.
4. The answer's margins go into the pool of its operator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Select, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import pools
from aos_dispatcher.challenges import Challenges, final_at
from aos_dispatcher.database import Database
from aos_dispatcher.documents import committee_documents, ended_document
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.log_pending import record
from aos_dispatcher.rounds_store import RoundsStore, lock_job
from aos_dispatcher.settings import Verification
from aos_dispatcher.tables import Assignment, Job, JsonObject, Result, Round
from aos_dispatcher.verdicts import Judgement, judgement, verdict_json
from aos_protocol.log_entries import verdict_entry
from aos_protocol.verdict import Verdict


@dataclass(frozen=True)
class End:
    """How a round ended, at which clock; `reason` says why it failed. A completed one has a verdict if it had verifiers."""

    status: str
    reason: str
    clock: Mapping[str, str]
    verified: bool


class Closing:
    """Closes the rounds that a store holds the leases of."""

    def __init__(
        self, database: Database, store: RoundsStore, challenges: Challenges, settings: Verification
    ) -> None:
        self._database = database
        self._store = store
        self._challenges = challenges
        self._window = timedelta(seconds=settings.challenge_window)
        self._suspend_after = settings.suspend_after

    async def close(self, facts: RoundFacts, end: End) -> Verdict | None:
        """End a round and do all that follows from it; returns its verdict. Raises `LeaseLost`."""
        now = datetime.now(UTC)
        async with self._database.begin() as connection:
            judged = None
            if end.verified and end.status == "completed":
                judged = await judgement(connection, facts.round_id)
            verdict = verdict_json(judged.verdict) if judged else None
            # Whoever cancels or challenges a job locks it before its rounds: none waits for another in a circle.
            if facts.own:
                await self._end_job(connection, facts, end, verdict, now)
            else:
                await lock_job(connection, facts.job_id)
            written = {"status": end.status, "reason": end.reason, "verdict": verdict, "finished_at": now}
            await self._store.hold(connection, facts.round_id, **written)
            committee = await committee_documents(connection, facts.round_id)
            ended = ended_document(facts.round_id, end.status, committee, verdict)
            job = {"reason": end.reason, "clock": dict(end.clock)} if facts.own else None
            record(connection, verdict_entry(facts.job_id, ended, job), facts.job_id)
            if facts.challenge:
                await self._decide(connection, facts, judged)
            elif judged and facts.executes:
                await self._follow(connection, facts, judged)
        return judged.verdict if judged else None

    async def _end_job(
        self,
        connection: AsyncConnection,
        facts: RoundFacts,
        end: End,
        verdict: JsonObject | None,
        now: datetime,
    ) -> None:
        ended = {
            "status": end.status,
            "reason": end.reason,
            "clock": dict(end.clock),
            "finished_at": now,
            "final_at": final_at(end.status, now, self._window),
            "verdict": verdict,
        }
        await connection.execute(update(Job).where(Job.id == facts.job_id).values(**ended))

    async def _decide(self, connection: AsyncConnection, facts: RoundFacts, judged: Judgement | None) -> None:
        await self._challenges.decide(connection, facts.round_id, judged)
        if judged and judged.verdict.outcome != "inconclusive":
            answer = exists(_executors_result().where(Result.id == facts.subject, _is_own()))
            job = update(Job).where(Job.id == facts.job_id, answer)
            await connection.execute(job.values(verdict=verdict_json(judged.verdict)))

    async def _follow(self, connection: AsyncConnection, facts: RoundFacts, judged: Judgement) -> None:
        query = _executors_result().where(Result.round_id == facts.round_id).order_by(Assignment.rank)
        answer = (await connection.execute(query.limit(1))).one()
        if judged.verdict.outcome == "mismatch":
            await self._challenges.open_automatic(connection, answer.id, judged.verdict.reason)
        if judged.calibration is not None:
            said = pools.Scored(answer.operator, facts.job_id, facts.model.sha256, judged.scores)
            await pools.add(connection, said, judged.calibration, self._suspend_after)


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
