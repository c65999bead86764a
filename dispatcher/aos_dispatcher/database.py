"""PostgreSQL as the rest of the dispatcher sees it: transactions that either work or raise `Unavailable`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Row, TextClause, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from aos_dispatcher import log_pending
from aos_dispatcher.errors import Unavailable

T = TypeVar("T")
R = TypeVar("R")

# These tell of a mistake of ours, which another try would only repeat; everything else tells of a server that is away.
_MISTAKES = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)


class Database:
    """The boundary where SQLAlchemy's and asyncpg's errors are translated, once.

    `recorded` is set whenever a transaction of this process has brought events for the transparency log.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._single = engine.execution_options(
            isolation_level="AUTOCOMMIT"
        )  # saves two of three round trips
        self.recorded = asyncio.Event()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that commits at the end of the block, with the events recorded in it. Raises `Unavailable`."""
        with _translated():
            async with self._engine.begin() as connection:
                log_pending.begin(connection)
                yield connection
                brought = await log_pending.flush(connection)
        if brought:
            self.recorded.set()

    async def write(
        self, statement: TextClause, parameters: Mapping[str, Any], *, records: bool
    ) -> Sequence[Row[Any]]:
        """Run one statement that is a transaction by itself, in one round trip; `records` says that it has events for the log. Raises `Unavailable`."""
        with _translated():
            async with self._single.connect() as connection:
                rows = (await connection.execute(statement, parameters)).all()
        if records:
            self.recorded.set()
        return rows

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for reading, each statement by itself. Raises `Unavailable`."""
        with _translated():
            async with self._single.connect() as connection:
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for reading whose queries all see the same moment. Raises `Unavailable`."""
        with _translated():
            async with self._engine.connect() as connection:
                yield await connection.execution_options(isolation_level="REPEATABLE READ")

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self._engine.dispose()


async def together_or_apart(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
) -> Sequence[R | Exception]:
    """Write items in one transaction, or else each in one of its own, so that one that cannot be written fails alone.

    Returns what `write` does, and in the place of an item that failed its error. Raises `Unavailable`.
    """
    try:
        return await write(items)
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - it is not swallowed: it becomes the outcome of the item that caused it
        if len(items) == 1:
            return [error]
    return [outcome for item in items for outcome in await together_or_apart([item], write)]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _MISTAKES:
        raise
    except (exc.DBAPIError, exc.TimeoutError, OSError, TimeoutError) as error:
        raise Unavailable(f"the database does not answer ({type(error).__name__}); try again") from error
