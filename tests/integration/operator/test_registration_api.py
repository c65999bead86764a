"""The registration port as DBC's document has it: requests and answers to the letter, and only from this machine's programs."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aos_operator.errors import StartError
from aos_operator.registration_api import MOST_BYTES, create_app
from aos_operator.registration_server import listening
from integration.operator.test_registration import KEY, World

OK = {"code": 0, "message": "ok"}
MODEL = {
    "project": "DecentralGPT",
    "model": "Llama3-70B",
    "api": "http://127.0.0.1:1042/v1/chat/completions",
    "type": 0,
    "cid": "d15c4007271b",
}
"""The document's own bodies."""
UNREGISTER = {"project": "DecentralGPT", "model": "Llama3-70B", "cid": "d15c4007271b"}
PROJECT = {
    "project": "DecentralGPT",
    "models": [{name: MODEL[name] for name in ("model", "api", "type", "cid")}],
}


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client on the loopback, without a server between it and the application."""
    async with world.node() as node:
        transport = httpx.ASGITransport(create_app(node), client=("127.0.0.1", 40_000))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:6000/api/v0/ai"
        ) as client:
            yield client


async def said(client: httpx.AsyncClient, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and body of an answer, whose code is 0 or its status."""
    response = await client.post(path, content=json.dumps(body), headers=headers)
    answer = response.json()
    assert set(answer) == {"code", "message"}
    assert answer["code"] == (0 if response.status_code == 200 else response.status_code)
    return response.status_code, answer


async def test_the_documents_own_requests(client: httpx.AsyncClient, world: World) -> None:
    assert await said(client, "/model/register", MODEL) == (200, OK)
    await world.until(KEY)
    assert await said(client, "/model/unregister", UNREGISTER) == (200, OK)
    assert world.pool == {}
    assert await said(client, "/project/register", PROJECT) == (200, OK)
    await world.until(KEY)
    assert await said(client, "/project/unregister", {"project": "DecentralGPT"}) == (200, OK)
    assert world.pool == {}


async def test_the_type_is_0_and_the_container_none_where_nothing_is_said(
    client: httpx.AsyncClient, world: World
) -> None:
    short = {name: MODEL[name] for name in ("project", "model", "api")}
    assert await said(client, "/model/register", short) == (200, OK)
    await world.until(KEY._replace(cid=""))
    assert world.made[0][0].kind == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"project": None}, "project"),
        ({"project": ""}, "project"),
        ({"model": "x" * 257}, "model"),
        ({"model": "nul\0"}, "U\\+0000"),
        ({"api": "x" * 1025}, "api"),
        ({"api": "http://198.51.100.1:1042/v1/chat/completions"}, "same machine"),
        ({"api": "http://127.0.0.1:1042/v1/images/edits"}, "must end with /chat/completions"),
        ({"type": 3}, "type"),
        ({"type": "0"}, "type"),
        ({"type": True}, "type"),
        ({"cid": 7}, "cid"),
        ({"cid": "x" * 129}, "cid"),
        ({"port": 1042}, "port: Extra inputs"),
    ],
)
async def test_what_cannot_be_meant_is_said(
    client: httpx.AsyncClient, world: World, changed: dict[str, Any], message: str
) -> None:
    status, answer = await said(client, "/model/register", {**MODEL, **changed})
    assert status == 400
    assert re.search(message, answer["message"])
    assert world.store.kept == {}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
async def test_a_body_must_be_a_json_object(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/model/register", content=body)
    assert response.status_code == response.json()["code"] == 400


async def test_a_body_is_bounded(client: httpx.AsyncClient) -> None:
    response = await client.post("/model/register", content=b"x" * (MOST_BYTES + 1))
    assert response.status_code == response.json()["code"] == 413


async def test_unregistering_what_is_not_there_is_said(client: httpx.AsyncClient) -> None:
    for path, body in (("/model/unregister", UNREGISTER), ("/project/unregister", {"project": "p"})):
        status, answer = await said(client, path, body)
        assert status == 404
        assert "not registered" in answer["message"]


async def test_a_store_that_is_away_is_said(client: httpx.AsyncClient, world: World) -> None:
    world.store.away = True
    assert (await said(client, "/model/register", MODEL))[0] == 503


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "attacker.example"},
        {"host": "attacker.example:6000"},
        {"host": "127.0.0.1.attacker.example:6000"},
        {"host": ""},
        {"origin": "http://127.0.0.1:6000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
    ],
)
async def test_pages_in_browsers_register_nothing(
    client: httpx.AsyncClient, world: World, headers: dict[str, str]
) -> None:
    """Also by DNS rebinding: then the Host header is the attacker's name."""
    status, _ = await said(client, "/model/register", MODEL, **headers)
    assert status == 403
    assert world.store.kept == {}


@pytest.mark.parametrize("host", ["localhost", "localhost:6000", "127.0.0.1:6000", "[::1]:6000"])
async def test_this_machine_has_several_names(client: httpx.AsyncClient, host: str) -> None:
    assert await said(client, "/model/register", MODEL, host=host) == (200, OK)


async def test_other_machines_register_nothing(world: World) -> None:
    async with world.node() as node:
        transport = httpx.ASGITransport(create_app(node), client=("198.51.100.7", 40_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:6000") as client:
            assert (await said(client, "/api/v0/ai/model/register", MODEL))[0] == 403


async def test_the_port_is_open_on_the_loopback_only(world: World) -> None:
    async with world.node() as node, listening(node, 0) as port:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v0/ai", trust_env=False
        ) as client:
            assert await said(client, "/model/register", MODEL) == (200, OK)
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", port))  # free: the port is taken on 127.0.0.1 alone
        with pytest.raises(StartError, match=f"port {port} of 127.0.0.1"):
            async with listening(node, port):
                pytest.fail("it was opened twice")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/model/register"), ("POST", "/model"), ("POST", "/models")]
)
async def test_what_is_not_there_says_what_is(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    assert response.json()["code"] == 404
    assert "/api/v0/ai/model/register" in response.json()["message"]


async def test_many_at_once_are_all_registered(client: httpx.AsyncClient, world: World) -> None:
    keys = [KEY._replace(cid=f"cid{number}") for number in range(16)]
    answers = await asyncio.gather(
        *(said(client, "/model/register", {**MODEL, "cid": key.cid}) for key in keys)
    )
    assert answers == [(200, OK)] * 16
    await world.until(*keys)
