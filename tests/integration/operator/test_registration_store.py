"""What the memory of registered models promises: the one on PostgreSQL, and the one in an SQLite file."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from aos_operator.embedded import opened
from aos_operator.embedded_instances import SqliteInstances
from aos_operator.errors import StoreUnavailable
from aos_operator.registration_postgres import PostgresInstances
from aos_operator.registration_store import InstanceKey, InstanceStore, Registered
from aos_service.database import create_engine, database_url
from unit.operator.world import OPERATOR

KEY = InstanceKey("DecentralGPT", "Llama3-70B é💡", "d15c4007271b")
ONE = Registered(KEY, "http://127.0.0.1:1042/v1/chat/completions", 0)


@pytest_asyncio.fixture
async def postgres(
    new_database: Callable[[Literal["operator"]], Awaitable[str]],
) -> AsyncIterator[PostgresInstances]:
    url = database_url(await new_database("operator"))
    engine = create_engine(url, pool_min=1, pool_max=2, connect_timeout=20, acquire_timeout=20)
    other = PostgresInstances(engine, "0x" + "99" * 20)
    await other.keep_instances([ONE])
    yield PostgresInstances(engine, OPERATOR.address)
    assert await other.instances() == [ONE]  # operators that share a database do not meet
    await engine.dispose()


@pytest_asyncio.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteInstances]:
    async with opened(tmp_path / "memory.sqlite", OPERATOR.address) as file:
        yield SqliteInstances(file)


@pytest.fixture(params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest) -> InstanceStore:
    return request.getfixturevalue(request.param)


async def test_what_was_kept_comes_back(store: InstanceStore) -> None:
    others = [Registered(KEY._replace(cid=cid), ONE.api, 1) for cid in ("", "x")]
    await store.keep_instances([ONE, *others])
    assert {one.key: one for one in await store.instances()} == {one.key: one for one in [ONE, *others]}


async def test_what_is_kept_again_is_updated(store: InstanceStore) -> None:
    moved = Registered(KEY, "http://127.0.0.1:2000/v1/images/edits", 2)
    await store.keep_instances([ONE])
    await store.keep_instances([moved])
    assert await store.instances() == [moved]


async def test_what_was_dropped_is_gone_and_nothing_else(store: InstanceStore) -> None:
    other = Registered(KEY._replace(project="other"), ONE.api, 0)
    await store.keep_instances([ONE, other])
    await store.drop_instances([KEY, KEY._replace(cid="never there")])
    assert await store.instances() == [other]


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    url = database_url("postgres://nobody@127.0.0.1:1/none")
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    store = PostgresInstances(engine, OPERATOR.address)
    for attempt in (store.instances(), store.keep_instances([ONE]), store.drop_instances([KEY])):
        with pytest.raises(StoreUnavailable):
            await attempt
