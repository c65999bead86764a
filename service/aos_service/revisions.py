"""Brings a database's tables to the revision that a program needs, by alembic, one process at a time."""

import asyncio
from pathlib import Path
from typing import Literal, TypeAlias
from zlib import crc32

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from aos_service.errors import MigrationError
from aos_service.postgres import connect_arguments, describe, reported

Program: TypeAlias = Literal["dispatcher", "operator"]

_LOCK_TIMEOUT_S = 60.0
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
    """Bring the database of `url`, which must exist, to `revision`, in one transaction: all or nothing.

    An advisory lock makes a second process wait until the first is done (60 s at most). So a revision must
    not commit by itself: no `CREATE INDEX CONCURRENTLY`.

    Raises:
        DatabaseError: when the database cannot be reached.
        MigrationError: when a revision fails, another process holds the lock too long, or the database is
            ahead of this program (or belongs to another one).
    """
    config = alembic_config(name)

    def upgrade(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S:g}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise MigrationError(
                f"{describe(url)} cannot be brought to the {name}'s revision {revision}: {error}. "
                "Either a newer program made these tables (update this one), or they are not the "
                f"{name}'s (correct the URL)."
            ) from error

    engine = _engine(url)
    try:
        async with _alembic, reported(url, MigrationError), engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()


async def current_revision(url: URL) -> str | None:
    """The revision that the database's tables are at; None when nothing was migrated there yet.

    Raises:
        DatabaseError: when the database cannot be reached.
    """
    engine = _engine(url)
    try:
        async with reported(url), engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
    finally:
        await engine.dispose()


def _engine(url: URL) -> AsyncEngine:
    return create_async_engine(url, poolclass=NullPool, connect_args=connect_arguments())


def _lock_key(name: Program) -> int:
    return crc32(f"aos migrate {name}".encode())
