"""The WebSocket under `/ws`, fed by hand with a client's bytes."""

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

from aos_dispatcher.websocket import OperatorProtocol

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, BINARY, CONTINUED, PING = 0x1, 0x2, 0x0, 0x9


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = struct.pack(">BH", 0x80 | 126, len(payload))
    return bytes([opcode | (0x80 if fin else 0)]) + size + bytes(4) + payload


class Transport(asyncio.Transport):
    """A connection to a peer that reads when it is told to."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.unread = 0
        self.ended = False

    def write(self, data: Any) -> None:
        self.unread += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def pause_reading(self) -> None:
        """As much as is there may be read all the same."""

    def resume_reading(self) -> None:
        """Go on."""


class Wire:
    """A protocol behind an application that takes every message."""

    def __init__(self, max_size: int = 1 << 20) -> None:
        self.messages: list[Any] = []
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            ws_max_size=max_size,
            ws_per_message_deflate=False,
            proxy_headers=False,
            log_config=None,
        )
        config.load()
        self.transport = Transport()
        self.protocol = OperatorProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    async def _app(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages.append(message.get("bytes"))

    async def feed(self, *data: bytes) -> None:
        for each in data:
            self.protocol.data_received(each)
            for _ in range(5):
                await asyncio.sleep(0)


@asynccontextmanager
async def opened(max_size: int = 1 << 20) -> AsyncIterator[Wire]:
    wire = Wire(max_size)
    await wire.feed(HANDSHAKE)
    wire.transport.unread = 0
    yield wire
    wire.protocol.connection_lost(ConnectionResetError())
    await asyncio.gather(*wire.protocol.tasks)


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    async with opened() as made:
        yield made


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def test_messages_whole_and_in_fragments_arrive_as_bytes(wire: Wire) -> None:
    await wire.feed(frame(TEXT, b"one"), frame(BINARY, b"two"), frame(TEXT, b"th", fin=False))
    await wire.feed(frame(CONTINUED, b"", fin=False), frame(PING, b"?"), frame(CONTINUED, b"ree"))
    await wire.feed(frame(BINARY, b"", fin=False), frame(CONTINUED, b""), frame(TEXT, "vier é".encode()))
    assert wire.messages == [b"one", b"two", b"three", b"", "vier é".encode()]


async def test_text_that_is_no_utf_8_is_the_application_s_to_refuse(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    await wire.feed(frame(TEXT, b"\xc3("), frame(TEXT, b"next"))
    assert wire.messages == [b"\xc3(", b"next"]
    assert caplog.records == []


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("payload", [b"", b"xy"])
async def test_a_message_in_countless_fragments_takes_no_more_than_its_length(
    wire: Wire, payload: bytes
) -> None:
    await wire.feed(frame(TEXT, b"", fin=False))
    many = frame(CONTINUED, payload, fin=False) * 1000
    await wire.feed(many)
    before, _ = tracemalloc.get_traced_memory()
    await wire.feed(*[many] * 10)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before < 50_000


async def test_a_message_longer_than_the_limit_ends_the_connection_also_in_fragments() -> None:
    async with opened(max_size=100) as wire:
        await wire.feed(frame(TEXT, b"x" * 60, fin=False), frame(CONTINUED, b"x" * 60, fin=False))
        assert wire.transport.ended
        assert wire.messages == []


async def test_pings_of_who_reads_are_answered(wire: Wire) -> None:
    await wire.feed(*[frame(PING, b"x" * 125)] * 3)
    assert wire.transport.unread == 3 * 127
    assert not wire.transport.ended


async def test_pings_of_who_reads_nothing_end_the_connection(wire: Wire) -> None:
    await wire.feed(*[frame(PING, b"x" * 125) * 1000] * 10)
    assert wire.transport.ended
    assert wire.transport.unread < (1 << 20) + 2 * 127 * 1000
