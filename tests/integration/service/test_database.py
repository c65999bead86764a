import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_service import database
from aos_service.database import create_engine, current_revision, database_url, ensure_database
from aos_service.errors import DatabaseError

NewDatabase = Callable[[None], Awaitable[str]]


@pytest.fixture
async def url(new_database: NewDatabase) -> URL:
    return database_url(await new_database(None))


def engine_of(url: URL, pool_max: int = 2, acquire_timeout: float = 5) -> AsyncEngine:
    return create_engine(
        url, pool_min=1, pool_max=pool_max, connect_timeout=5, acquire_timeout=acquire_timeout
    )


async def run(url: URL, statement: str) -> None:
    """Run one statement outside a transaction."""
    connection = await asyncpg.connect(**url.get_dialect()().create_connect_args(url)[1])
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_an_engine_runs_statements_in_utc_without_jit(url: URL) -> None:
    engine = engine_of(url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SHOW timezone"))).scalar() == "UTC"
        assert (await connection.execute(text("SHOW jit"))).scalar() == "off"
    await engine.dispose()


async def test_a_full_pool_makes_callers_wait_and_then_says_so(url: URL) -> None:
    engine = engine_of(url, pool_max=2, acquire_timeout=0.05)
    async with engine.connect(), engine.connect():
        with pytest.raises(PoolTimeoutError):
            await engine.connect()
    async with engine.connect():
        pass
    await engine.dispose()


async def end_connections(url: URL) -> None:
    await run(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()",
    )


async def test_idle_connections_that_the_server_closed_cost_no_error(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await end_connections(url)
    monkeypatch.setattr(database, "_PING_AFTER_IDLE_S", 0.0)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()


async def test_busy_connections_are_not_pinged(url: URL) -> None:
    engine = engine_of(url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await end_connections(url)
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1"))
    await engine.dispose()


async def test_a_statement_without_an_answer_in_time_costs_its_connection_at_once(url: URL) -> None:
    """No rollback is sent after it: the server that did not answer would not answer that either."""
    engine = create_engine(
        url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20, statement_timeout=1.0
    )
    async with engine.connect() as connection:
        await connection.execute(text("SET statement_timeout = 0"))  # the server is silent, then
        driver = (await connection.get_raw_connection()).driver_connection
        with pytest.raises(TimeoutError):
            await connection.execute(text("SELECT pg_sleep(30)"))
        assert connection.invalidated
        assert driver is not None
        assert driver.is_closed()
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()


async def test_errors_do_not_show_parameters(url: URL) -> None:
    engine = engine_of(url)
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("SELECT 1 / (length(:token) - 8)"), {"token": "5cff9c0e"})
    assert "5cff9c0e" not in str(caught.value)
    await engine.dispose()


@pytest.fixture
async def missing(url: URL) -> URL:
    """The address of a database that does not exist; its name needs quoting."""
    return url.set(database=f"{url.database} \"new\" 'one'")


async def drop(missing: URL, server: URL) -> None:
    quoted = str(missing.database).replace('"', '""')
    await run(server, f'DROP DATABASE "{quoted}"')


async def test_a_missing_database_is_created_once(url: URL, missing: URL) -> None:
    assert await ensure_database(missing) is True
    await run(missing, "CREATE TABLE precious (id int)")
    assert await ensure_database(missing) is False
    await run(missing, "INSERT INTO precious VALUES (1)")
    await drop(missing, url)


async def test_two_processes_may_create_it_at_once(url: URL, missing: URL) -> None:
    created = await asyncio.gather(*(ensure_database(missing) for _ in range(4)))
    assert sorted(created) == [False, False, False, True]
    await drop(missing, url)


async def test_a_user_who_may_not_create_databases_is_told_what_to_run(url: URL, missing: URL) -> None:
    role = f"aos_test_{uuid4().hex[:8]}"
    await run(url, f"CREATE ROLE {role} LOGIN PASSWORD '5cff9c0e'")
    try:
        with pytest.raises(DatabaseError) as caught:
            await ensure_database(missing.set(username=role, password="5cff9c0e"))
    finally:
        await run(url, f"DROP ROLE {role}")
    assert f"user {role} may not create it" in str(caught.value)
    assert f"createdb -O {role}" in str(caught.value)
    assert "5cff9c0e" not in str(caught.value)


async def test_a_database_that_does_not_exist(missing: URL) -> None:
    with pytest.raises(DatabaseError, match=r"does not exist: create and migrate it first"):
        await current_revision(missing)


async def test_a_user_who_does_not_exist(url: URL) -> None:
    with pytest.raises(DatabaseError, match="check user and password") as caught:
        await ensure_database(url.set(username="aos_test_nobody", password="5cff9c0e"))
    assert "5cff9c0e" not in str(caught.value)


async def test_no_server_at_the_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            DatabaseError, match=r"no PostgreSQL server at .*refused.*: start it, or correct the URL"
        ):
            await ensure_database(database_url(f"postgres://u:5cff9c0e@127.0.0.1:{port}/name"))


async def test_no_server_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"no PostgreSQL server at .*No such file or directory"):
        await ensure_database(database_url(f"postgres://u@/name?host={tmp_path}"))


async def test_a_host_that_does_not_resolve() -> None:
    with pytest.raises(DatabaseError, match=r"no PostgreSQL server at postgresql://u@db\.invalid/name"):
        await ensure_database(database_url("postgres://u@db.invalid/name"))
