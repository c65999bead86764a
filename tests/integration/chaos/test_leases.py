"""The triggers see who writes without a lease."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest_asyncio

from aos_service.database import database_url
from chaos import leases
from integration.conftest import NewDatabase

_A_ROUND = """
insert into projects (id, private) values ('shop', false);
insert into operators (address, number) values ('0x2', 2);
insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, deadline)
values ('j', 1, 'shop', 'u', '{}', '', '', '', '', 'created', '{}', now());
insert into rounds (job_id, tag, position, job_type, model, model_sha256, status, deadline)
values ('j', '', '', 'opml', 'm', '', 'created', now());
"""
_LEASE = "update rounds set lease_owner = $1, lease_until = now() + make_interval(secs => $2)"
_SEAT = "insert into assignments (round_id, operator, rank, role, filled, state) select id, '0x2', 0, 'executor', false, 'assigned' from rounds"
_RESULT = (
    "insert into results (id, job_id, round_id, operator, frame) select 'r', 'j', id, '0x2', '{}' from rounds"
)
_END = "update rounds set status = 'completed'"


@pytest_asyncio.fixture
async def audited(new_database: NewDatabase) -> AsyncIterator[asyncpg.Connection]:
    """A dispatcher's database with the triggers and one open round, and users of two dispatchers with a run each."""
    _, options = (
        (url := database_url(await new_database("dispatcher"))).get_dialect()().create_connect_args(url)
    )
    connection = await asyncpg.connect(**options)
    await leases.install(connection, 2, 1)
    await connection.execute(_A_ROUND)
    yield connection
    for dispatcher in (1, 2):
        user = leases.user_of(dispatcher, 1)
        await connection.execute(f"drop owned by {user}; drop role {user}")
    await connection.close()


@asynccontextmanager
async def written_by(connection: asyncpg.Connection, dispatcher: int) -> AsyncIterator[None]:
    """Do what is in the block as a dispatcher's process."""
    await connection.execute(f"set session authorization {leases.user_of(dispatcher, 1)}")
    yield
    await connection.execute("reset session authorization")


async def test_all_under_a_lease(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute(_LEASE, "one", 60)
        for statement in (_SEAT, _RESULT, _END):
            await audited.execute(statement)
    found = await leases.audit(audited)
    assert (found.written, found.late, found.takeovers, found.violations) == (3, 0, 0, [])


async def test_a_result_without_any_lease(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute(_RESULT)
    assert "results of round" in (await leases.audit(audited)).violations[0]


async def test_writes_under_somebody_else_s_lease(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute(_LEASE, "one", 60)
    async with written_by(audited, 2):
        for statement in (_SEAT, _RESULT, _END):
            await audited.execute(statement)
    found = [line.split(" of round")[0] for line in (await leases.audit(audited)).violations]
    assert sorted(found) == ["assignments", "results", "round completed"]


async def test_a_lease_that_is_taken_too_early(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute(_LEASE, "one", 60)
    async with written_by(audited, 2):
        await audited.execute(_LEASE, "two", 60)
    assert (await leases.audit(audited)).violations == [
        "1 leases were taken from others before they had run out"
    ]


async def test_a_takeover_in_time_and_a_late_write(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute(_LEASE, "one", -1)
    async with written_by(audited, 2):
        await audited.execute(_LEASE, "two", -1)
        await audited.execute(_RESULT)
    found = await leases.audit(audited)
    assert (found.written, found.late, found.takeovers, found.violations) == (1, 1, 1, [])


async def test_two_processes_of_one_name(audited: asyncpg.Connection) -> None:
    for dispatcher in (1, 2):
        async with written_by(audited, dispatcher):
            await audited.execute("update rounds set lease_owner = null")
            await audited.execute(_LEASE, "one", 60)
    assert (await leases.audit(audited)).violations == ["lease owner one is 2 processes"]


async def test_a_cancellation_needs_no_lease(audited: asyncpg.Connection) -> None:
    async with written_by(audited, 1):
        await audited.execute("update rounds set status = 'cancelled'")
    assert (await leases.audit(audited)).violations == []
