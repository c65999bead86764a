"""What PostgreSQL's absence looks like, translated once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import exc

from aos_operator.boundary import keep_cancellation
from aos_operator.errors import StoreUnavailable


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn what asyncpg and SQLAlchemy raise when the server is away or unwilling into `StoreUnavailable`.

    What they raise for a wrong statement passes: that is our mistake, and no waiting will mend it.
    """
    try:
        yield
        keep_cancellation()
    except (
        OSError,
        exc.TimeoutError,
        exc.OperationalError,
        exc.InterfaceError,
        asyncpg.InterfaceError,
    ) as error:
        raise StoreUnavailable(
            f"PostgreSQL does not answer ({type(error).__name__}): check its service"
        ) from error
    except (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
        raise StoreUnavailable(f"PostgreSQL does not answer ({error}): check its service") from error
    except exc.DBAPIError as error:
        if not (error.connection_invalidated or _passing(error)):
            raise
        raise StoreUnavailable(f"PostgreSQL cannot do this now ({error.orig}): check its service") from error


_PASSING_CLASSES = ("08", "40", "53", "55", "57", "58")
"""SQLSTATE classes that time or an administrator mends: connection, rollback, resources, locks, operator, system."""


def _passing(error: exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in _PASSING_CLASSES or state == "25006"  # a standby that is not promoted yet
