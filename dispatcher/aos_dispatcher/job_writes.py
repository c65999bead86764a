"""How a batch of jobs gets into PostgreSQL: one statement for what has to be known of them, one for all that is written."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import log_pending
from aos_dispatcher.rows import Rows, insertion
from aos_dispatcher.tables import Job, JsonObject, Round
from aos_dispatcher.tags import User
from aos_protocol.tagging import ActiveTag

_JOBS = Rows.of(
    Job,
    *("id", "sequence", "project_id", "idempotency_key", "user_id", "request", "request_digest", "receipt"),
    *("seed", "seed_proof", "status", "clock", "created_at", "deadline", "audit_ppm", "least_evidence"),
)
_ROUNDS = Rows.of(
    Round,
    *(
        "id",
        "job_id",
        "project_id",
        "tag",
        "position",
        "purpose",
        "cause",
        "job_type",
        "model",
        "model_sha256",
    ),
    *("status", "deadline", "lease_owner", "fencing_token", "lease_until"),
)
_NEEDED = text(
    """
    select array(select nextval('clock_ticks') from generate_series(1, :ticks)) as ticks,
        array(select nextval('rounds_id_seq') from generate_series(1, :rounds)) as round_ids,
        coalesce((select value from counters where name = 'registry'), 0) as registry,
        array(
            select json_build_array(project_id, user_id, tag, cause, remaining) from user_tags
            where (project_id, user_id) in (select * from unnest(cast(:projects as text[]), cast(:users as text[])))
        ) as tags,
        array(
            select json_build_array(sha256, max(calibration)) from models
            where sha256 = any(cast(:models as text[])) and calibration is not null group by sha256
        ) as calibrations
    """
)
_INSERT = text(
    f"""
    with jobs_in as ({insertion(Job, _JOBS)}),
    rounds_in as ({insertion(Round, _ROUNDS)}),
    counted as (update counters set value = :last where name = 'jobs')
    {log_pending.INSERT}
    """  # noqa: S608 - constants
)


@dataclass(frozen=True)
class Needed:
    """What placing a batch takes: ticks of the clock, ids of rounds, tags of users; and what its draws go by.

    That is the number of the registry's version, and the digests of the calibrations that models have, by their SHA-256.
    """

    ticks: list[int]
    round_ids: list[int]
    registry: int
    tags: dict[User, ActiveTag]
    calibrations: dict[str, str]


async def needed(
    connection: AsyncConnection, users: Collection[User], models: Collection[str], *, ticks: int, rounds: int
) -> Needed:
    """Take so many ticks and ids, and read what there is of these users, one or more, and models. The caller holds the lock of the job sequence."""
    projects, ids = zip(*users, strict=True)
    asked = {
        "ticks": ticks,
        "rounds": rounds,
        "projects": list(projects),
        "users": list(ids),
        "models": list(models),
    }
    row = (await connection.execute(_NEEDED, asked)).one()
    tags = {(project, user): ActiveTag(*tag) for project, user, *tag in row.tags}
    return Needed(row.ticks, row.round_ids, row.registry, tags, dict(row.calibrations))


async def store(
    connection: AsyncConnection, jobs: Sequence[JsonObject], rounds: Sequence[JsonObject], last: int
) -> None:
    """Insert jobs and their rounds, with what was recorded of them for the log; `last` is the last number that was given."""
    parameters: dict[str, Any] = {"last": last} | _JOBS.parameters(jobs) | _ROUNDS.parameters(rounds)
    await connection.execute(_INSERT, parameters | log_pending.taken(connection))
