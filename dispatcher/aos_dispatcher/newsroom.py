"""Who follows which job in this process, and how what comes of jobs reaches them from whichever process leads the round.

1. Whoever leads a round tells of it: deltas that its executor has said, that the executor was given up, that the job has its answer or its end.
2. All of it goes to the followers here and, over the mesh, to the other processes. An answer does not travel there, it is in the database: followers
   elsewhere are told to look.
3. What the mesh loses, `Following.run` finds in the database, a second later.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from aos_dispatcher.mesh import Mesh
from aos_dispatcher.reading import Reading
from aos_protocol.messages import Delta, JobResult


@dataclass(eq=False)
class Follower:
    """One who follows a job: what it reads, and an event that is set whenever there may be more of that."""

    reading: Reading
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Newsroom:
    """The followers of this process; each is kept at most `most` characters of an answer."""

    def __init__(self, mesh: Mesh | None, most: int) -> None:
        self.look = asyncio.Event()
        """Set when there are jobs to be looked at in the database."""
        self._mesh = mesh
        self._most = most
        self._followers: dict[str, list[Follower]] = {}
        self._due: set[str] = set()
        self._heard: set[str] = set()

    @contextmanager
    def following(self, job_id: str) -> Iterator[Follower]:
        """Follow a job meanwhile."""
        follower = Follower(Reading(self._most))
        self._followers.setdefault(job_id, []).append(follower)
        try:
            yield follower
        finally:
            self._followers[job_id].remove(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    def deltas(self, operator: str, deltas: Sequence[Delta]) -> None:
        """Tell everybody what the executor of jobs that are led here has said of them."""
        self.hear_deltas(operator, deltas)
        if self._mesh is not None:
            self._mesh.deltas(operator, deltas)

    def given_up(self, job_id: str, operator: str, reason: str) -> None:
        """Tell everybody that a job's round goes on without this operator."""
        self.hear_given_up(job_id, operator, reason)
        if self._mesh is not None:
            self._mesh.given_up(job_id, operator, reason)

    def answered(self, result: JobResult) -> None:
        """Tell everybody that a job has its answer, which is stored."""
        for follower in self._of(result.job_id):
            follower.reading.answered(result)
        self._tell_ended(result.job_id)

    def ended(self, job_id: str, reason: str, status: str) -> None:
        """Tell everybody that a job has ended as `failed` or `cancelled`; whoever has its answer does not mind."""
        for follower in self._of(job_id):
            follower.reading.ended(reason, status_of(status))
        self._tell_ended(job_id)

    def hear_deltas(self, operator: str, deltas: Iterable[Delta]) -> None:
        """Hand on what whoever leads the jobs has told of them."""
        for delta in deltas:
            for follower in self._of(delta.job_id):
                follower.reading.told(operator, delta)

    def hear_given_up(self, job_id: str, operator: str, reason: str) -> None:
        """Hand on that a job's round goes on without this operator."""
        for follower in self._of(job_id):
            follower.reading.given_up(operator, reason)

    def look_at(self, job_id: str) -> None:
        """Have the database looked at: a job has its answer or its end, as another process says."""
        if job_id in self._followers:
            self._due.add(job_id)
            self.look.set()

    def to_look_at(self, *, all_quiet: bool) -> set[str]:
        """Return the jobs to be looked at in the database: those due, and those of which nothing was heard since the last time if `all_quiet`."""
        due, self._due = self._due & self._followers.keys(), set()
        if all_quiet:
            due |= {job_id for job_id in self._followers if job_id not in self._heard}
            self._heard.clear()
        return due

    def found(self, job_id: str) -> Collection[Follower]:
        """Return who still waits for what was found of a job in the database."""
        return [follower for follower in self._of(job_id) if not follower.reading.over]

    def close(self, reason: str) -> None:
        """Break every stream: this process is about to end."""
        for job_id in list(self._followers):
            for follower in self._of(job_id):
                follower.reading.fail(reason, HTTPStatus.SERVICE_UNAVAILABLE)

    def _tell_ended(self, job_id: str) -> None:
        if self._mesh is not None:
            self._mesh.ended(job_id)

    def _of(self, job_id: str) -> Sequence[Follower]:
        """Return a job's followers, each of which will look for what it is told now."""
        followers = self._followers.get(job_id, ())
        if followers:
            self._heard.add(job_id)
        for follower in followers:
            follower.news.set()
        return followers


def status_of(ended: str) -> int:
    """Return the HTTP status that tells of a job that ended so without an answer."""
    return HTTPStatus.CONFLICT if ended == "cancelled" else HTTPStatus.BAD_GATEWAY
