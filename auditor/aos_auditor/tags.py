"""Whether the tags under which jobs run follow from each other (`aos_protocol.tagging`), over all jobs that a monitor reads.

A user's tag is counted in the order of its jobs, and only a job's evidence tells whose it is. So jobs are placed in the log's order: one that
ended early waits until the evidence of all jobs before it was read, or is known not to be shown. What is kept is a tag for each user
that has one now, and of the jobs that wait what their evidence tells of their place.

A job that is not shown, a private project's, may have brought a tag or used it up. So a job that does not fit is skipped where such jobs
can be the reason, since the last of its user's after which the tag was certain, and a failure otherwise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import Check
from aos_protocol.tagging import AFTER_JOBS, ActiveTag, Placement, Ran, place

_ID: Final = "AOS-TAG-1"
_MOST_WAITING: Final = 10_000
"""Jobs that wait for an earlier one to end; then that one counts as not shown, whatever becomes of it."""


@dataclass(frozen=True)
class _Seen:
    """A job whose evidence was read: whose it is (a digest), and where it ran."""

    user: str
    ran: Ran


@dataclass(frozen=True)
class _Tagged:
    """A user's tag, and the place among the log's jobs of the last one after which that was certain."""

    active: ActiveTag
    sure: int


@dataclass
class Tags:
    """The tags of all users after the log's first `placed` jobs, of which the one in place `hidden` was the last that is not shown.

    `waiting` are later jobs in the log's order: what their evidence tells, "hidden", or None where nothing is known yet.
    """

    placed: int = 0
    hidden: int = 0
    users: dict[str, _Tagged] = field(default_factory=dict)
    waiting: dict[str, _Seen | Literal["hidden"] | None] = field(default_factory=dict)

    def opened(self, job_id: str) -> None:
        """Take in the log's next job."""
        self.waiting.setdefault(job_id)

    def read(self, document: Mapping[str, Any]) -> None:
        """Take in a job's evidence document; of a job that was placed already, nothing."""
        job_id, request = document["job"]["job_id"], document["job"]["request"]
        if job_id not in self.waiting:
            return
        try:
            seen = _Seen(digest([request["from"], request["user"]]), Ran.of(document))
        except InvalidEvidence:  # which its own audit tells of
            self.kept_back(job_id)
        else:
            self.waiting[job_id] = seen

    def kept_back(self, job_id: str) -> None:
        """Take in that a job's evidence is not shown."""
        if job_id in self.waiting:
            self.waiting[job_id] = "hidden"

    def check(self) -> list[Check]:
        """Place all jobs whose turn has come, and return what was found: a line for all that fit, one for each that does not."""
        found: list[Check] = []
        fitting = 0
        while self.waiting:
            job_id, known = next(iter(self.waiting.items()))
            if known is None and len(self.waiting) <= _MOST_WAITING:
                break
            del self.waiting[job_id]
            self.placed += 1
            if not isinstance(known, _Seen):
                self.hidden = self.placed
            elif problem := self._place(known.user, known.ran):
                found.append(problem)
            else:
                fitting += 1
        if fitting:
            what = f"jobs that run under the tags which the jobs of their users before them give: {fitting}"
            found.insert(0, Check(_ID, "PASS", what))
        return found

    def _place(self, user: str, ran: Ran) -> Check | None:
        """Go on to a user's next job, and return what is wrong with its place."""
        before = self.users.pop(user, None)
        sure = before.sure if before else 0
        placement, after = place(before.active if before else None, ran.job_id, ran.asked)
        fits, all_shown = ran.fits(placement), self.hidden <= sure
        by_itself, told = place(_brought(ran), ran.job_id, ran.asked)
        excused = not fits and not all_shown and ran.fits(by_itself)
        if excused:
            after = told
        if after is not None:
            certain = all_shown or after.cause == ran.job_id
            self.users[user] = _Tagged(after, self.placed if certain else sure)
        return None if fits else _misplaced(ran, placement, excused=excused)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON, to go on from later."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        users = {
            user: _Tagged(ActiveTag(**one["active"]), one["sure"])
            for user, one in dict(kept["users"]).items()
        }
        waiting = {
            job_id: _Seen(one["user"], Ran(**one["ran"])) if isinstance(one, dict) else one
            for job_id, one in dict(kept["waiting"]).items()
        }
        return cls(kept["placed"], kept["hidden"], users, waiting)


def _brought(ran: Ran) -> ActiveTag | None:
    """The tag that a job's user had before it, by its own evidence alone; for how many jobs is as many as it can be."""
    return None if ran.cause is None else ActiveTag(ran.tag, ran.cause, AFTER_JOBS)


def _misplaced(ran: Ran, placement: Placement, *, excused: bool) -> Check:
    there, due = (
        (one.tag or "no tag") + (f" that job {one.cause} brought" if one.cause else "")
        for one in (ran, placement)
    )
    what = (
        f"job {ran.job_id} ran under {there}, and the jobs of its user before it that are shown give it {due}"
    )
    if excused:
        return Check(_ID, "SKIP", f"{what}; jobs that are not shown may be the reason")
    return Check(_ID, "FAIL", what)
