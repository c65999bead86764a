"""Brings a database's tables to the revision that a program needs, by alembic, one process at a time, while others work on them.

Programs of the revision before go on meanwhile and afterwards: a revision only adds (docs/runbook.md). Each runs in its own
transaction, which waits for the lock of a table for half a second at most, because whoever comes behind it waits as long; then it is
tried again from its beginning. So it is, too, where it and a program wait for each other: half a second is less than the one after
which PostgreSQL would end either of them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias
from zlib import crc32

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from aos_service.errors import MigrationError
from aos_service.postgres import connect_arguments, describe, reported

Program: TypeAlias = Literal["dispatcher", "operator"]

_PATIENCE_S = 60.0
_LOCK_TIMEOUT_S = 0.5
_AGAIN_S = 0.2
_IN_THE_WAY = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
_alembic = asyncio.Lock()  # alembic keeps its context in one global for the process


def migrations_folder(name: Program) -> Path:
    """Where the program's revisions lie: inside this package in a wheel, else in the checkout.

    Raises:
        MigrationError: when they are in neither place (a broken installation).
    """
    here = Path(__file__).resolve().parent
    candidates = [here / "migrations" / name, here.parents[1] / "migrations" / name]
    for folder in candidates:
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError(
        f"the {name}'s migrations are not installed (looked in {candidates}): install aos again"
    )


def alembic_config(name: Program) -> Config:
    """What alembic's own commands (`command.revision(config, ...)`) need for the program's revisions."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder(name)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(url: URL, name: Program, revision: str = "head") -> None:
    """Bring the database of `url`, which must exist, to `revision`: forward, or back where it is an older one.

    A revision happens wholly or not at all; those before one that fails stay. Going back drops what newer revisions have
    added. A second process waits until the first is done, and each for locks of tables that are in use (60 s at most).

    Raises:
        DatabaseError: when the database cannot be reached.
        MigrationError: when a revision fails, something is in the way for too long, or the database is
            ahead of this program (or belongs to another one).
    """
    config = alembic_config(name)

    def move(connection: Connection) -> None:
        config.attributes["connection"] = connection
        try:
            (command.downgrade if _lies_behind(connection, config, revision) else command.upgrade)(
                config, revision
            )
        except CommandError as error:
            raise MigrationError(
                f"{describe(url)} cannot be brought to the {name}'s revision {revision}: {error}. "
                "Either a newer program made these tables (update this one), or they are not the "
                f"{name}'s (correct the URL)."
            ) from error

    ends = monotonic() + _PATIENCE_S
    engine = _engine(url, {"lock_timeout": f"{_LOCK_TIMEOUT_S:g}s"})
    try:
        async with _alembic, reported(url, MigrationError), _alone(engine, name, ends):
            while not await _moved(engine, move, ends):
                await asyncio.sleep(_AGAIN_S)
    finally:
        await engine.dispose()


async def current_revision(url: URL) -> str | None:
    """The revision that the database's tables are at; None when nothing was migrated there yet.

    Raises:
        DatabaseError: when the database cannot be reached.
    """
    engine = _engine(url, {})
    try:
        async with reported(url), engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
    finally:
        await engine.dispose()


async def _moved(engine: AsyncEngine, move: Any, ends: float) -> bool:  # noqa: ANN401 - run_sync's own type
    """Run the revisions; False when one of them met a lock, and there is time to try again."""
    async with engine.connect() as connection:
        try:
            await connection.run_sync(move)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _IN_THE_WAY or monotonic() >= ends:
                raise
            return False
        except PendingRollbackError as error:  # alembic's own clean-up hides what ended the connection
            raise MigrationError(
                f"{describe(engine.url)}: the connection ended while a revision ran: migrate again"
            ) from error
    return True


@asynccontextmanager
async def _alone(engine: AsyncEngine, name: Program, ends: float) -> AsyncIterator[None]:
    """Keep other processes from migrating meanwhile.

    The lock is the connection's, not a transaction's: building an index waits for the end of every open transaction.
    """
    key = {"key": crc32(f"aos migrate {name}".encode())}
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        while not (await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key)).scalar_one():
            if monotonic() >= ends:
                raise MigrationError(
                    f"{describe(engine.url)}: another process has been migrating it for {_PATIENCE_S:g} s: "
                    "wait until it is done, or end it"
                )
            await asyncio.sleep(_AGAIN_S)
        yield  # the lock ends with the connection, which no pool keeps


def _lies_behind(connection: Connection, config: Config, revision: str) -> bool:
    """Whether the database is at a newer revision than this one. Raises `CommandError` for a database ahead of the program."""
    current = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()  # the look began a transaction; revisions begin their own
    if current is None or revision in {"head", current}:
        return False
    scripts = ScriptDirectory.from_config(config)
    older = {script.revision for script in scripts.walk_revisions("base", current)}
    return revision == "base" or revision in older


def _engine(url: URL, settings: dict[str, str]) -> AsyncEngine:
    arguments = connect_arguments()
    arguments["server_settings"] |= settings
    return create_async_engine(url, poolclass=NullPool, connect_args=arguments)
