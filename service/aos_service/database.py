"""The database of a process: its address, its engine, its creation, its migrations.

url = database_url(settings.db.pg_db_url)
await ensure_database(url)
await migrate(url, "operator")
engine = create_engine(url, pool_min=10, pool_max=30, connect_timeout=30, acquire_timeout=60)
"""

from time import monotonic

import asyncpg
from sqlalchemy import URL, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from aos_service.errors import DatabaseError
from aos_service.postgres import connect, connect_arguments, database_url, describe, reported
from aos_service.revisions import current_revision, migrate

__all__ = [
    "create_engine",
    "current_revision",
    "database_url",
    "describe",
    "ensure_database",
    "migrate",
    "reported",
]

_PING_AFTER_IDLE_S = 5.0


def create_engine(
    url: URL,
    *,
    pool_min: int,
    pool_max: int,
    connect_timeout: float,
    acquire_timeout: float,
    statement_timeout: float | None = None,
) -> AsyncEngine:
    """An engine that keeps up to `pool_min` idle connections and opens at most `pool_max`; times in seconds.

    A connection that has been idle for 5 s is pinged before use, so that a restarted PostgreSQL costs no
    error; a busy one is not, since a ping would double the round trips of short transactions. Nothing
    connects before the first use.

    With `statement_timeout` a statement that takes longer raises `TimeoutError` (or the server's error, whichever
    is first), also where the server has stopped and says nothing at all; its connection is cut, not rolled back. And a
    transaction of this process that stands still for twice as long is ended by the server, so that a process which is
    stopped in the middle of one does not hold up others with its locks.

    Raises:
        DatabaseError: unless 1 <= pool_min <= pool_max.
    """
    if not 1 <= pool_min <= pool_max:
        raise DatabaseError(
            f"a pool of {pool_min} to {pool_max} connections cannot be: use 1 <= minimum <= maximum"
        )
    engine = create_async_engine(
        url,
        pool_size=pool_min,
        max_overflow=pool_max - pool_min,
        pool_timeout=acquire_timeout,
        pool_use_lifo=True,  # the spare connections stay idle, so that the server or a proxy may close them
        connect_args=connect_arguments(connect_timeout, statement_timeout),
        hide_parameters=True,  # statements' parameters hold prompts and tokens: not for logs and errors
    )
    _ping_when_idle(engine)
    _cut_when_late(engine)
    return engine


async def ensure_database(url: URL) -> bool:
    """Create the database of `url` when the server does not have it; True if it did. Never drops anything.

    Raises:
        DatabaseError: when the server cannot be reached, refuses the user, or the user may not create
            databases.
    """
    async with reported(url):
        try:
            connection = await connect(url)
        except asyncpg.InvalidCatalogNameError:
            return await _create_database(url)
        await connection.close()
        return False


async def _create_database(url: URL) -> bool:
    name = str(url.database)
    connection = await connect(url.set(database="postgres"))
    try:
        quoted = '"' + name.replace('"', '""') + '"'
        await connection.execute(f"CREATE DATABASE {quoted} ENCODING 'UTF8' TEMPLATE template0")
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return False  # another process was quicker
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"database {name} does not exist and user {url.username or '(the system user)'} may not create "
            f"it: as the server's administrator run `createdb -O {url.username or 'USER'} {name}`, "
            "or `ALTER ROLE ... CREATEDB`"
        ) from error
    finally:
        await connection.close()
    return True


def _cut_when_late(engine: AsyncEngine) -> None:
    """Treat a connection whose statement had no answer in time as lost: a rollback would wait for the same server."""

    def lost(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, TimeoutError):
            context.is_disconnect = True

    def cut(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _error: object) -> None:
        connection.driver_connection.terminate()

    event.listen(engine.sync_engine, "handle_error", lost)
    event.listen(engine.sync_engine, "invalidate", cut)


def _ping_when_idle(engine: AsyncEngine) -> None:
    dialect = engine.dialect

    def returned(_connection: object, entry: ConnectionPoolEntry) -> None:
        entry.info["idle_since"] = monotonic()

    def taken(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object) -> None:
        if monotonic() - entry.info.get("idle_since", monotonic()) < _PING_AFTER_IDLE_S:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise exc.InvalidatePoolError from error  # the others are as old: all are opened anew

    event.listen(engine.sync_engine, "checkin", returned)
    event.listen(engine.sync_engine, "checkout", taken)
