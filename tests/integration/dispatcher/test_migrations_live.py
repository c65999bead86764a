"""A dispatcher serves while the tables change under it: it is the old version, whose successor's revision comes, and goes again."""

import asyncio
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from typer.testing import CliRunner

from aos_dispatcher.main import app
from aos_service import revisions
from aos_service.database import current_revision, database_url, migrate
from aos_service.revisions import alembic_config, migrations_folder
from support.schemas import connect

Network: TypeAlias = Any  # of conftest.py, which is no module to import

NEXT = '''\
"""What a next version might bring: columns in tables that are in use, a table, and an index."""

import sqlalchemy as sa
from alembic import op

revision = "next_1"
down_revision = {newest!r}


# All its locks at once: a reader who has one of these tables already, and wants another that is locked, would wait for one who
# takes them one by one, who waits for that reader.
LOCK = "lock table jobs, rounds, results, assignments, log_pending in access exclusive mode"


def upgrade() -> None:
    op.execute(LOCK)
    for table in ("jobs", "rounds", "results", "assignments", "log_pending"):
        op.add_column(table, sa.Column("weight", sa.BigInteger(), server_default="1", nullable=False))
        op.add_column(table, sa.Column("hint", sa.Text()))
    op.create_table("weights", sa.Column("job_id", sa.Text(), sa.ForeignKey("jobs.id"), primary_key=True))


def downgrade() -> None:
    op.execute(LOCK)
    op.drop_table("weights")
    for table in ("jobs", "rounds", "results", "assignments", "log_pending"):
        op.drop_column(table, "hint")
        op.drop_column(table, "weight")
'''
NEXT_INDEX = '''\
"""An index of the new column."""

from aos_service.alembic_env import build_index, drop_index

revision = "next_2"
down_revision = "next_1"


def upgrade() -> None:
    build_index("heavy_jobs", "jobs", ["weight"], where="weight > 1")


def downgrade() -> None:
    drop_index("heavy_jobs", "jobs")
'''


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Our newest revision; after it come two of a next version."""
    head = ScriptDirectory.from_config(alembic_config("dispatcher")).get_current_head()
    assert head is not None
    folder = tmp_path / "dispatcher"
    shutil.copytree(migrations_folder("dispatcher"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next_1.py").write_text(NEXT.format(newest=head))
    (folder / "versions" / "next_2.py").write_text(NEXT_INDEX)
    monkeypatch.setattr(revisions, "migrations_folder", lambda _name: folder)
    monkeypatch.setattr(revisions, "_LOCK_TIMEOUT_S", 0.2)
    return head


class Traffic:
    """Projects that submit jobs one after the other, and read each until it has ended."""

    def __init__(self, network: Network, projects: int) -> None:
        self.ended: list[str] = []
        self._network = network
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run(n)) for n in range(projects)]

    async def _run(self, n: int) -> None:
        while not self._stopping:
            job_id = await self._network.submit(user=f"user {n}")
            assert (await self._network.finished(job_id))["status"] == "completed"
            await self._network.evidence(job_id)
            self.ended.append(job_id)

    async def flows(self, jobs: int = 3) -> None:
        """Wait until so many more jobs have come to their end."""
        target = len(self.ended) + jobs
        while len(self.ended) < target:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.01)

    async def stop(self) -> list[str]:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.ended


async def test_revisions_come_and_go_while_jobs_are_processed(network: Network, newest: str) -> None:
    """Every answer is 200, nothing is lost, and somebody who reads for long holds up the revision, not the jobs."""
    url = database_url(network.settings.database.url.get_secret_value())
    for _ in range(2):
        await network.operator()
    traffic = Traffic(network, 3)
    await traffic.flows()
    reader, others = await connect(url), await connect(url)
    waits = (
        "select count(*) from pg_locks join pg_database on pg_database.oid = database "
        "where datname = current_database() and mode = 'AccessExclusiveLock' and not granted"
    )
    async with reader.transaction():
        await reader.execute("select count(*) from results")
        migrating = asyncio.create_task(migrate(url, "dispatcher"))
        while not await others.fetchval(waits):
            await asyncio.sleep(0.01)
        await traffic.flows()
        assert not migrating.done()
    await migrating
    assert await current_revision(url) == "next_2"
    await traffic.flows()
    await migrate(url, "dispatcher", newest)
    assert await current_revision(url) == newest
    await traffic.flows()
    jobs = await traffic.stop()
    async with network.dispatcher.database.connect() as connection:
        stored = (await connection.execute(text("select id, status from jobs order by sequence"))).all()
    assert sorted(job.id for job in stored) == sorted(jobs)
    assert {job.status for job in stored} == {"completed"}
    assert [c for c in await network.unpassed(jobs[-1]) if "nobody was asked to score" not in c] == []
    await reader.close()
    await others.close()


async def test_a_dispatcher_that_is_older_than_the_tables_starts_nothing(
    network: Network, newest: str
) -> None:
    """It serves on while it runs; but the command to start says what to do, since what came since is not known to it."""
    url = database_url(network.settings.database.url.get_secret_value())
    await migrate(url, "dispatcher")
    folder = revisions.migrations_folder("dispatcher")
    for name in ("next_1.py", "next_2.py"):
        (folder / "versions" / name).unlink()
    with pytest.raises(revisions.MigrationError, match="newer program made these tables"):
        await migrate(url, "dispatcher")
    assert newest != await current_revision(url)


async def test_the_command_goes_back_and_forth(network: Network, newest: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    address = network.settings.database.url.get_secret_value()
    config.write_text(f"database:\n  url: {address}\nidentity: {{}}\n")
    url = database_url(address)
    for arguments, said, revision in (
        ((), "the database is up to date", "next_2"),
        (("--to", newest), f"the database is at revision {newest}", newest),
        (("--to", "nowhere"), "dispatcher: ", newest),
    ):
        ran = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "-c", str(config), *arguments])
        assert ran.output.startswith(said)
        assert await current_revision(url) == revision
