import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from zlib import crc32

import asyncpg
import pytest
from sqlalchemy import URL

from aos_service import revisions
from aos_service.database import current_revision, database_url, migrate
from aos_service.errors import DatabaseError, MigrationError
from aos_service.revisions import alembic_config, migrations_folder

NewDatabase = Callable[[None], Awaitable[str]]

ENVIRONMENT = "from aos_service.alembic_env import run\n\nrun()\n"
REVISION = '''\
"""A revision."""

from alembic import op

revision = {revision!r}
down_revision = {after!r}


def upgrade() -> None:
    op.execute({up!r})


def downgrade() -> None:
    op.execute({down!r})
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Revisions of a program of our own: a table, then a slow one."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    add(tmp_path, "1", None, "CREATE TABLE jobs (id int)", "DROP TABLE jobs")
    add(tmp_path, "2", "1", "CREATE TABLE results AS SELECT pg_sleep(0.2)::text", "DROP TABLE results")
    monkeypatch.setattr(revisions, "migrations_folder", lambda _name: tmp_path)
    return tmp_path


def add(folder: Path, revision: str, after: str | None, up: str, down: str = "") -> None:
    (folder / "versions" / f"{revision}.py").write_text(
        REVISION.format(revision=revision, after=after, up=up, down=down)
    )


@pytest.fixture
async def url(new_database: NewDatabase) -> URL:
    return database_url(await new_database(None))


async def connect(url: URL) -> asyncpg.Connection:
    return await asyncpg.connect(**url.get_dialect()().create_connect_args(url)[1])


async def tables(url: URL) -> set[str]:
    connection = await connect(url)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


@pytest.mark.usefixtures("folder")
async def test_a_database_is_brought_to_a_revision_and_on_to_the_newest(url: URL) -> None:
    assert await current_revision(url) is None
    await migrate(url, "operator", "1")
    assert await current_revision(url) == "1"
    await migrate(url, "operator")
    await migrate(url, "operator")
    assert await current_revision(url) == "2"
    assert await tables(url) == {"jobs", "results", "alembic_version"}


@pytest.mark.usefixtures("folder")
async def test_processes_that_start_at_once_wait_for_each_other(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the lock inside a process, these are as separate as processes: the database's own lock is at work.
    monkeypatch.setattr(revisions, "_alembic", asyncio.Semaphore(9))
    await asyncio.gather(*(migrate(url, "operator") for _ in range(3)))
    assert await current_revision(url) == "2"


@pytest.mark.usefixtures("folder")
async def test_a_process_does_not_wait_for_ever(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "_PATIENCE_S", 0.1)
    connection, lock = await connect(url), crc32(b"aos migrate operator")
    await connection.execute("SELECT pg_advisory_lock($1)", lock)
    with pytest.raises(MigrationError, match=r"another process has been migrating it for 0\.1 s"):
        await migrate(url, "operator")
    await connection.execute("SELECT pg_advisory_unlock($1)", lock)
    await migrate(url, "operator")
    await connection.close()


async def test_a_table_in_use_is_waited_for_in_small_steps(
    url: URL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_LOCK_TIMEOUT_S", 0.1)
    await migrate(url, "operator")
    add(folder, "3", "2", "CREATE TABLE more (id int)")
    add(folder, "4", "3", "ALTER TABLE jobs ADD COLUMN state text", "ALTER TABLE jobs DROP COLUMN state")
    reader, others = await connect(url), await connect(url)
    async with reader.transaction():
        await reader.execute("SELECT * FROM jobs")
        migrating = asyncio.create_task(migrate(url, "operator"))
        tries = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass"
        seen: set[int] = set()
        while len(seen) < 2:  # it has given up once, and waits again
            seen |= {row["pid"] for row in await others.fetch(tries)}
        await others.execute("INSERT INTO jobs VALUES (1)")  # goes on in between
        assert await current_revision(url) == "3"
    await migrating
    assert await current_revision(url) == "4"
    await reader.close()
    await others.close()


async def test_a_table_in_use_is_not_waited_for_for_ever(
    url: URL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_LOCK_TIMEOUT_S", 0.05)
    await migrate(url, "operator")
    monkeypatch.setattr(revisions, "_PATIENCE_S", 0.1)
    add(folder, "3", "2", "ALTER TABLE jobs ADD COLUMN state text")
    reader = await connect(url)
    async with reader.transaction():
        await reader.execute("SELECT * FROM jobs")
        with pytest.raises(MigrationError, match="lock timeout"):
            await migrate(url, "operator")
    await reader.close()
    assert await current_revision(url) == "2"


async def test_of_a_revision_and_a_reader_that_wait_for_each_other_the_revision_is_tried_again(
    url: URL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_LOCK_TIMEOUT_S", 30)
    await migrate(url, "operator")
    both = "ALTER TABLE results ADD a text; PERFORM pg_advisory_xact_lock(7); ALTER TABLE jobs ADD b text;"
    add(folder, "3", "2", f"DO $$ BEGIN {both} END $$")
    reader, others = await connect(url), await connect(url)
    try:  # it is never the reader who finds that they wait for each other
        await reader.execute("SET deadlock_timeout = '1h'")
        await others.execute(f"ALTER DATABASE {url.database} SET deadlock_timeout = '10ms'")
    except asyncpg.InsufficientPrivilegeError:
        pytest.skip("who finds a deadlock first is a superuser's to say")
    await others.execute("SELECT pg_advisory_lock(7)")
    async with reader.transaction():
        await reader.execute("SELECT * FROM jobs")
        migrating = asyncio.create_task(migrate(url, "operator"))
        await until_waited_for(others, "locktype = 'advisory' AND objid = 7")
        reading = asyncio.create_task(reader.execute("SELECT * FROM results"))
        await until_waited_for(others, "relation = 'results'::regclass")
        await others.execute("SELECT pg_advisory_unlock(7)")
        await reading
    await migrating
    assert await current_revision(url) == "3"
    await reader.close()
    await others.close()


async def until_waited_for(connection: asyncpg.Connection, lock: str) -> None:
    """Wait until somebody waits for a lock of this connection's database."""
    mine = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    while not await connection.fetchval(
        f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {mine} AND {lock}"
    ):
        await asyncio.sleep(0.01)


async def test_it_goes_back_to_an_older_revision_and_on_again(url: URL, folder: Path) -> None:
    await migrate(url, "operator")
    await migrate(url, "operator", "1")
    assert (await current_revision(url), await tables(url)) == ("1", {"jobs", "alembic_version"})
    await migrate(url, "operator", "2")
    assert await current_revision(url) == "2"
    await migrate(url, "operator", "base")
    assert (await current_revision(url), await tables(url)) == (None, {"alembic_version"})
    assert folder.is_dir()


INDEX = """\
\"\"\"An index of its own.\"\"\"

from aos_service.alembic_env import build_index, drop_index

revision = "3"
down_revision = "2"


def upgrade() -> None:
    build_index("some", "jobs", ["id"], where="id > 0")


def downgrade() -> None:
    drop_index("some", "jobs")
"""


END_WHO_WAITS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)
"""


async def test_an_index_is_built_while_the_table_is_written_also_at_the_second_try(
    url: URL, folder: Path
) -> None:
    await migrate(url, "operator")
    (folder / "versions" / "3.py").write_text(INDEX)
    writer, others = await connect(url), await connect(url)
    definition = "SELECT indexdef FROM pg_indexes WHERE indexname = 'some'"
    async with writer.transaction():
        await writer.execute("INSERT INTO jobs VALUES (1)")
        first = asyncio.create_task(migrate(url, "operator"))
        while not await others.fetchval(definition):
            await asyncio.sleep(0.01)
        await others.execute(
            "INSERT INTO jobs VALUES (2)"
        )  # the index waits for the writer, and holds up nobody
        while not await others.fetch(END_WHO_WAITS):
            await asyncio.sleep(0.01)
        with pytest.raises(MigrationError, match="the connection ended"):
            await first
    assert await current_revision(url) == "2"
    await migrate(url, "operator")
    assert "(id) WHERE (id > 0)" in await others.fetchval(definition)
    assert await others.fetchval("SELECT bool_and(indisvalid) FROM pg_index")
    await migrate(url, "operator", "2")
    assert await others.fetchval(definition) is None
    await writer.close()
    await others.close()


async def test_a_failing_revision_changes_nothing_and_those_before_it_stay(url: URL, folder: Path) -> None:
    await migrate(url, "operator", "1")
    add(folder, "3", "2", "CREATE TABLE jobs (id int)")
    with pytest.raises(MigrationError, match='relation "jobs" already exists'):
        await migrate(url, "operator")
    assert await current_revision(url) == "2"
    assert await tables(url) == {"jobs", "results", "alembic_version"}


async def test_a_database_ahead_of_the_program(url: URL, folder: Path) -> None:
    await migrate(url, "operator")
    (folder / "versions" / "2.py").unlink()
    with pytest.raises(MigrationError, match=r"Can't locate revision .*update this one"):
        await migrate(url, "operator")


@pytest.mark.usefixtures("folder")
async def test_a_revision_that_does_not_exist(url: URL) -> None:
    with pytest.raises(MigrationError, match="cannot be brought to the operator's revision 7"):
        await migrate(url, "operator", "7")


@pytest.mark.usefixtures("folder")
async def test_a_database_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no PostgreSQL server at"):
        await migrate(database_url(f"postgres://u@/name?host={tmp_path}"), "operator")


@pytest.mark.parametrize("name", ["dispatcher", "operator"])
def test_our_migrations_are_found_in_the_checkout(name: revisions.Program) -> None:
    folder = migrations_folder(name)
    assert folder.parts[-2:] == ("migrations", name)
    assert (folder / "script.py.mako").is_file()
    assert alembic_config(name).get_main_option("script_location") == str(folder)


def test_migrations_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "aos_service" / "migrations" / "operator"
    inside.mkdir(parents=True)
    (inside / "env.py").touch()
    monkeypatch.setattr(revisions, "__file__", str(tmp_path / "aos_service" / "revisions.py"))
    assert migrations_folder("operator") == inside
    with pytest.raises(MigrationError, match="the dispatcher's migrations are not installed"):
        migrations_folder("dispatcher")


async def test_our_own_migrations_run_on_an_empty_database(url: URL) -> None:
    await migrate(url, "operator")
    await migrate(database_url(str(url.render_as_string(hide_password=False))), "operator")
