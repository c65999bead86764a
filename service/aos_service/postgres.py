"""PostgreSQL's address and its errors, for the modules of this package."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import URL, exc
from sqlalchemy.engine import make_url

from aos_service.errors import DatabaseError

_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_QUERY = {"host": "host", "port": "port", "sslmode": "ssl", "ssl": "ssl"}
_EXAMPLE = "postgresql://user:password@127.0.0.1:5432/name or postgresql://user@/name?host=/socket/folder"

CONNECT_TIMEOUT_S = 30.0


def database_url(text: str) -> URL:
    """Read a PostgreSQL address, of a TCP port or a unix socket (`?host=/folder`), for SQLAlchemy on asyncpg.

    Raises:
        DatabaseError: for any other address; the message never shows a password.
    """
    try:
        url = make_url(text.strip())
    except (exc.ArgumentError, ValueError):
        raise DatabaseError(f"the database URL cannot be read: write it like {_EXAMPLE}") from None
    if url.drivername not in _SCHEMES:
        raise DatabaseError(f"{url.drivername}:// is no PostgreSQL address: write it like {_EXAMPLE}")
    if not url.database:
        raise DatabaseError(f"{describe(url)} names no database: write it like {_EXAMPLE}")
    unknown = sorted(set(url.query) - set(_QUERY))
    if unknown:
        raise DatabaseError(
            f"{describe(url)}: {', '.join(unknown)} is not understood; allowed: {', '.join(_QUERY)}"
        )
    query = {_QUERY[key]: value for key, value in url.query.items()}
    # An empty password (`postgres:@`) means none: asyncpg would send the empty one and be refused.
    return url.set(drivername="postgresql+asyncpg", query=query, password=url.password or None)


def describe(url: URL) -> str:
    """The address without its password and driver, for messages."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True).replace("%2F", "/")


def connect_arguments(
    timeout: float = CONNECT_TIMEOUT_S, statement_timeout: float | None = None
) -> dict[str, Any]:
    """What every connection is opened with. JIT compiling would cost short statements more than it gains."""
    settings = {"jit": "off", "timezone": "UTC"}
    if statement_timeout is None:
        return {"timeout": timeout, "server_settings": settings}
    milliseconds = max(1, round(1000 * statement_timeout))
    settings["statement_timeout"] = str(milliseconds)
    settings["idle_in_transaction_session_timeout"] = str(2 * milliseconds)
    return {"timeout": timeout, "command_timeout": statement_timeout, "server_settings": settings}


async def connect(url: URL) -> asyncpg.Connection:
    """A bare asyncpg connection, for what cannot run in a transaction."""
    _, options = url.get_dialect()().create_connect_args(url)
    return await asyncpg.connect(**options, timeout=CONNECT_TIMEOUT_S)


@asynccontextmanager
async def reported(url: URL, kind: type[DatabaseError] = DatabaseError) -> AsyncIterator[None]:
    """Turn what asyncpg and SQLAlchemy raise inside into a DatabaseError that says what to do.

    `kind` is raised where the server is reached and a statement fails.
    """
    try:
        yield
    except exc.DBAPIError as error:
        cause = error.orig.__cause__ if error.orig else None
        raise _translated(cause or error.orig or error, url, kind) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _translated(error, url, kind) from error


def _translated(error: BaseException, url: URL, kind: type[DatabaseError]) -> DatabaseError:
    where = describe(url)
    if isinstance(error, TimeoutError):
        return DatabaseError(f"{where} does not answer in time: is a PostgreSQL server there?")
    if isinstance(error, OSError):
        numbered = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if numbered else error.strerror
        return DatabaseError(
            f"no PostgreSQL server at {where} ({reason or error}): start it, or correct the URL"
        )
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # a wrong password is one, too
        return DatabaseError(f"{where}: {error}: check user and password, and pg_hba.conf on the server")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return DatabaseError(f"{where}: {error}: create and migrate it first (`-i URL`)")
    return kind(f"{where}: {error}")
