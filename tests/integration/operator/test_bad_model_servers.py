"""Servers that answer what they should not: whatever it is, the job ends with a reason, in bounded time and memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aos_operator.backends.chunks import MAX_TEXT_BYTES
from aos_operator.backends.dialects import DIALECTS, Source
from aos_operator.backends.lines import MAX_LINE_BYTES
from aos_operator.backends.text import TextBackend
from aos_operator.backends.upstream import MAX_BODY_BYTES
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_protocol.job import JobSpec
from integration.operator.model_servers import FakeServer

OPEN = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
SEED, PROVER = "ab" * 32, "0x" + "11" * 20
LISTS = {
    "/v1/models": b'{"data": [{"id": "m"}]}',
    "/api/version": b'{"version": "1"}',
    "/api/tags": b'{"models": [{"name": "m"}]}',
    "/props": b'{"build_info": "b1"}',
}


class BadServer(FakeServer):
    """Lists its one model as it should, and answers a job with these bytes and the end of the connection."""

    def __init__(self, *said: bytes) -> None:
        super().__init__()
        self.said = said
        self.override = {path: (200, body) for path, body in LISTS.items()}
        self.override["/infill"] = (501, b"")
        self.hold = asyncio.Event()
        self.hold.set()

    async def _answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path in self.override:
            await super()._answer(path, reader, writer)
            return
        writer.write(OPEN)
        for part in self.said:
            writer.write(part)
            await writer.drain()
        await self.hold.wait()


@asynccontextmanager
async def backend_of(
    server: BadServer,
    kind: str = "openai",
    timeout: float = 30,  # noqa: ASYNC109 (a setting)
) -> AsyncIterator[TextBackend]:
    async with server.serving():
        backend = TextBackend(Source(kind=kind, url=server.url, timeout=timeout))
        try:
            await backend.models()
            yield backend
        finally:
            await backend.close()


async def run(backend: TextBackend, told: list[str] | None = None) -> dict[str, Any]:
    heard = [] if told is None else told
    job = JobSpec(tag="opml", prompt="x", model="m")
    return await backend.generate(job, SEED, PROVER, hear=lambda piece: heard.append(piece.text))  # type: ignore[union-attr]


def event(said: bytes) -> bytes:
    return b"data: " + said + b"\n\n"


PIECE = {
    "openai": event(b'{"choices": [{"index": 0, "text": "Fire"}]}'),
    "ollama": b'{"response": "Fire", "done": false}\n',
    "llamacpp": event(b'{"content": "Fire", "tokens": [5], "stop": false}'),
}
WRONG = {
    "no JSON": b"data: {\n\n{\n\n",
    "an array": event(b"[]") + b"[]\n\n",
    "a number for a text": event(b'{"choices": [{"text": 5}], "content": 5}') + b'{"response": 5}\n',
    "an object for a list": event(b'{"choices": {}, "content": {}}') + b'{"response": {}}\n',
    "no finite number": event(b'{"choices": [{"text": NaN}], "content": NaN}') + b'{"response": NaN}\n',
    "half a surrogate pair": event(b'{"choices": [{"text": "\\ud83d"}], "content": "\\ud83d"}')
    + b'{"response": "\\ud83d"}\n',
    "U+0000": event(b'{"choices": [{"text": "\\u0000"}], "content": "\\u0000"}')
    + b'{"response": "\\u0000"}\n',
    "depth": event(b'{"choices":' + b"[" * 500 + b"]" * 500 + b"}") + b"[" * 500 + b"\n",
    "no UTF-8": b'data: {"choices": [{"text": "\xff"}]}\n\n\xff\n',
    "a strange end": event(
        b'{"choices": [{"finish_reason": "content_filter"}], "stop": true, "stop_type": "?"}'
    )
    + b'{"response": "", "done": true, "done_reason": "load"}\n',
}


@pytest.mark.parametrize("kind", PIECE)
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_what_cannot_be_an_answer_is_refused_after_what_was_told(kind: str, wrong: bytes) -> None:
    async with backend_of(BadServer(PIECE[kind], wrong), kind) as backend:
        told: list[str] = []
        with pytest.raises(WorkerRefused):
            await run(backend, told)
        assert told == ["Fire"]


@pytest.mark.parametrize("kind", PIECE)
async def test_a_server_that_ends_in_the_middle_and_is_there_again_is_at_fault(kind: str) -> None:
    async with backend_of(BadServer(PIECE[kind]), kind) as backend:
        with pytest.raises(WorkerRefused, match="answers again: its log says"):
            await run(backend)


@pytest.mark.parametrize("kind", PIECE)
async def test_one_that_is_gone_then_is_waited_for(kind: str) -> None:
    server = BadServer(PIECE[kind])
    async with backend_of(server, kind) as backend:
        server.override |= dict.fromkeys(LISTS, (502, b""))
        with pytest.raises(WorkerUnavailable, match="ended"):
            await run(backend)


@pytest.mark.parametrize("kind", PIECE)
@pytest.mark.parametrize(
    "error",
    [
        b'{"error": {"message": "out of memory", "code": 500}}',
        b'{"error": "out of memory"}',
        b'{"error": {"message": "out of memory"}, "choices": []}',
    ],
)
async def test_an_error_in_the_middle_is_told_in_the_servers_words(kind: str, error: bytes) -> None:
    for sent in (event(error), error + b"\n"):
        said = sent if kind != "ollama" else error + b"\n"
        async with backend_of(BadServer(PIECE[kind], said), kind) as backend:
            with pytest.raises(WorkerRefused, match="broke off: out of memory"):
                await run(backend)


@pytest.mark.parametrize("kind", PIECE)
async def test_a_line_without_an_end_is_not_waited_for(kind: str) -> None:
    async with backend_of(BadServer(b"data: " + b"x" * (MAX_LINE_BYTES + 1)), kind) as backend:
        with pytest.raises(WorkerRefused, match="a line of more than"):
            await run(backend)


async def test_a_text_without_an_end_is_not_kept() -> None:
    piece = event(b'{"choices": [{"text": "' + b"x" * (MAX_TEXT_BYTES // 2) + b'"}]}')
    async with backend_of(BadServer(piece, piece, piece)) as backend:
        with pytest.raises(WorkerRefused, match="the answer has more than"):
            await run(backend)


async def test_a_body_without_an_end_is_not_read() -> None:
    server = BadServer(*[b": nothing\n" * 100_000] * (MAX_BODY_BYTES // 1_000_000 + 1))
    async with backend_of(server) as backend:
        with pytest.raises(WorkerRefused, match="sent more than"):
            await run(backend)
    flood = BadServer()
    async with backend_of(flood) as backend:
        flood.override["/v1/models"] = (200, b" " * (MAX_BODY_BYTES + 1))
        with pytest.raises(WorkerUnavailable, match="sent more than"):
            await backend.models()


@pytest.mark.parametrize("kind", PIECE)
async def test_a_server_that_drips_is_left_when_its_time_is_over(kind: str) -> None:
    server = BadServer(PIECE[kind])
    server.hold.clear()
    async with backend_of(server, kind, timeout=0.3) as backend:
        with pytest.raises(WorkerUnavailable, match=r"within 0\.3 s"):
            await run(backend)
        server.hold.set()


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"data": 5, "models": 5}', b'{"data": [5], "models": [5]}', b"\xff"]
)
async def test_a_list_of_models_that_is_none_makes_the_server_away(path: str, body: bytes) -> None:
    kind = {"/v1/models": "openai", "/props": "llamacpp"}.get(path, "ollama")
    server = BadServer()
    async with backend_of(server, kind) as backend:
        server.override[path] = (200, body)
        if path in {"/props", "/api/version"} and body.startswith(b"{"):
            assert [model.name for model in await backend.models()] == ["m"]  # it is asked for its name only
            return
        with pytest.raises(WorkerUnavailable, match="does not list its models"):
            await backend.models()


async def test_names_that_cannot_be_announced_are_passed_over() -> None:
    server = BadServer()
    async with backend_of(server) as backend:
        names = b'{"data": [{"id": "good"}, {"id": "%s"}, {"id": ""}, {"id": "a\\u0000b"}]}' % (b"x" * 300)
        server.override["/v1/models"] = (200, names)
        assert [model.name for model in await backend.models()] == ["good"]


def test_every_api_is_tried() -> None:
    assert {DIALECTS[kind].tongue for kind in PIECE} == {dialect.tongue for dialect in DIALECTS.values()}
