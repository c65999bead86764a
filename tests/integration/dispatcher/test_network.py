"""The network as anybody sees it: counted over all processes, read once for everybody, pushed to whoever listens and keeps up."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import websockets
from prometheus_client import REGISTRY
from sqlalchemy import event, text
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection

from aos_dispatcher import network as network_module
from aos_dispatcher.errors import Unavailable
from aos_dispatcher.network_documents import NetworkAnswer, Summary
from aos_protocol.fields import Address
from aos_protocol.messages import DirectOffer, Instance, ServedModel
from integration.dispatcher.several import several
from support.operators import MODEL, SERVED, TOKENS

Network: TypeAlias = Any  # of conftest.py, which is no module to import


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look as often as asked, and push as often as there is something: these tests wait for what is shown."""
    monkeypatch.setattr(network_module, "_FRESH_S", 0.0)
    monkeypatch.setattr(network_module, "_REST", 0)
    monkeypatch.setattr("aos_dispatcher.figures._VERDICTS_EVERY_S", 0.0)
    monkeypatch.setattr("aos_dispatcher.stats._EVERY_S", 0.02)


async def shown(network: Network) -> Any:
    """What anybody is shown, in the documented form."""
    answer = await network.client.get("/api/network/providers")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=1"
    return NetworkAnswer.model_validate(answer.json()).result


async def test_an_empty_network_is_shown_with_its_dispatchers_key(network: Network) -> None:
    empty = await shown(network)
    assert (empty.dispatcher, empty.connected) == (network.signer.address, 0)
    assert empty.server_key == network.signer.public_key[1:].hex()
    assert len(empty.server_key) == 64
    assert empty.tokens_per_second == 0
    assert empty.verdicts.match_rate is None


async def test_who_serves_what_is_shown_with_all_that_was_announced(network: Network) -> None:
    operator = await network.operator(connect=False)
    painter = ServedModel(
        name="painter",
        sha256="2" * 64,
        kinds=[1],
        instances=[Instance(project="art", cid="c0ffee", kind=1)],
    )
    operator.models = [SERVED, painter]
    assert (await operator.connect())["code"] == 200
    (provider,) = (await shown(network)).providers
    assert (provider.address, provider.number) == (operator.signer.address, operator.number)
    assert (provider.standing, provider.direct) == ("good", False)
    first, second = provider.models
    assert (second.name, second.sha256, second.job_type) == (MODEL.name, MODEL.sha256, "opml")
    assert (second.kinds, second.evidence, second.able, second.instances) == (
        [0],
        "fingerprints",
        ["chat"],
        [],
    )
    (instance,) = first.instances
    assert instance.model_dump() == {
        "node_id": operator.signer.address,
        "project": "art",
        "model": "painter",
        "cid": "c0ffee",
        "kind": 1,
    }
    peer = network.dispatcher.hub.get(operator.signer.address)
    peer.direct = DirectOffer(key="0" * 64, url="https://provider.example:8443/secret")
    answer = await network.client.get("/api/network/providers")
    assert answer.json()["result"]["providers"][0]["direct"] is True
    assert "provider.example" not in answer.text


async def test_tokens_and_verdicts_follow_from_finished_jobs(unstarted: Network) -> None:
    network = unstarted
    network.settings = network.settings.model_copy(
        update={"verification": network.settings.verification.model_copy(update={"audit_share": 1.0})}
    )
    await network.start()
    try:
        await network.calibrate()
        await network.project()
        operators = [await network.operator() for _ in range(2)]
        jobs = [await network.submit(user=f"user {n}") for n in range(3)]
        for job_id in jobs:
            assert (await network.finished(job_id))["status"] == "completed"
        seen = await shown(network)
        assert seen.tokens_per_second == round(3 * len(TOKENS) / 60, 2)
        assert sum(each.tokens_per_second for each in seen.providers) == pytest.approx(
            seen.tokens_per_second, abs=0.02
        )
        assert seen.models[0].tokens_per_second == seen.tokens_per_second
        verdicts = seen.verdicts
        assert verdicts.match + verdicts.mismatch + verdicts.inconclusive == 3
        assert sum(each.verdicts.match for each in seen.providers) == verdicts.match
        async with network.dispatcher.database.begin() as connection:
            await connection.execute(text("update results set created_at = now() - interval '61 seconds'"))
            await connection.execute(text("update rounds set finished_at = now() - interval '61 minutes'"))
        later = await shown(network)
        assert (later.tokens_per_second, later.verdicts.match + later.verdicts.inconclusive) == (0, 0)
    finally:
        for operator in operators:
            await operator.close()
        await network.stop()


async def test_jobs_are_counted_while_they_wait_and_while_they_are_worked_on(network: Network) -> None:
    waiting = await network.submit()
    async with asyncio.timeout(30):
        while (await shown(network)).jobs.waiting != 1:
            await asyncio.sleep(0.01)
    operator = await network.operator(connect=False)
    operator.answer = None
    await operator.connect()
    async with asyncio.timeout(30):
        while (await network.detail(waiting))["status"] != "dispatched":
            await asyncio.sleep(0.01)
    seen = await shown(network)
    assert (seen.jobs.waiting, seen.jobs.running) == (0, 1)
    assert (seen.models[0].jobs.running, seen.providers[0].jobs.executing) == (1, 1)


async def test_who_is_suspended_is_shown_so_and_who_has_left_is_not_shown(network: Network) -> None:
    operator, other = await network.operator(), await network.operator()
    async with network.dispatcher.database.begin() as connection:
        statement = "update operators set suspended_at = now() where address = :address"
        await connection.execute(text(statement), {"address": operator.signer.address})
        await connection.execute(text("update counters set value = value + 1 where name = 'registry'"))
    assert [each.standing for each in (await shown(network)).providers] == ["suspended", "good"]
    await other.close()
    async with asyncio.timeout(30):
        while (await shown(network)).connected != 1:
            await asyncio.sleep(0.01)


async def test_however_many_ask_it_is_read_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_FRESH_S", 30.0)
    statements: list[str] = []
    engine = network.dispatcher.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    answers = await asyncio.gather(*(network.client.get("/api/network/providers") for _ in range(40)))
    assert len({answer.content for answer in answers}) == 1
    assert sum("from assignments" in each or "join assignments" in each for each in statements) <= 2
    assert sum("results.created_at" in each for each in statements) == 1


async def test_verdicts_are_counted_more_seldom(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aos_dispatcher.figures._VERDICTS_EVERY_S", 60.0)
    statements: list[str] = []
    engine = network.dispatcher.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(3):
        await shown(network)
    assert sum("results.created_at" in each for each in statements) == 3
    assert sum("finished_at" in each for each in statements) == 1


async def test_what_takes_long_is_read_seldom(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "_REST", 1e9)
    view, clock = network.dispatcher.front.network, asyncio.get_running_loop().time
    began = clock()
    assert await view.snapshot() is await view.snapshot()
    read_again = view._fresh_until - network_module._LONGEST_REST_S
    assert began < read_again <= clock()


async def test_several_processes_show_the_same(new_database: Any, redis_url: str) -> None:
    async with several(await new_database("dispatcher"), redis_url) as two:
        first, second = await two.operator(two.a), await two.operator(two.b)
        await two.networks[0].finished(await two.a.submit())
        a, b = await shown(two.a), await shown(two.b)
        assert a.model_dump(exclude={"as_of"}) == b.model_dump(exclude={"as_of"})
        assert {each.address for each in a.providers} == {first.signer.address, second.signer.address}
        assert a.tokens_per_second == round(len(TOKENS) / 60, 2)


@asynccontextmanager
async def listener(network: Network) -> AsyncIterator[ClientConnection]:
    async with websockets.connect(network.ws + "/stats") as connection:
        yield connection


async def heard(connection: ClientConnection) -> Summary:
    return Summary.model_validate_json(await asyncio.wait_for(connection.recv(), 30))


async def test_listeners_are_told_at_once_and_of_every_change(network: Network) -> None:
    async with listener(network) as one, listener(network) as two:
        assert [(await heard(each)).connected for each in (one, two)] == [0, 0]
        operator: Address = (await network.operator()).signer.address
        for each in (one, two):
            assert [provider.address for provider in (await heard(each)).providers] == [operator]
        with pytest.raises(TimeoutError):  # nothing has changed since
            await asyncio.wait_for(one.recv(), 0.3)
        assert REGISTRY.get_sample_value("aos_stats_listeners") == 2


async def test_all_are_sent_one_text_and_who_comes_late_has_it_at_once(network: Network) -> None:
    async with AsyncExitStack() as stack:
        several_ = [await stack.enter_async_context(listener(network)) for _ in range(5)]
        texts = {await asyncio.wait_for(each.recv(), 30) for each in several_}
        late = await stack.enter_async_context(listener(network))
        texts.add(await asyncio.wait_for(late.recv(), 30))
        assert len(texts) == 1
        assert not {"from", "user", "prompt", "job_id", "as_of"} & set(json.loads(texts.pop()))


async def test_whoever_says_something_is_closed(network: Network) -> None:
    async with listener(network) as one:
        await heard(one)
        await one.send("hello")
        await asyncio.wait_for(one.wait_closed(), 30)
        assert (one.close_code, one.close_reason) == (1008, "nothing is to be sent here")


async def test_there_are_only_so_many_listeners_of_one_address_and_in_all(network: Network) -> None:
    stats = network.dispatcher.front.stats
    stats._most_of_one = 2
    async with listener(network), listener(network):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with listener(network):
                pass
        response = refused.value.response
        assert (response.status_code, response.headers["retry-after"]) == (429, "10")
        assert json.loads(response.body or b"")["limit"] == "address"
        stats._most = 2
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with listener(network):
                pass
        assert json.loads(refused.value.response.body or b"")["limit"] == "listeners"
    async with asyncio.timeout(30):
        while stats._here:
            await asyncio.sleep(0.01)
    async with listener(network) as one:
        await heard(one)


def _narrow(network: Network) -> socket.socket:
    """A connection to the dispatcher whose end keeps little that is not read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    made.connect(("127.0.0.1", network.client.base_url.port))
    made.setblocking(False)
    return made


async def test_a_slow_listener_misses_texts_and_holds_nobody_up(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = "x" * 400_000
    number = 0

    class View:
        async def snapshot(self) -> Any:
            nonlocal number
            number += 1
            return network_module.Snapshot(b"", f"{number} {large}")

    monkeypatch.setattr(network.dispatcher.front.stats, "_view", View())

    def connect(**options: Any) -> Any:
        return websockets.connect(network.ws + "/stats", compression=None, **options)

    async def next_of(connection: ClientConnection) -> int:
        return int((await asyncio.wait_for(connection.recv(), 30)).split()[0])

    # More than the system keeps for a connection whose own end keeps little.
    most = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    async with connect() as quick, connect(max_queue=1, sock=_narrow(network)) as slow:
        seen = [await next_of(quick) for _ in range(10 + most // len(large))]
        assert seen == sorted(set(seen))
        late = [await next_of(slow)]
        while late[-1] <= seen[-1]:
            late.append(await next_of(slow))
        assert late == sorted(set(late))
        assert len(late) < late[-1] - late[0]  # some were never sent


async def test_while_the_database_is_away_listeners_are_kept_and_told_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = network.dispatcher.front.network
    async with listener(network) as one:
        await heard(one)
        away = True
        working = view.snapshot

        async def snapshot() -> Any:
            if away:
                raise Unavailable("for now")
            return await working()

        monkeypatch.setattr(view, "snapshot", snapshot)
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                while "listeners are told nothing" not in {line["event"] for line in logs}:
                    await asyncio.sleep(0.01)
        assert (await network.client.get("/api/network/providers")).status_code == 503
        away = False
        await network.operator()
        assert (await heard(one)).connected == 1


async def test_nothing_is_read_while_nobody_listens(network: Network) -> None:
    async with listener(network) as one:
        await heard(one)
    stats = network.dispatcher.front.stats
    async with asyncio.timeout(30):
        while stats._some_here.is_set():
            await asyncio.sleep(0.01)
    before = network.dispatcher.front.network._last
    await network.operator()
    assert network.dispatcher.front.network._last is before


async def test_places_in_a_queue_are_those_in_which_jobs_came(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos_dispatcher.queue_places.FURTHEST", 3)
    queue = network.dispatcher.front.queue
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(
            text("insert into models (name, job_type, sha256) values ('other', 'opml', :sha256)"),
            {"sha256": "2" * 64},
        )
    jobs = [await network.submit(user=f"user {n}") for n in range(2)]
    other = await network.submit(job=network.body()["job"] | {"model": "other"})
    name = MODEL.name
    assert [await queue.of("opml", name, job_id) for job_id in [*jobs, other]] == [1, 2, None]
    assert await queue.of("opml", "other", other) == 1
    queue._places = type(queue._places)(0.0, 9)  # nothing is remembered
    jobs += [await network.submit(user="more") for _ in range(4)]
    assert [await queue.of("opml", name, job_id) for job_id in jobs] == [1, 2, 3, 3, 3, 3]
    assert await queue.length("opml", name) == 3
    bearer = {"Authorization": f"Bearer {network.token}"}
    await network.post("/api/job/cancel", {"job_id": jobs[0]}, headers=bearer)
    assert [await queue.of("opml", name, job_id) for job_id in jobs[1:4]] == [1, 2, 3]


async def test_places_are_read_once_a_second_however_many_wait(network: Network) -> None:
    job_id = await network.submit()
    statements: list[str] = []
    engine = network.dispatcher.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    queue = network.dispatcher.front.queue
    await asyncio.gather(*(queue.of("opml", MODEL.name, job_id) for _ in range(200)))
    assert sum("select job_id from rounds" in each for each in statements) == 1
