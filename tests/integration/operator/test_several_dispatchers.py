"""A dispatcher that is several processes: the operator goes on with the next when one is stopped, or is not there."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from websockets.frames import CloseCode

from aos_operator import backoff
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.test_link import SlowWorker


@pytest_asyncio.fixture
async def other(dispatcher: FakeDispatcher, configuration: dict[str, Any]) -> AsyncIterator[FakeDispatcher]:
    """A second process of the same dispatcher, which knows what the first has sent and seen; the operator knows both."""
    second = FakeDispatcher(dispatcher.world)
    second.sent, second.tickets = dispatcher.sent, dispatcher.tickets
    second.counters = dispatcher.counters
    async with second.serving():
        configuration["net"]["dispatcher_url"] = [dispatcher.url, second.url]
        yield second
        assert second.problems == []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that was made between two attempts; they last no time."""
    made: list[float] = []

    def next_pause(_self: backoff.Backoff) -> float:
        made.append(1.0)
        return 0.0

    monkeypatch.setattr(backoff.Backoff, "next", next_pause)
    return made


async def test_a_process_that_is_stopped_sends_its_operators_to_the_next_at_once(
    running: Running, dispatcher: FakeDispatcher, other: FakeDispatcher, pauses: list[float]
) -> None:
    worker, job = SlowWorker(), dispatcher.world.job()
    async with running(worker):
        await dispatcher.draw(job)
        await dispatcher.dispatch(job)
        await worker.started.wait()
        pauses.clear()
        await dispatcher.drop(CloseCode.SERVICE_RESTART)
        await other.connected.wait()
        assert pauses == []
        worker.go.set()
        await other.result_of(job)
    assert (len(dispatcher.connects), len(other.connects)) == (1, 1)


async def test_when_all_are_being_stopped_it_pauses_between_rounds_of_asking(
    running: Running, dispatcher: FakeDispatcher, other: FakeDispatcher, pauses: list[float]
) -> None:
    """Two that send it away at once would otherwise be asked as fast as a machine can."""
    async with running():
        await dispatcher.connected.wait()
        dispatcher.leaving = other.leaving = True
        pauses.clear()
        with capture_logs() as logs:
            await dispatcher.drop(CloseCode.SERVICE_RESTART)
            while len(pauses) < 4:
                await asyncio.sleep(0)
        away = [entry for entry in logs if entry["event"] == "not connected to the dispatcher"]
        assert len(away) <= len(pauses) + 2
        dispatcher.leaving = False
        await dispatcher.connected.wait()


async def test_one_that_is_not_there_is_passed_over(
    running: Running, dispatcher: FakeDispatcher, other: FakeDispatcher, configuration: dict[str, Any]
) -> None:
    nobody = configuration["net"]["dispatcher_url"][0]
    configuration["net"]["dispatcher_url"] = [nobody.replace(str(dispatcher.port), "1"), other.url]
    async with running():
        await other.run(other.world.job())
    assert dispatcher.connects == []


@pytest.mark.usefixtures("_watchful")
async def test_a_new_offer_is_announced_where_the_operator_is(
    running: Running, dispatcher: FakeDispatcher, other: FakeDispatcher
) -> None:
    worker = SlowWorker()
    async with running(worker):
        await dispatcher.connected.wait()
        worker.serve()
        await dispatcher.reconnected(2)
    assert other.connects == []
