"""What all commands of `dispatcher` share: the settings file, the database that it names, and how failures are told."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError, Unavailable
from aos_dispatcher.settings import DispatcherSettings
from aos_protocol.errors import ProtocolError
from aos_service.database import create_engine, database_url
from aos_service.errors import ServiceError
from aos_service.settings import load_settings

R = TypeVar("R")
Config = Annotated[
    Path,
    typer.Option(
        "-c", "--config", help="The settings file; docs/template/config-dispatcher.yaml shows all keys."
    ),
]


@contextmanager
def said_plainly() -> Iterator[None]:
    """Turn the errors that a user can mend into one line and exit status 1."""
    try:
        yield
    except (ServiceError, DispatcherError, ProtocolError, Unavailable) as error:
        typer.echo(f"dispatcher: {error}", err=True)
        raise typer.Exit(1) from None


def with_database(config: Path, work: Callable[[Database], Awaitable[R]]) -> R:
    """Do something with the database of a settings file and close it; failures are told as `said_plainly` does."""

    async def use() -> R:
        database = open_database(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    with said_plainly():
        settings = load_settings(config, DispatcherSettings)
        result = asyncio.run(use())
    return result  # noqa: RET504 - a with block may swallow, as far as a type checker knows


def open_database(settings: DispatcherSettings) -> Database:
    """Return the database of these settings; it connects at its first use. Raises `DatabaseError`."""
    database = settings.database
    engine = create_engine(
        database_url(database.url.get_secret_value()),
        pool_min=database.min_connect_pool,
        pool_max=database.max_connect_pool,
        connect_timeout=database.connect_timeout,
        acquire_timeout=database.acquire_timeout,
        statement_timeout=database.statement_timeout,
    )
    return Database(engine)
