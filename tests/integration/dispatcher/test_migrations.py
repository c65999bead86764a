"""The migrations build exactly the tables of the code; what each does with what is there already.

That each can be undone, and how they are written, is tested for both programs in `service/test_migration_rules.py`.
"""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from aos_dispatcher.tables import Base
from aos_service.database import database_url, migrate
from support.schemas import connect


async def test_the_migrated_tables_are_the_models(new_database: Any) -> None:
    engine = create_async_engine(database_url(await new_database("dispatcher")))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(lambda sync: inspect(sync).has_sequence("clock_ticks"))
    await engine.dispose()


async def test_jobs_of_before_verification_are_final(new_database: Any) -> None:
    url = database_url(await new_database(None))
    await migrate(url, "dispatcher", "0001")
    connection = await connect(url)
    await connection.execute("insert into projects (id, private) values ('shop', false)")
    job = "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, "
    job += "clock, deadline, finished_at) values ($1, $2, 'shop', 'device', '{}', '', '', '', '', $3, '{}', now(), now())"
    for n, status in enumerate(("completed", "failed"), start=1):
        await connection.execute(job, status, n, status)
    await migrate(url, "dispatcher")
    rows = await connection.fetch(
        "select id, final_at = finished_at as final, audit_ppm from jobs order by id"
    )
    assert [tuple(row) for row in rows] == [("completed", True, 0), ("failed", None, 0)]
    await connection.close()


async def test_results_of_before_attestation_have_none_and_survive_going_back(new_database: Any) -> None:
    url = database_url(await new_database(None))
    await migrate(url, "dispatcher", "0002")
    connection = await connect(url)
    for statement in _A_RESULT:
        await connection.execute(statement)
    await migrate(url, "dispatcher")
    held = await connection.fetch("select id, attestation is null from results")
    assert [tuple(row) for row in held] == [("before", True)]
    await connection.execute("update results set attestation = $1", '{"kind": "simulated"}')
    await migrate(url, "dispatcher", "0002")
    (row,) = await connection.fetch("select * from results")
    assert row["frame"] == "signed"
    assert "attestation" not in dict(row)
    await connection.close()


async def test_what_is_older_than_the_log_is_marked_to_be_written_down(new_database: Any) -> None:
    """A fresh database has nothing to be written down; going back forgets the mark."""
    url = database_url(await new_database("dispatcher"))
    connection = await connect(url)
    marks = "select count(*) from counters where name = 'unlogged'"
    assert await connection.fetchval(marks) == 0
    await migrate(url, "dispatcher", "0003")
    await connection.execute("insert into operators (address, number) values ('0x1', 2)")
    await migrate(url, "dispatcher")
    assert await connection.fetchval(marks) == 1
    await migrate(url, "dispatcher", "0003")
    assert await connection.fetchval(marks) == 0
    await connection.close()


async def test_jobs_that_wait_when_limits_come_are_counted(new_database: Any) -> None:
    url = database_url(await new_database(None))
    await migrate(url, "dispatcher", "0005")
    connection = await connect(url)
    for statement in _A_RESULT:
        await connection.execute(statement)
    more = "insert into rounds (id, job_id, tag, position, challenge, job_type, model, model_sha256, status, deadline) "
    more += "values ($1, 'job', $2, $3, $4, 'opml', 'tiny.gguf', '', 'created', now())"
    for values in ((2, "malicious", "", 0), (3, "suspicion", "before", 0), (4, "", "", 1)):
        await connection.execute(more, *values)
    await migrate(url, "dispatcher")
    counted = await connection.fetch("select id from rounds where project_id = 'shop'")
    assert [row["id"] for row in counted] == [2]
    await connection.close()


_A_RESULT = (
    "insert into projects (id, private) values ('shop', false)",
    "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, "
    "deadline) values ('job', 1, 'shop', 'device', '{}', '', '', '', '', 'completed', '{}', now())",
    "insert into rounds (id, job_id, tag, position, job_type, model, model_sha256, status, deadline) "
    "values (1, 'job', '', '', 'opml', 'tiny.gguf', '', 'completed', now())",
    "insert into results (id, job_id, round_id, operator, frame) values ('before', 'job', 1, 'somebody', 'signed')",
)
