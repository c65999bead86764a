"""Real servers for tests: embedded ones, or those named by AOS_TEST_DATABASE_URL and AOS_TEST_REDIS_URL.

The user of AOS_TEST_DATABASE_URL must be allowed to create databases; the tests make and drop their own,
named `aos_test_*`. The database number of AOS_TEST_REDIS_URL must be empty: the tests flush it.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
import redis

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_service.database import database_url, migrate

Program: TypeAlias = Literal["dispatcher", "operator"]
NewDatabase: TypeAlias = Callable[[Program | None], Awaitable[str]]

_ROOM_BYTES = 2 << 30  # a write-ahead log may grow to half of it


@pytest.fixture(scope="session")
def server_data() -> Iterator[Path]:
    """A folder for the servers of this run. Not pytest's own: root's PostgreSQL could not enter that."""
    with tempfile.TemporaryDirectory(prefix="aos-test-", dir=_memory()) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def _memory() -> str | None:
    """The memory file system, if it is large enough: cloning a database there takes a fifth of the time."""
    shared_memory = Path("/dev/shm")
    roomy = shared_memory.is_dir() and shutil.disk_usage(shared_memory).free > _ROOM_BYTES
    return str(shared_memory) if roomy and os.access(shared_memory, os.W_OK) else None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_url(server_data: Path) -> AsyncIterator[str]:
    """A PostgreSQL server, by the address of a database on it that tests leave alone."""
    if named := os.environ.get("AOS_TEST_DATABASE_URL"):
        yield named
        return
    async with EmbeddedPostgres(server_data / "postgres", durable=False) as server:
        yield server.url("postgres")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _valkey_url(server_data: Path) -> AsyncIterator[str]:
    if named := os.environ.get("AOS_TEST_REDIS_URL"):
        with redis.Redis.from_url(named) as client:
            if client.dbsize():
                pytest.fail(
                    "AOS_TEST_REDIS_URL names a database that is not empty, and tests flush it: "
                    "name another number"
                )
        yield named
        return
    async with EmbeddedValkey(server_data / "valkey", durable=False) as server:
        yield server.url()


@pytest.fixture
def redis_url(_valkey_url: str) -> Iterator[str]:
    """A Valkey (or Redis) database that is empty when the test starts, by an address that redis-py reads."""
    yield _valkey_url
    with redis.Redis.from_url(_valkey_url) as client:
        client.flushdb()


class _Databases:
    """Makes databases on one server: each program's tables are migrated once, into a template to clone."""

    def __init__(self, server: str, cloning: str = "") -> None:
        self._server = database_url(server)
        self._cloning = cloning
        self._prefix = f"aos_test_{uuid4().hex[:8]}"
        self._templates: dict[Program, str] = {}
        self._count = 0

    async def create(self, program: Program | None) -> str:
        template = await self._template(program) if program else None
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        await self._execute(
            f"CREATE DATABASE {name}" + (f" TEMPLATE {template}{self._cloning}" if template else "")
        )
        return self._address(name)

    async def drop(self, address: str) -> None:
        await self._execute(f"DROP DATABASE IF EXISTS {database_url(address).database} WITH (FORCE)")

    async def drop_templates(self) -> None:
        for name in self._templates.values():
            await self.drop(self._address(name))

    async def _template(self, program: Program) -> str:
        if program not in self._templates:
            name = f"{self._prefix}_{program}"
            await self._execute(f"CREATE DATABASE {name}")
            self._templates[program] = name
            await migrate(database_url(self._address(name)), program)
        return self._templates[program]

    def _address(self, name: str) -> str:
        url = self._server.set(drivername="postgresql", database=name)
        return url.render_as_string(hide_password=False)

    async def _execute(self, statement: str) -> None:
        _, options = self._server.get_dialect()().create_connect_args(self._server)
        connection = await asyncpg.connect(**options)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _databases(postgres_url: str) -> AsyncIterator[_Databases]:
    named = "AOS_TEST_DATABASE_URL" in os.environ
    # Copying files needs checkpoints, which cost next to nothing on a server of ours, and half of the time that a log of all pages takes.
    databases = _Databases(postgres_url, "" if named else " STRATEGY file_copy")
    yield databases
    await databases.drop_templates()


@pytest_asyncio.fixture
async def new_database(_databases: _Databases) -> AsyncIterator[NewDatabase]:
    """Make a fresh database: `await new_database("operator")` has that program's tables, None has none."""
    made: list[str] = []

    async def create(program: Program | None = None) -> str:
        made.append(await _databases.create(program))
        return made[-1]

    yield create
    for address in made:
        await _databases.drop(address)
