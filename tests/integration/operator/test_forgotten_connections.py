"""A network forgets connections without a word: neither end may wait for the other for ever."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio as redis
from sqlalchemy import URL

from aos_operator import runner
from aos_service.database import database_url
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from support.tcp_proxy import Harm, TcpProxy
from unit.operator.world import OPERATOR


class Silent(random.Random):
    """Lets the second of two go: of a connection, the server's end, so that the client's is left with silence."""

    def choice(self, seq: Any) -> Any:
        return seq[1]


def _server(url: URL) -> Any:
    host = url.query.get("host", url.host)
    port = url.port or 5432
    return f"{host}/.s.PGSQL.{port}" if str(host).startswith("/") else (host, port)


@pytest_asyncio.fixture
async def link(configuration: dict[str, Any]) -> AsyncIterator[TcpProxy]:
    """A proxy between the operator and its PostgreSQL."""
    url = database_url(configuration["db"]["pg_db_url"])
    where = _server(url)
    proxy = TcpProxy(Path(where) if isinstance(where, str) else where, Silent())
    await proxy.start()
    through = url.set(
        drivername="postgresql", host="127.0.0.1", port=proxy.port, query={"sslmode": "disable"}
    )
    configuration["db"]["pg_db_url"] = through.render_as_string(hide_password=False)
    yield proxy
    await proxy.stop()


async def test_postgresql_that_is_silent_costs_one_statement_s_time(
    link: TcpProxy,
    dispatcher: FakeDispatcher,
    running: Running,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "_STATEMENT_S", 1.5)  # a busy machine answers, too
    async with running():
        first = dispatcher.world.job()
        await dispatcher.draw(first)
        assert (await dispatcher.dispatch(first))["code"] == 200
        await dispatcher.result_of(first)
        async with redis.from_url(redis_url) as queue:
            while await queue.xlen(f"aos:{OPERATOR.address}:task"):
                await asyncio.sleep(0.01)  # the operator's connections are idle once its queue is empty
        with link.harmed(Harm.HALF_OPEN):
            pass
        second = dispatcher.world.job("after that")
        assert (await dispatcher.dispatch(second))["code"] == 503
        assert (await dispatcher.dispatch(second))["code"] == 200
        await dispatcher.result_of(second)
