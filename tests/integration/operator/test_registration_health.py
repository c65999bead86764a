"""Whether a registered model is there: by its list of models if it has one, else by its answering at all."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from aos_operator.registration_health import HttpProbe, probe_client
from aos_operator.registration_place import Place

OPENAI = {"object": "list", "data": [{"id": "Llama3-8B", "object": "model"}, {"id": "Qwen1.5-110B"}]}
DBC = {
    "project": "DecentralGPT",
    "data": [{"model": "Llama3-8B", "url": "http://127.0.0.1:1088/v1/chat/completions"}],
}


@asynccontextmanager
async def answering(content: bytes | None) -> AsyncIterator[Place]:
    """A server that answers this to whatever comes, byte by byte; with None, it takes connections and says nothing."""
    talks: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        await reader.readuntil(b"\r\n\r\n")
        if content is None:
            await reader.read()  # until the client gives up
        else:
            writer.write(content)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    async with server:
        yield Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    await asyncio.gather(*talks)


def http(status: int, body: object = None, **headers: str) -> bytes:
    text = b"" if body is None else json.dumps(body).encode()
    head = {"content-length": str(len(text)), "connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + text


async def problem(content: bytes | None, model: str = "Llama3-8B") -> str:
    async with answering(content) as place, probe_client() as client:
        return await HttpProbe(client).problem(place, model)


@pytest.mark.parametrize(
    "content",
    [
        http(200, OPENAI),
        http(200, DBC),
        http(200, {"data": []}),
        http(200, {"models": "none of ours"}),
        http(200, [1, 2]),
        http(200, {"data": [{"id": 7}, None, "x"]}),
        http(200, "x" * (2 << 20)),
        http(404, {"code": 404}),
        http(401, {"error": "a key, please"}),
        http(405),
    ],
)
async def test_it_is_there(content: bytes) -> None:
    assert await problem(content) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (http(200, DBC), "serves Llama3-8B, and not SuperImage"),
        (http(500), "answers 500"),
        (http(503), "answers 503"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks no HTTP"),
        (b"", "speaks no HTTP"),
    ],
)
async def test_it_is_not_there(content: bytes, said: str) -> None:
    assert said in await problem(content, "SuperImage")


async def test_one_that_is_sent_on_is_not_followed() -> None:
    """The address that it names may be anybody's."""
    async with answering(http(200, DBC)) as elsewhere:
        assert await problem(http(302, location=elsewhere.models), "SuperImage") == ""


async def test_one_that_is_too_busy_to_answer_is_there() -> None:
    timeout = httpx.Timeout(5, read=0.05)
    async with answering(None) as place, httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
        assert await HttpProbe(client).problem(place, "Llama3-8B") == ""


async def test_a_closed_port_is_nobody() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = Place(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        async with probe_client() as client:
            assert "nothing answers" in await HttpProbe(client).problem(place, "Llama3-8B")
