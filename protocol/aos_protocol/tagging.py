"""Tags of users: under which tag and position a user's next job runs (design, section 5), for dispatchers and for whoever checks them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aos_protocol.errors import InvalidEvidence
from aos_protocol.fields import Position, Tag
from aos_protocol.log_entries import is_own

AFTER_JOBS = 10
"""For how many jobs after a tagging one its user stays tagged."""

_STRENGTH: dict[Tag, int] = {"": 0, "suspicion": 1, "malicious": 2}


@dataclass(frozen=True)
class ActiveTag:
    """A tag that a user has: which, by which job, and for how many jobs to come."""

    tag: Tag
    cause: str
    remaining: int


@dataclass(frozen=True)
class Placement:
    """Under which tag and position a job's own round runs; `cause` is the earlier job that brought the tag.

    `tagging` is True when this job brings a tag itself, so that earlier jobs of its user are dispatched again.
    """

    tag: Tag
    position: Position
    cause: str | None
    tagging: bool


def place(active: ActiveTag | None, job_id: str, asked: Tag) -> tuple[Placement, ActiveTag | None]:
    """Return where a user's next job runs, asked for under this tag, and the tag that the user has from then on.

    A tag that is at least as strong as the active one takes its place and counts anew. A weaker one, and none,
    leaves the active one standing, of which the job uses up one.
    """
    if active is None or _STRENGTH[asked] >= _STRENGTH[active.tag]:
        if not asked:
            return Placement("", "", None, tagging=False), None
        return Placement(asked, "after", None, tagging=True), ActiveTag(asked, job_id, AFTER_JOBS)
    left = active.remaining - 1
    following = Placement(active.tag, "after", active.cause, tagging=False)
    return following, ActiveTag(active.tag, active.cause, left) if left else None


@dataclass(frozen=True)
class Ran:
    """What evidence tells of a job's place: the tag that it asked for, and tag, position and cause of its own round."""

    job_id: str
    asked: Tag
    tag: Tag
    position: Position
    cause: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Ran":
        """Read it from a job's evidence document. Raises `InvalidEvidence` for one without a round of the job's own."""
        job, own = document["job"], next(filter(is_own, document["rounds"]), None)
        if own is None:
            raise InvalidEvidence(f"job {job['sequence']} has no round of its own")
        asked = job["request"].get("tag", "")
        return cls(job["job_id"], asked, own["tag"], own["position"], own["cause"])

    def fits(self, placement: Placement) -> bool:
        """Whether the job ran where the rule puts it."""
        return (self.tag, self.position, self.cause) == (placement.tag, placement.position, placement.cause)


def check_placements(documents: Iterable[Mapping[str, Any]]) -> None:
    """Hold the jobs of one user of one project against the rule: their evidence documents, all of them, by sequence.

    Raises `InvalidEvidence` where a job's own round has another tag, position or cause than the jobs before it give it.
    """
    active: ActiveTag | None = None
    for document in documents:
        ran = Ran.of(document)
        placement, active = place(active, ran.job_id, ran.asked)
        if not ran.fits(placement):
            raise InvalidEvidence(
                f"job {document['job']['sequence']} ran under tag {ran.tag!r}, and the jobs of its user before it give it {placement.tag!r}"
            )
