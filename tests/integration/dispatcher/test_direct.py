"""Direct sessions, whole: a real dispatcher, real operators, and the client that `aos chat --direct` is made of."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text
from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aos_cli import direct, ports
from aos_cli.direct import Wanted
from aos_cli.errors import CliError
from aos_dispatcher.app import _StarletteSocket
from aos_dispatcher.hub import Connection
from integration.dispatcher.direct_net import SAID, SECRET, Direct
from support.direct_operators import LocalOperator
from support.operators import MODEL


@pytest_asyncio.fixture
async def net(network: Any) -> AsyncIterator[Direct]:
    network.patient()  # an operator's connection may break, and it may be started again
    running = Direct(network)
    yield running
    for operator in running.operators:
        await operator.close()


async def test_straight_to_an_operator_that_can_be_reached(net: Direct) -> None:
    operator = await net.operator(reachable=True)
    opened = await net.open()
    assert SECRET in await net.read(opened)
    assert opened.way == f"straight to {operator.settings.net.outer_url}"
    await net.hold(opened)
    (ran,) = operator.worker.asked
    assert [turn.content for turn in ran.messages or []] == [SECRET]


async def test_by_way_of_the_dispatcher_to_one_that_cannot(net: Direct) -> None:
    await net.operator()
    opened = await net.open()
    assert opened.session.url is None
    assert SECRET in await net.read(opened)
    assert opened.way.startswith("relayed")
    await net.hold(opened)


@pytest.mark.parametrize("outer", ["closed", "another", "no-address"])
async def test_an_address_where_the_operator_is_not_is_left_for_the_relay(net: Direct, outer: str) -> None:
    with ports.reserve(0) as unheard:
        urls = {
            "closed": f"http://127.0.0.1:{ports.number(unheard)}",
            "another": str(net.network.client.base_url).rstrip("/"),  # a server that is no operator
            "no-address": "http://operator.invalid:7000",
        }
        await net.operator(reachable=True, outer=urls[outer])
        opened = await net.open()
        assert SECRET in await net.read(opened)
        assert opened.way.startswith("relayed")
        await net.hold(opened)


@pytest.mark.parametrize("straight", [True, False])
async def test_neither_prompt_nor_answer_reaches_the_dispatcher_or_lies_anywhere(
    net: Direct, straight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame, every request and answer, every row of both databases and every line of the log is looked at."""
    seen: list[str] = []
    _overhear(monkeypatch, seen)
    operator = await net.operator(reachable=straight)
    with capture_logs() as lines:
        opened = await net.open()
        answer = await net.read(opened)
        await net.hold(opened)
    stored = await _dump(net.network.dispatcher.database)
    kept = repr(operator.store.tasks) + repr(operator.queue.pending)
    everything = "\n".join([*seen, json.dumps(lines, default=repr), stored, kept])
    assert SECRET in answer
    assert opened.bond.commitment in everything  # so something was overheard, stored and kept
    assert opened.job_id in stored
    salts = (opened.prompt.salt, str(opened.opener.ending().salt))
    for secret in ("swallow", "eleven metres", *salts):
        assert not [form for form in _encoded(secret) if form in everything]


def _overhear(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    """Note all that comes to the dispatcher over HTTP and WebSockets."""
    received, heard = HttpToolsProtocol.data_received, _StarletteSocket.receive

    def data_received(self: Any, data: bytes) -> None:
        seen.append(data.decode(errors="replace"))
        received(self, data)

    async def receive(self: Any) -> Any:
        message = await heard(self)
        seen.append(str(message))
        return message

    monkeypatch.setattr(HttpToolsProtocol, "data_received", data_received)
    monkeypatch.setattr(_StarletteSocket, "receive", receive)


def _encoded(secret: str) -> list[str]:
    """A text in the forms in which it could hide: itself, hex, and base64 from each of three places on."""
    raw = secret.encode()
    shifted = [base64.b64encode(bytes(shift) + raw).decode()[4:-4] for shift in range(3)]
    return [secret, raw.hex(), *shifted]


async def _dump(database: Any) -> str:
    dump = ""
    async with database.connect() as connection:
        tables = text("select table_name from information_schema.tables where table_schema = 'public'")
        for (table,) in (await connection.execute(tables)).all():
            rows = await connection.execute(text(f'select cast(t as text) from "{table}" as t'))
            dump += "\n".join(rows.scalars())
    return dump


async def test_the_log_and_the_results_have_the_signed_receipt(net: Direct) -> None:
    operator = await net.operator()
    opened = await net.open()
    await net.read(opened)
    await net.hold(opened)
    (row,) = await net.network.results(opened.job_id)
    assert row["operator"] == operator.signer.address
    assert set(json.loads(row["result"])) == {"prompt", "answer"}
    assert json.loads(row["result"])["prompt"] == opened.bond.commitment
    (round_,) = (await net.network.evidence(opened.job_id))["rounds"]
    assert len(round_["committee"]) == len(round_["results"]) == 1


@pytest.mark.parametrize("straight", [True, False])
async def test_a_client_that_leaves_stops_the_backend_and_the_job_says_so(
    net: Direct, straight: bool
) -> None:
    operator = await net.operator(reachable=straight)
    operator.worker.go.clear()
    opened = await net.open()
    async with net.client() as client, aclosing(direct.answer(client, opened)) as texts:
        assert await anext(texts)
    await asyncio.wait_for(operator.worker.stopped.wait(), 30)
    detail = await net.network.finished(opened.job_id)
    assert detail["status"] in {"failed", "cancelled"}
    assert "the client left before its answer was complete" in detail["reason"]


async def test_a_job_that_its_project_cancels_stops_the_backend_and_tells_the_client(net: Direct) -> None:
    operator = await net.operator(reachable=True)
    operator.worker.go.clear()
    opened = await net.open()
    async with net.client() as client, aclosing(direct.answer(client, opened)) as texts:
        assert await anext(texts)
        assert await client.cancel(opened.job_id) == "cancelled"
        with pytest.raises(CliError, match="the job was cancelled"):
            await anext(texts)
    await asyncio.wait_for(operator.worker.stopped.wait(), 30)


async def test_nobody_comes_and_the_job_ends_with_that(net: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = await net.operator(reachable=True)
    opened = await net.open()
    _time_is_over(operator, monkeypatch)
    detail = await net.network.finished(opened.job_id)
    assert (detail["status"], operator.worker.asked) == ("failed", [])
    assert "the client did not come" in detail["reason"]
    with pytest.raises(CliError, match="the job has ended"):
        await net.read(opened)


async def test_no_other_operator_is_asked_once_the_session_is_given(
    net: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else were drawn would wait for a client that has sealed its prompt to another."""
    operators = [await net.operator() for _ in range(3)]
    opened = await net.open()
    for operator in operators:
        _time_is_over(operator, monkeypatch)
    detail = await net.network.finished(opened.job_id)
    assert detail["status"] == "failed"
    assert [member["operator"] for member in detail["rounds"][0]["members"]] == [opened.session.operator]
    assert sum(len(operator.store.tasks) for operator in operators) == 1


async def test_who_is_lost_before_the_session_is_replaced_by_the_next_of_the_draw(net: Direct) -> None:
    """An operator that does not take the job has no session; the next one has."""
    first, second = [await net.operator() for _ in range(2)]
    _refuse_dispatches(net, first)
    for attempt in range(30):
        opened = await net.open(Wanted(MODEL.name, {}, f"user {attempt}", SAID))
        assert opened.session.operator == second.signer.address
        await net.read(opened)
        detail = await net.network.finished(opened.job_id)
        if len(detail["rounds"][0]["members"]) == 2:
            await net.hold(opened)
            return
    pytest.fail("thirty draws in a row did not begin with the one that refuses")


async def test_an_operator_that_is_restarted_has_another_key_and_the_session_is_void(net: Direct) -> None:
    operator = await net.operator(reachable=True)
    opened = await net.open()
    await operator.crash()
    await operator.start()
    with pytest.raises(CliError):
        await net.read(opened)
    detail = await net.network.finished(opened.job_id)
    assert detail["status"] == "failed"
    assert "restarted" in detail["reason"]
    again = await net.open()
    assert again.session.key != opened.session.key
    assert SECRET in await net.read(again)


async def test_a_connection_that_breaks_and_comes_back_before_the_client_comes_keeps_the_session(
    net: Direct,
) -> None:
    operator = await net.operator()
    opened = await net.open()
    await _break_connection(net, operator)
    assert SECRET in await net.read(opened)
    await net.hold(opened)


async def test_the_receipt_reaches_the_log_although_the_operator_was_away_when_it_answered(
    net: Direct,
) -> None:
    """What goes straight to the client needs no dispatcher; what is signed waits for it."""
    operator = await net.operator(reachable=True)
    operator.worker.go.clear()
    opened = await net.open()
    async with net.client() as client, aclosing(direct.answer(client, opened)) as texts:
        told = [await anext(texts)]
        await _break_connection(net, operator)
        operator.worker.go.set()
        told += [text async for text in texts]
    assert SECRET in "".join(told)
    await net.hold(opened)


async def _break_connection(net: Direct, operator: LocalOperator) -> None:
    """End an operator's connection, and wait until it has come back."""
    connection = net.network.dispatcher.hub.get(operator.signer.address)
    assert isinstance(connection, Connection)
    epoch = connection.epoch
    connection.close()
    async with asyncio.timeout(30):
        while True:
            peer = net.network.dispatcher.hub.get(operator.signer.address)
            if peer is not None and peer.epoch > epoch:
                return
            await asyncio.sleep(0.01)


async def test_an_operator_that_is_stopped_says_that_nobody_had_come(net: Direct) -> None:
    operator = await net.operator()
    opened = await net.open()
    await operator.close()
    detail = await net.network.finished(opened.job_id)
    assert detail["status"] == "failed"
    assert "this operator was stopped before the client came" in detail["reason"]


async def test_a_backend_that_refuses_tells_the_client_why_and_nobody_else(net: Direct) -> None:
    operator = await net.operator()
    operator.worker.refuses = f"I do not speak of {SECRET}"
    opened = await net.open()
    with pytest.raises(CliError, match="I do not speak of The swallow"):
        await net.read(opened)
    detail = await net.network.finished(opened.job_id)
    assert detail["status"] == "failed"
    assert "its client was told why" in detail["reason"]
    assert "swallow" not in json.dumps(detail)


async def test_the_same_key_again_is_the_same_session(net: Direct) -> None:
    await net.operator()
    body = {"user": "u", "model": MODEL.name, "client_key": "ab" * 32, "commitment": "cd" * 32}
    one, two = [await _begin(net, body, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert one.status_code == 200
    assert one.json() == two.json()
    other = await _begin(net, body | {"commitment": "ef" * 32}, **{"Idempotency-Key": "k"})
    assert other.status_code == 409


NO_SESSIONS: list[tuple[dict[str, Any], str]] = [
    ({"client_key": "x"}, "client_key"),
    ({"commitment": None}, "commitment"),
    ({"prompt": "in the open"}, "prompt"),
    ({"params": {"temperature": 9}}, "temperature"),
    ({"model": "other.gguf"}, "no operator has announced"),
    ({"user": 7}, "user"),
]


async def test_what_cannot_be_a_session_is_refused_by_name(net: Direct) -> None:
    await net.operator()
    for change, said in NO_SESSIONS:
        body = {"user": "u", "model": MODEL.name, "client_key": "ab" * 32, "commitment": "cd" * 32} | change
        answer = await _begin(net, {name: value for name, value in body.items() if value is not None})
        assert answer.status_code == 422, change
        assert said in answer.json()["message"], change


async def test_without_an_operator_that_takes_sessions_there_is_none(net: Direct) -> None:
    await net.network.operator()  # connected, and announces nothing direct
    body = {"user": "u", "model": MODEL.name, "client_key": "ab" * 32, "commitment": "cd" * 32}
    answer = await _begin(net, body)
    assert answer.status_code == 409
    assert "takes direct sessions" in answer.json()["message"]


async def test_a_direct_job_is_not_submitted_as_others_are(net: Direct) -> None:
    await net.operator()
    job = {"tag": "opml", "model": MODEL.name, "direct": {"client_key": "ab" * 32, "commitment": "cd" * 32}}
    answer = await net.network.post("/api/job/submit", net.network.body(job=job))
    assert answer.status_code == 422
    assert "POST /api/session" in answer.json()["message"]


async def test_sessions_and_the_relay_need_the_projects_token(net: Direct) -> None:
    await net.operator()
    opened = await net.open()
    stranger = await net.network.project("another")
    body = {"user": "u", "model": MODEL.name, "client_key": "ab" * 32, "commitment": "cd" * 32}
    for headers, code in (({}, 401), ({"Authorization": f"Bearer {stranger}"}, 403)):
        relayed = await net.network.client.post(opened.relay, content=b"box", headers=headers)
        assert relayed.status_code == code
    assert (await net.network.client.post("/api/session", json=body)).status_code == 401


async def test_a_box_that_does_not_open_is_refused_and_the_client_may_still_come(net: Direct) -> None:
    await net.operator()
    opened = await net.open()
    headers = {"Authorization": f"Bearer {net.network.token}"}
    wrong = await net.network.client.post(opened.relay, content=b"\x00" * 100, headers=headers)
    assert wrong.status_code == 422
    assert "does not open" in wrong.json()["message"]
    huge = await net.network.client.post(opened.relay, content=b"\x00" * 40_000, headers=headers)
    assert huge.status_code == 413
    assert SECRET in await net.read(opened)
    again = await net.network.client.post(opened.relay, content=b"\x00" * 100, headers=headers)
    assert again.status_code in {404, 409, 410}


async def test_the_operators_port_takes_nothing_but_prompts_that_it_waits_for(net: Direct) -> None:
    operator = await net.operator(reachable=True)
    async with httpx.AsyncClient(base_url=str(operator.settings.net.outer_url)) as client:
        for path in ("/direct/" + "0" * 64, "/direct/none", "/", "/direct/"):
            for method in ("POST", "GET", "OPTIONS"):
                answer = await client.request(
                    method, path, content=b"x", headers={"Origin": "http://evil.example"}
                )
                assert answer.status_code == 404, (method, path)
                assert answer.json()["code"] == 404
                assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_operators_port_bounds_what_strangers_send(
    net: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await net.operator(reachable=True)
    opened = await net.open()
    url = f"{operator.settings.net.outer_url}/direct/{opened.job_id}"
    async with httpx.AsyncClient() as client:
        assert (await client.post(url, content=b"\x00" * 800_000)).status_code == 413
        assert (await client.post(url, content=b"\x00" * 100)).status_code == 400
        monkeypatch.setattr("aos_operator.direct_http._MOST_AT_ONCE", 0)
        assert (await client.post(url, content=b"\x00" * 100)).status_code == 503
        monkeypatch.setattr("aos_operator.direct_http._MOST_AT_ONCE", 1)
        monkeypatch.setattr("aos_operator.direct_http._BODY_S", 0.05)
    assert operator.settings.net.listen is not None
    reader, writer = await asyncio.open_connection(*operator.settings.net.listen)
    writer.write(f"POST /direct/{opened.job_id} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nx".encode())
    assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 408")
    writer.close()
    monkeypatch.undo()
    assert SECRET in await net.read(opened)


async def test_who_connects_and_says_nothing_is_cut_off(net: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aos_operator.direct_http._HEAD_S", 0.05)
    operator = await net.operator(reachable=True)
    assert operator.settings.net.listen is not None
    reader, writer = await asyncio.open_connection(*operator.settings.net.listen)
    writer.write(b"POST /direct/")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def _begin(net: Direct, body: Any, **headers: str) -> httpx.Response:
    headers["Authorization"] = f"Bearer {net.network.token}"
    return await net.network.client.post("/api/session", json=body, headers=headers)


def _time_is_over(operator: LocalOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the time be over in which clients may come to an operator, which looks at its clock once more."""
    monkeypatch.setattr("aos_operator.direct.time", SimpleNamespace(time=lambda: time.time() + 3600))
    for place in operator.operator._direct._places.values():
        place.came.set()


def _refuse_dispatches(net: Direct, operator: LocalOperator) -> None:
    """Let an operator refuse every job for good, as one whose key the session does not name."""
    peer = net.network.dispatcher.hub.get(operator.signer.address)
    assert peer is not None
    peer.direct = peer.direct.model_copy(update={"key": "ab" * 32}) if peer.direct else None
