"""Which errors of PostgreSQL's clients mean "not now"; the others are mistakes of ours and pass."""

import asyncpg
import pytest
from sqlalchemy import exc

from aos_operator.errors import StoreUnavailable
from aos_operator.store import translated


def wrapped(kind: type[exc.DBAPIError], sqlstate: str | None = None, *, lost: bool = False) -> exc.DBAPIError:
    """An error as SQLAlchemy raises it around one of the driver's."""
    original = Exception("what the server said")
    original.sqlstate = sqlstate  # type: ignore[attr-defined]
    return kind("SELECT 1", None, original, connection_invalidated=lost)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("refused"),
        TimeoutError(),
        exc.TimeoutError("pool exhausted"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.CannotConnectNowError("starting up"),
        wrapped(exc.OperationalError),
        wrapped(exc.InterfaceError),
        wrapped(exc.DBAPIError, lost=True),
        wrapped(exc.DBAPIError, "08006"),
        wrapped(exc.DBAPIError, "40001"),
        wrapped(exc.DBAPIError, "53300"),
        wrapped(exc.DBAPIError, "57P01"),
        wrapped(exc.InternalError, "25006"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
async def test_not_now(error: Exception) -> None:
    with pytest.raises(StoreUnavailable, match="PostgreSQL"):
        async with translated():
            raise error


@pytest.mark.parametrize(
    "error",
    [
        wrapped(exc.ProgrammingError, "42P01"),
        wrapped(exc.IntegrityError, "23505"),
        wrapped(exc.DataError, "22021"),
        KeyError("no such thing"),
    ],
    ids=lambda error: f"{type(error).__name__}",
)
async def test_our_mistake(error: Exception) -> None:
    with pytest.raises(type(error)):
        async with translated():
            raise error
