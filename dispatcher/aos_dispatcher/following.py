"""Following a job from its submission to its answer, in whichever process it is led: text as it comes, the stored answer, or why there is none."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import structlog
from sqlalchemy import Row, text

from aos_dispatcher.database import Database
from aos_dispatcher.errors import Unavailable
from aos_dispatcher.events import wait
from aos_dispatcher.jobs import Jobs
from aos_dispatcher.metrics import STREAMS_ENDED
from aos_dispatcher.newsroom import Follower, Newsroom, status_of
from aos_dispatcher.reading import Answered, Broken, News, Piece, Queued
from aos_dispatcher.round import stored_result
from aos_protocol.errors import ProtocolError

__all__ = ["Answered", "Broken", "Following", "News", "Piece", "Queued"]

log = structlog.get_logger()

_LOOK_S: Final = 1.0  # the longest that what the mesh has lost goes unnoticed

_FOUND: Final = text(
    """
    select jobs.id, jobs.status, jobs.reason, results.frame
    from jobs
    left join rounds on rounds.job_id = jobs.id and rounds.challenge = 0 and rounds.position <> 'before'
    left join assignments on assignments.round_id = rounds.id and assignments.role = 'executor' and assignments.state = 'answered'
    left join results on results.round_id = rounds.id and results.operator = assignments.operator
    where jobs.id = any(:ids) and (jobs.status not in ('created', 'dispatched') or results.frame is not null)
    """
)


class Following:
    """Follows jobs. `run` it, for what other processes lead."""

    def __init__(self, database: Database, newsroom: Newsroom, jobs: Jobs) -> None:
        self._database = database
        self._newsroom = newsroom
        self._jobs = jobs

    @asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[AsyncIterator[News]]:
        """Follow a job that was just submitted, or any other: pieces and places in the queue, and last an `Answered` or a `Broken`.

        All pieces together are the answer's text, also of a job that does not stream, which has one. What comes while nobody asks for the next
        is put together, so a slow reader costs no more than the answer. Whoever leaves before the end should `abandon` the job.
        """
        with self._newsroom.following(job_id) as follower:
            async with aclosing(self._read(job_id, follower)) as news:
                yield news

    async def abandon(self, job_id: str, reason: str, *, failed: bool) -> bool:
        """End a job whose answer nobody will get: `failed` when it could not be streamed to its end, else `cancelled`, because its client has left.

        Its members are told, so that they stop. Returns False for a job that has ended already. Raises `NotFound` and `Unavailable`.
        """
        job = await self._jobs.get(job_id)
        ended = await self._jobs.end(job, "failed" if failed else "cancelled", reason)
        if ended:
            log.info("job abandoned", job_id=job_id, reason=reason, failed=failed)
        return ended

    def close(self) -> None:
        """Break every stream with status 503: this process is about to end."""
        self._newsroom.close("this dispatcher is being stopped; ask again")

    async def run(self) -> None:
        """Look for what became of jobs that other processes lead, for ever: when told to, and now and then."""
        clock = asyncio.get_running_loop().time
        looked = clock()
        while True:
            await wait(self._newsroom.look, looked + _LOOK_S - clock())
            self._newsroom.look.clear()
            all_quiet = clock() - looked >= _LOOK_S
            if all_quiet:
                looked = clock()
            jobs = self._newsroom.to_look_at(all_quiet=all_quiet)
            if jobs:
                await self._look(jobs)

    async def _read(self, job_id: str, follower: Follower) -> AsyncGenerator[News, None]:
        while True:
            follower.news.clear()
            news = follower.reading.next()
            if news is None:
                await follower.news.wait()
                continue
            if isinstance(news, Broken) and follower.reading.gave_up:
                await self._record(job_id, news)
            if isinstance(news, Answered | Broken):
                STREAMS_ENDED.labels(type(news).__name__.lower()).inc()
                yield news
                return
            yield news

    async def _record(self, job_id: str, broken: Broken) -> None:
        """Let a job fail whose stream has failed; whoever follows it is told that even when the database is away."""
        try:
            if not await self.abandon(job_id, broken.reason, failed=True):
                log.warning("a stream failed whose job had ended before", job_id=job_id, why=broken.reason)
        except Unavailable as error:
            log.error("a stream that failed is not recorded", job_id=job_id, why=str(error))

    async def _look(self, jobs: Collection[str]) -> None:
        try:
            async with self._database.connect() as connection:
                rows = (await connection.execute(_FOUND, {"ids": list(jobs)})).all()
        except Unavailable as error:
            log.warning("database away; followed jobs are looked at again", why=str(error))
            return
        for row in rows:
            _tell(self._newsroom.found(row.id), row)


def _tell(followers: Collection[Follower], row: Row[Any]) -> None:
    """Tell followers what the database has of their job: its answer, or its end without one."""
    if not followers:
        return
    try:
        result = None if row.frame is None else stored_result(row.frame)
    except ProtocolError as error:
        log.error("a stored answer is damaged", job_id=row.id, why=str(error))
        for follower in followers:
            follower.reading.ended("the stored answer is damaged", HTTPStatus.INTERNAL_SERVER_ERROR)
        return
    for follower in followers:
        if result is not None:
            follower.reading.answered(result)
        else:
            follower.reading.ended(row.reason or "the job has no answer", status_of(row.status))
