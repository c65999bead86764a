"""A TCP proxy that does to connections what networks do: cuts them, delays them, lets one part overtake another, and forgets them."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

Address: TypeAlias = Path | tuple[str, int]
"""Where the proxy passes things on to: a unix socket, or a host and port."""

_READ_BYTES = 65_536
_HOLD_S = 0.2
"""How long a frame waits for another one to overtake it."""


class Harm(StrEnum):
    """What is done to connections while it is in force.

    `CUT`: all end at once, and new ones are refused. `DELAY`: everything comes up to `delay_s` late, in order. `REORDER`: of two
    WebSocket frames the second comes first; on other connections each part comes late by chance, so that connections overtake each
    other. `TRUNCATE`: each connection ends in the middle of the next part. `HALF_OPEN`: of each connection one end is gone, and the
    other is told nothing, ever; what it sends is lost. New ones are as good as any.
    """

    CUT = "cut"
    DELAY = "delay"
    REORDER = "reorder"
    TRUNCATE = "truncate"
    HALF_OPEN = "half-open"


@dataclass
class _End:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        self.writer.transport.abort()

    def finish(self) -> None:
        """Say that nothing more will come."""
        if not self.writer.is_closing():
            with suppress(OSError, RuntimeError):
                self.writer.write_eof()


@dataclass(eq=False)
class _Connection:
    client: _End
    server: _End
    half_open: bool = False

    def abort(self) -> None:
        self.client.abort()
        self.server.abort()


class WebSocketParts:
    """Cuts one direction of a WebSocket (RFC 6455, section 5.2) into its HTTP head and whole frames, masked as they are."""

    def __init__(self) -> None:
        self.rest = b""
        self._in_head = True

    def feed(self, data: bytes) -> list[bytes]:
        """Take what has arrived, and return the parts that are complete."""
        self.rest += data
        parts = []
        while end := self._end():
            parts.append(self.rest[:end])
            self.rest = self.rest[end:]
        return parts

    def _end(self) -> int:
        """Where the next part ends, 0 when that has not arrived."""
        if self._in_head:
            end = self.rest.find(b"\r\n\r\n") + 4
            self._in_head = end < 4
            return 0 if self._in_head else end
        if len(self.rest) < 2:
            return 0
        length, masked = self.rest[1] & 0x7F, bool(self.rest[1] & 0x80)
        size = {126: 2, 127: 8}.get(length, 0)
        if size:
            length = int.from_bytes(self.rest[2 : 2 + size], "big")
        end = 2 + size + 4 * masked + length
        return end if len(self.rest) >= end else 0


class _Whole:
    """Connections of no known form: every part is as it was read."""

    rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        return [data]


@dataclass
class TcpProxy:
    """Passes connections to `port` of loopback on to `target`; `harm` says what happens to them meanwhile, `chance` decides the details.

    With `websocket`, frames are reordered whole.
    """

    target: Address
    chance: random.Random
    websocket: bool = False
    delay_s: float = 0.3
    port: int = 0
    _harm: Harm | None = None
    _stopped: bool = False
    _server: asyncio.Server | None = None
    _open: set[_Connection] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End everything."""
        self._stopped = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.abort()
        # Not cancelled: the streams of Python 3.11 report a cancelled callback as an error of the loop.
        if self._tasks:
            await asyncio.wait(self._tasks)

    @contextmanager
    def harmed(self, harm: Harm) -> Iterator[None]:
        """Do `harm` to all connections until the block ends; a half-open one stays so."""
        self._harm = harm
        for connection in list(self._open):
            if harm is Harm.CUT:
                connection.abort()
            elif harm is Harm.HALF_OPEN and not connection.half_open:
                connection.half_open = True
                self.chance.choice([connection.client, connection.server]).abort()
        try:
            yield
        finally:
            self._harm = None

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = _End(reader, writer)
        try:
            await self._relay(client)
        except OSError:
            return  # nobody listens there, which the client learns by its connection's end
        finally:
            client.abort()
            self._tasks.discard(task)

    async def _relay(self, client: _End) -> None:
        if self._harm is Harm.CUT or self._stopped:
            return
        where = self.target
        opening = (
            asyncio.open_unix_connection(where)
            if isinstance(where, Path)
            else asyncio.open_connection(*where)
        )
        server = _End(*await opening)
        connection = _Connection(client, server)
        self._open.add(connection)
        if self._stopped:
            connection.abort()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(connection, client, server))
                both.create_task(self._pump(connection, server, client))
        finally:
            self._open.discard(connection)
            server.abort()

    async def _pump(self, connection: _Connection, source: _End, sink: _End) -> None:
        parts = WebSocketParts() if self.websocket else _Whole()
        held = b""
        try:
            while True:
                try:
                    async with asyncio.timeout(_HOLD_S if held else None):
                        data = await source.reader.read(_READ_BYTES)
                except TimeoutError:
                    held = await self._send(sink, held)
                    continue
                if not data:
                    break
                for part in parts.feed(data) if not connection.half_open else ():
                    held = await self._pass(connection, part, held, sink)
            if not connection.half_open:
                await self._send(sink, held + parts.rest)
                sink.finish()
        except ConnectionError:
            if not connection.half_open:
                sink.abort()

    async def _pass(self, connection: _Connection, part: bytes, held: bytes, sink: _End) -> bytes:
        """Pass a part on as the present harm has it; returns what is held back for the next one."""
        harm = self._harm
        if harm is Harm.TRUNCATE:
            await self._send(sink, held + part[: len(part) // 2])
            connection.abort()
            return b""
        if harm is Harm.REORDER and self.websocket and not held and not part.startswith((b"GET ", b"HTTP/")):
            return part
        if harm is Harm.DELAY or (harm is Harm.REORDER and not self.websocket):
            await asyncio.sleep(self.chance.uniform(0, self.delay_s))
        return await self._send(sink, part + held)

    async def _send(self, sink: _End, data: bytes) -> bytes:
        if data:
            sink.writer.write(data)
            await sink.writer.drain()
        return b""
