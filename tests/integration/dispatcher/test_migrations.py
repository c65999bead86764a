"""The migrations build exactly the tables of the code, and can be undone."""

from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from aos_dispatcher.tables import Base
from aos_service.database import database_url
from aos_service.revisions import alembic_config, current_revision


async def test_the_migrated_tables_are_the_models(new_database: Any) -> None:
    engine = create_async_engine(database_url(await new_database("dispatcher")))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(lambda sync: inspect(sync).has_sequence("clock_ticks"))
    await engine.dispose()


async def test_the_migrations_can_be_undone(new_database: Any) -> None:
    url = database_url(await new_database("dispatcher"))
    assert await current_revision(url) is not None
    engine = create_async_engine(url)

    def down(connection: Connection) -> list[str]:
        config = alembic_config("dispatcher")
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return [name for name in inspect(connection).get_table_names() if name != "alembic_version"]

    async with engine.begin() as connection:
        assert await connection.run_sync(down) == []
    await engine.dispose()


async def test_jobs_of_before_verification_are_final(new_database: Any) -> None:
    engine = create_async_engine(database_url(await new_database("dispatcher")))

    def move(connection: Connection, to: str) -> None:
        config = alembic_config("dispatcher")
        config.attributes["connection"] = connection
        (command.downgrade if to == "0001" else command.upgrade)(config, to)

    async with engine.begin() as connection:
        await connection.run_sync(move, "0001")
        await connection.execute(text("insert into projects (id, private) values ('shop', false)"))
        job = "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, "
        job += "clock, deadline, finished_at) values (:id, :n, 'shop', 'device', '{}', '', '', '', '', :status, '{}', now(), now())"
        for n, status in enumerate(("completed", "failed"), start=1):
            await connection.execute(text(job), {"id": status, "n": n, "status": status})
        await connection.run_sync(move, "head")
        rows = await connection.execute(
            text("select id, final_at = finished_at as final, audit_ppm from jobs order by id")
        )
        assert [tuple(row) for row in rows] == [("completed", True, 0), ("failed", None, 0)]
    await engine.dispose()


async def test_results_of_before_attestation_have_none_and_survive_going_back(new_database: Any) -> None:
    engine = create_async_engine(database_url(await new_database("dispatcher")))

    def move(connection: Connection, to: str) -> None:
        config = alembic_config("dispatcher")
        config.attributes["connection"] = connection
        (command.upgrade if to == "head" else command.downgrade)(config, to)

    async with engine.begin() as connection:
        await connection.run_sync(move, "0002")
        for statement in _A_RESULT:
            await connection.execute(text(statement))
        await connection.run_sync(move, "head")
        held = text("select id, attestation is null from results")
        assert [tuple(row) for row in await connection.execute(held)] == [("before", True)]
        appraised = text("update results set attestation = cast(:said as json)")
        await connection.execute(appraised, {"said": '{"kind": "simulated"}'})
        await connection.run_sync(move, "0002")
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("results"))
        assert "attestation" not in {column["name"] for column in columns}
        frames = await connection.execute(text("select frame from results"))
        assert list(frames.scalars()) == ["signed"]
    await engine.dispose()


async def test_what_is_older_than_the_log_is_marked_to_be_written_down(new_database: Any) -> None:
    """A fresh database has nothing to be written down; going back forgets the mark."""
    engine = create_async_engine(database_url(await new_database("dispatcher")))

    def move(connection: Connection, to: str) -> None:
        config = alembic_config("dispatcher")
        config.attributes["connection"] = connection
        (command.upgrade if to == "head" else command.downgrade)(config, to)

    marks = text("select count(*) from counters where name = 'unlogged'")
    async with engine.begin() as connection:
        assert (await connection.execute(marks)).scalar_one() == 0
        await connection.run_sync(move, "0003")
        await connection.execute(text("insert into operators (address, number) values ('0x1', 2)"))
        await connection.run_sync(move, "head")
        assert (await connection.execute(marks)).scalar_one() == 1
        await connection.run_sync(move, "0003")
        assert (await connection.execute(marks)).scalar_one() == 0
    await engine.dispose()


_A_RESULT = (
    "insert into projects (id, private) values ('shop', false)",
    "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, "
    "deadline) values ('job', 1, 'shop', 'device', '{}', '', '', '', '', 'completed', '{}', now())",
    "insert into rounds (id, job_id, tag, position, job_type, model, model_sha256, status, deadline) "
    "values (1, 'job', '', '', 'opml', 'tiny.gguf', '', 'completed', now())",
    "insert into results (id, job_id, round_id, operator, frame) values ('before', 'job', 1, 'somebody', 'signed')",
)
