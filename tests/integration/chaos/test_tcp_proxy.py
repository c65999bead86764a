"""What the proxy does to real connections."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidMessage

from support import tcp_proxy
from support.tcp_proxy import Harm, TcpProxy


class Echo:
    """A server that says back whatever it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.left = asyncio.Event()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            self.left.set()
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest_asyncio.fixture
async def proxy(echo: Echo, tmp_path: Path) -> AsyncIterator[TcpProxy]:
    """A proxy before the echo on a unix socket."""
    server = await asyncio.start_unix_server(echo.meet, tmp_path / "echo.sock")
    made = TcpProxy(tmp_path / "echo.sock", random.Random(1), delay_s=0.05)
    await made.start()
    yield made
    await made.stop()
    server.close()


@pytest_asyncio.fixture
async def sockets() -> AsyncIterator[TcpProxy]:
    """A proxy that knows WebSockets, before one that says back every message."""

    async def answer(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(answer, "127.0.0.1", 0) as server:
        [listening] = server.sockets
        made = TcpProxy(listening.getsockname()[:2], random.Random(1), websocket=True)
        await made.start()
        yield made
        await made.stop()


Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest_asyncio.fixture
async def opened(proxy: TcpProxy) -> AsyncIterator[Open]:
    """Opens connections through the proxy, which are closed in the end."""
    writers = []

    async def open_() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return reader, writer

    yield open_
    for writer in writers:
        writer.close()


async def said_back(proxy: TcpProxy, what: bytes = b"hello") -> bytes:
    """Say something on a new connection and hang up; all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(what)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def lost(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the connection is gone, however it ends."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_it_passes_everything_on(proxy: TcpProxy) -> None:
    assert await said_back(proxy, b"x" * 300_000) == b"x" * 300_000


async def test_a_cut_ends_connections_and_refuses_new_ones(proxy: TcpProxy, opened: Open, echo: Echo) -> None:
    reader, writer = await opened()
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    with proxy.harmed(Harm.CUT):
        assert await lost(reader) == b""
        await echo.left.wait()
        refused, _ = await opened()
        assert await lost(refused) == b""
    assert await said_back(proxy) == b"hello"


async def test_delays_keep_the_order(proxy: TcpProxy) -> None:
    with proxy.harmed(Harm.DELAY):
        assert await said_back(proxy, b"x" * 200_000 + b"y") == b"x" * 200_000 + b"y"


async def test_a_truncated_connection_ends_in_the_middle(proxy: TcpProxy, opened: Open, echo: Echo) -> None:
    with proxy.harmed(Harm.TRUNCATE):
        reader, writer = await opened()
        writer.write(b"0123456789")
        assert await lost(reader) == b""
        await echo.left.wait()
    assert bytes(echo.heard) in {b"", b"01234"}  # an abort may overtake what was sent
    assert await said_back(proxy) == b"hello"


@pytest.mark.parametrize("seed", [1, 5], ids=["client's", "server's"])
async def test_a_half_open_connection_is_gone_at_one_end_only(
    proxy: TcpProxy, opened: Open, echo: Echo, seed: int
) -> None:
    reader, writer = await opened()
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    proxy.chance = random.Random(seed)
    client_left = random.Random(seed).choice([True, False])
    with proxy.harmed(Harm.HALF_OPEN):
        pass
    if client_left:
        assert await lost(reader) == b""
        assert not echo.left.is_set()
    else:
        await echo.left.wait()
        writer.write(b"into the void")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    assert await said_back(proxy) == b"hello"
    assert bytes(echo.heard) == b"xhello"


async def test_whole_frames_overtake_each_other(sockets: TcpProxy) -> None:
    async with connect(f"ws://127.0.0.1:{sockets.port}/", proxy=None) as socket:
        await socket.send("first")
        assert await socket.recv() == "first"
        with sockets.harmed(Harm.REORDER):
            await socket.send("second")
            await socket.send("third")
            # Back and forth it is turned round twice, or once where one end was quicker than the hold.
            assert {await socket.recv(), await socket.recv()} == {"second", "third"}
            await socket.send("alone")
            assert await socket.recv() == "alone"


async def test_a_server_sees_frames_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_proxy, "_HOLD_S", 20.0)  # however late the second comes
    heard: list[str | bytes] = []
    both = asyncio.Event()

    async def listen(socket: ServerConnection) -> None:
        async for message in socket:
            heard.append(message)
            if len(heard) == 2:
                both.set()

    async with serve(listen, "127.0.0.1", 0) as server:
        [listening] = server.sockets
        proxy = TcpProxy(listening.getsockname()[:2], random.Random(1), websocket=True)
        await proxy.start()
        async with connect(f"ws://127.0.0.1:{proxy.port}/", proxy=None) as socket:
            with proxy.harmed(Harm.REORDER):
                await socket.send("first")
                await socket.send("second")
                await both.wait()
        await proxy.stop()
    assert heard == ["second", "first"]


async def test_a_truncated_websocket_is_noticed(sockets: TcpProxy) -> None:
    async with connect(f"ws://127.0.0.1:{sockets.port}/", proxy=None) as socket:
        with sockets.harmed(Harm.TRUNCATE):
            await socket.send("x" * 1000)
            with pytest.raises(ConnectionClosed):
                await socket.recv()


async def test_nobody_behind_it(tmp_path: Path) -> None:
    proxy = TcpProxy(tmp_path / "nobody.sock", random.Random(1))
    await proxy.start()
    with pytest.raises((ConnectionError, InvalidMessage)):
        async with connect(f"ws://127.0.0.1:{proxy.port}/", proxy=None):
            pytest.fail("nobody answers there")
    await proxy.stop()
