"""Streams through several dispatchers over one PostgreSQL and one Valkey: the client at one, the round led by another, the operator at a third."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from aos_cli.embedded import EmbeddedValkey
from aos_dispatcher.following import Answered, Broken, Piece
from integration.dispatcher.several import QUICK_S, Several, several
from integration.dispatcher.test_streaming import ANSWER, Reader, answer, streamed_body, told
from support.operators import ScriptedOperator


@pytest_asyncio.fixture
async def three(new_database: Any, redis_url: str) -> AsyncIterator[Several]:
    async with several(await new_database("dispatcher"), redis_url, count=3) as running:
        yield running


async def begin(three: Several, *operators: ScriptedOperator) -> tuple[Reader, ScriptedOperator]:
    """Submit a streamed job at `a`, which leads no rounds, so that `b` does; the operators are where they are."""
    for operator in operators:
        operator.answer = None
    for network in three.running:
        if network is not three.b:
            await network.dispatcher.loop.stop()
    said = await three.a.client.post("/api/job/submit", json=streamed_body(three.a))
    assert said.status_code == 200, said.text
    reader = Reader(three.a, said.json()["result"])
    await three.until(lambda: any(operator.dispatched for operator in operators))
    assert list(three.b.dispatcher.loop._held)
    return reader, next(operator for operator in operators if operator.dispatched)


async def test_text_reaches_the_client_by_way_of_the_leader(three: Several) -> None:
    c = three.networks[2]
    reader, operator = await begin(three, await three.operator(c))
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await operator.send(told(operator, {"start": 3, "text": " two"}).text)
    await reader.has("one two")
    await answer(operator)
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == ANSWER


async def test_an_operator_that_moves_in_mid_stream_goes_on_where_it_was(three: Several) -> None:
    """It tells all it has once more, from the start; what was given out already is not given out again."""
    reader, operator = await begin(three, await three.operator(three.networks[2]))
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await three.move(operator, three.b)
    await operator.send(told(operator, {"start": 0, "text": "one two"}).text)
    await reader.has("one two")
    await answer(operator)
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == ANSWER


async def test_an_executor_that_is_lost_breaks_the_stream_wherever_the_client_is(three: Several) -> None:
    c = three.networks[2]
    reader, lost = await begin(three, await three.operator(c), await three.operator(c))
    await lost.send(told(lost, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await lost.close()
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert "was given up" in end.reason
    detail = await three.b.finished(reader.job_id)
    assert (detail["status"], detail["reason"]) == ("failed", end.reason)


async def test_a_client_that_leaves_stops_an_operator_elsewhere(three: Several) -> None:
    reader, operator = await begin(three, await three.operator(three.networks[2]))
    await three.a.dispatcher.following.abandon(reader.job_id, "its client has left", failed=False)
    await operator.wait(lambda: bool(operator.cancelled))
    assert await reader.ended() == Broken("its client has left", 409)


async def test_without_redis_the_database_is_looked_at(new_database: Any, server_data: Path) -> None:
    """What the leader tells of the stream and of its end is lost; the answer is found all the same."""
    async with (
        EmbeddedValkey(server_data / "valkey-streams", durable=False) as valkey,
        several(await new_database("dispatcher"), valkey.url(), heartbeat=QUICK_S) as two,
    ):
        reader, operator = await begin(two, await two.operator(two.b))
        await valkey.stop()
        await two.until(lambda: len(two.a.dispatcher.hub) == 0)
        await operator.send(told(operator, {"start": 0, "text": "one"}).text)
        await answer(operator)
        assert isinstance(await reader.ended(), Answered)
        assert [news for news in reader.news if isinstance(news, Piece)] == [Piece(ANSWER)]
        await valkey.start()


async def test_the_next_leader_goes_on_with_the_stream(three: Several) -> None:
    reader, operator = await begin(three, await three.operator(three.networks[2]))
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    three.networks[2].dispatcher.loop._stopped = False
    await three.b.stop()
    await three.until(lambda: bool(three.networks[2].dispatcher.loop._held))
    await operator.wait(lambda: len(operator.dispatched) > 1)
    await operator.send(told(operator, {"start": 3, "text": " two"}).text)
    await reader.has("one two")
    await answer(operator)
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == ANSWER
