"""A dispatcher that is told to stop: what it says, to whom, what it gives back, and that it ends in time."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosedError

from aos_dispatcher import draining
from aos_dispatcher.operators import register_operator
from aos_protocol.identity import Signer
from aos_service.database import create_engine, database_url
from integration.dispatcher.conftest import Network
from integration.dispatcher.processes import OneDispatcher, one_dispatcher
from support.operators import ScriptedOperator

DRAIN_S = 60.0
"""Longer than a test runs: the signal that comes again ends it."""
RESTART = 1012


@pytest_asyncio.fixture
async def alone(tmp_path: Path, new_database: Any) -> AsyncIterator[OneDispatcher]:
    """A dispatcher of one process, without Redis."""
    async with one_dispatcher(
        tmp_path, await new_database("dispatcher"), None, count=1, drain=DRAIN_S, away=60
    ) as running:
        yield running
        if running.children[0].returncode is None:
            await running.kill(0)  # it would drain


async def connected(dispatcher: OneDispatcher, signer: Signer | None = None) -> ScriptedOperator:
    operator = ScriptedOperator(signer or Signer.generate(), dispatcher.sockets[0])
    await register_operator(dispatcher.database, operator.signer.address)
    assert (await operator.connect())["code"] == 200
    return operator


async def leases(dispatcher: OneDispatcher) -> list[str | None]:
    """Who leads each open round."""
    query = "select lease_owner from rounds where status in ('created', 'dispatched')"
    async with dispatcher.database.connect() as connection:
        return list((await connection.execute(text(query))).scalars())


async def test_what_is_at_work_is_given_back_and_all_are_told(alone: OneDispatcher) -> None:
    operator = await connected(alone)
    operator.answer = None
    job_id = await alone.submit(0)
    await operator.wait(lambda: bool(operator.dispatched))
    assert None not in await leases(alone)
    alone.signal(0, signal.SIGTERM)
    # The operator is sent elsewhere, and its round belongs to nobody by then.
    assert "being stopped" in await operator.closed()
    assert operator._socket is not None
    assert operator._socket.close_code == RESTART
    assert await leases(alone) == [None]
    # Balancers learn of it; whoever comes all the same is served, on a connection that is not to be used again.
    ready = await alone.client.get(alone.urls[0] + "/readyz")
    assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
    assert ready.json()["message"].startswith("draining")
    answer = await alone.client.post(alone.urls[0] + "/api/job/submit", json=alone.body(user="late"))
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert await leases(alone) == [None, None]
    # New operators are sent away before anything is asked of them.
    late = ScriptedOperator(Signer.generate(), alone.sockets[0])
    with pytest.raises(ConnectionClosedError) as sent_away:
        await late.connect()
    assert sent_away.value.rcvd is not None
    assert sent_away.value.rcvd.code == RESTART
    alone.signal(0, signal.SIGTERM)
    await alone.children[0].until_ended()
    log = alone.log(0)
    assert '"rounds": 1, "operators": 1, "event": "draining begins"' in log
    assert "draining: requests are served for" in log
    assert "draining ends: no more requests are taken" in log
    # Nothing is lost: the next process takes both up where they were left.
    await operator.close()
    await alone.start(0)
    again = await connected(alone, operator.signer)
    for job in (job_id, answer.json()["result"]):
        assert (await alone.ended(0, job))["status"] == "completed"
    assert len(again.dispatched) == 2
    await again.close()
    await late.close()


async def test_a_request_that_is_under_way_is_answered(alone: OneDispatcher) -> None:
    """One whose body is still coming when the time is over is waited for, for some seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(alone.urls[0].rpartition(":")[2]))
    writer.write(b"POST /api/job/result HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
    await writer.drain()
    alone.signal(0, signal.SIGTERM)
    await alone.said(0, "draining: requests are served for")
    alone.signal(0, signal.SIGTERM)
    await alone.said(0, "draining ends")
    writer.write(b"{}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 422")
    writer.close()
    await alone.children[0].until_ended()


async def test_a_database_that_hangs_does_not_keep_it_from_ending(
    unstarted: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then leases run out by themselves."""
    monkeypatch.setattr(draining, "_HAND_OVER_S", 0.2)
    await unstarted.start()
    engine = create_engine(
        database_url(unstarted.settings.database.url.get_secret_value()),
        pool_min=1,
        pool_max=1,
        connect_timeout=20,
        acquire_timeout=20,
    )
    with capture_logs() as logs:
        async with engine.begin() as connection:
            await connection.execute(text("lock table rounds in access exclusive mode"))
            await unstarted.stop()
    await engine.dispose()
    said = [entry for entry in logs if entry["event"].startswith("leases not released")]
    assert [entry["why"] for entry in said] == ["no answer in time"]
