"""Tags of users: which rounds a job gets, and which earlier jobs are looked at again (design, section 5).

A job that says its user is under suspicion, or malicious, is a *tagging* job. The user stays tagged for the
jobs that follow it, and those that preceded it are dispatched once more. All of that is counted in the order of
the jobs' sequence, which is their causal order too: sequence numbers and clock ticks are taken under one lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.documents import place_document
from aos_dispatcher.log_pending import record
from aos_dispatcher.tables import UserTag
from aos_protocol.fields import Tag
from aos_protocol.log_entries import round_entry
from aos_protocol.tagging import ActiveTag

BEFORE_JOBS = 10
"""How many jobs before a tagging one are looked at again, newest first."""

User = tuple[str, str]
"""Whom a tag is on: a user id counts within its project only."""


@dataclass(frozen=True)
class Tagging:
    """A job that brings a tag, as `open_before` needs it."""

    job_id: str
    user: User
    sequence: int
    tag: Tag


_LIFT = text("delete from user_tags where project_id = :project and user_id = :user")


async def store_tags(
    connection: AsyncConnection, before: dict[User, ActiveTag], after: dict[User, ActiveTag]
) -> None:
    """Write the tags that changed, and lift those that were used up."""
    lifted = before.keys() - after.keys()
    if lifted:
        gone = [{"project": project, "user": user} for project, user in sorted(lifted)]
        await connection.execute(_LIFT, gone)
    changed = [_row(user, tag) for user, tag in after.items() if before.get(user) != tag]
    if changed:
        row = insert(UserTag)
        fresh = {name: row.excluded[name] for name in ("tag", "cause", "remaining")}
        await connection.execute(
            row.on_conflict_do_update(index_elements=["project_id", "user_id"], set_=fresh), changed
        )


def _row(user: User, active: ActiveTag) -> dict[str, Any]:
    project, user_id = user
    return {
        "project_id": project,
        "user_id": user_id,
        "tag": active.tag,
        "cause": active.cause,
        "remaining": active.remaining,
    }


# The window is the newest jobs that were not cancelled, whether they have a round under the tag already or not: tagging
# a user again does not reach further back each time. A model whose name nobody announced cannot be asked for. Nobody
# could verify a sealed or direct prompt, and jobs that have one do not push others out of the window.
_OPEN_BEFORE = text(
    """
    insert into rounds (job_id, tag, position, purpose, cause, job_type, model, model_sha256, status, deadline)
    select earlier.id, tagging.tag, 'before', 'before', tagging.id, models.job_type, models.name, models.sha256,
           'created', :deadline
    from unnest(cast(:ids as text[]), cast(:projects as text[]), cast(:users as text[]),
                cast(:sequences as bigint[]), cast(:tags as text[]))
         as tagging(id, project_id, user_id, sequence, tag)
    cross join lateral (
        select jobs.id, jobs.sequence from jobs
        where jobs.project_id = tagging.project_id and jobs.user_id = tagging.user_id
          and jobs.sequence < tagging.sequence and jobs.status <> 'cancelled'
          and jobs.request #>> '{job,sealed}' is null and jobs.request #>> '{job,direct}' is null
        order by jobs.sequence desc limit :most
    ) as earlier
    join rounds as own on own.job_id = earlier.id and own.challenge = 0 and own.position <> 'before'
    join models on models.name = own.model and models.job_type = own.job_type
    order by tagging.sequence, earlier.sequence desc
    on conflict (job_id, tag, challenge) do nothing
    returning id, job_id, tag, position, cause, model, model_sha256
    """
)


async def open_before(connection: AsyncConnection, tagging: Sequence[Tagging], deadline: datetime) -> None:
    """Open a round at position `before` for the jobs that precede these, unless they have one under that tag."""
    opened = await connection.execute(
        _OPEN_BEFORE,
        {
            "ids": [job.job_id for job in tagging],
            "projects": [job.user[0] for job in tagging],
            "users": [job.user[1] for job in tagging],
            "sequences": [job.sequence for job in tagging],
            "tags": [job.tag for job in tagging],
            "most": BEFORE_JOBS,
            "deadline": deadline,
        },
    )
    for row in sorted(opened.mappings(), key=lambda row: row["id"]):
        record(connection, round_entry(row["job_id"], place_document(dict(row), None, None)), row["job_id"])
