"""Everything that goes over a connection, recorded by a relay that stands between the two ends, and read as HTTP or /ws would."""

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_UPGRADED = re.compile(rb"^HTTP/1\.1 101 .*?\r\n\r\n", re.DOTALL)
_EXTENSIONS = re.compile(rb"\r\nSec-WebSocket-Extensions: *(.*?)\r\n", re.IGNORECASE)


@dataclass
class Connection:
    """The bytes of one connection, as each end sent them; `between` says whom it connects."""

    between: str
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)

    def read(self) -> bytes:
        """What was said both ways: of a WebSocket, its heads and the payloads of its frames; of anything else, all bytes."""
        head = _UPGRADED.match(self.answered)
        if head is None:
            return bytes(self.asked) + b"\n" + bytes(self.answered)
        assert not _EXTENSIONS.search(head[0]), "frames are compressed, and nothing would be found in them"
        asked, _, sent = bytes(self.asked).partition(b"\r\n\r\n")
        return b"\n".join([asked, head[0], *payloads(sent), *payloads(bytes(self.answered[head.end() :]))])

    @property
    def is_websocket(self) -> bool:
        return _UPGRADED.match(self.answered) is not None


def payloads(stream: bytes) -> list[bytes]:
    """The messages in a stream of WebSocket frames (RFC 6455, section 5.2), unmasked; what is cut off at its end is left out."""
    messages: list[bytes] = []
    at = 0
    while at + 2 <= len(stream):
        first, second = stream[at], stream[at + 1]
        length, at = second & 0x7F, at + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(stream[at : at + size], "big"), at + size
        mask = stream[at : at + 4] if second & 0x80 else b""
        at += len(mask)
        payload = stream[at : at + length]
        if len(payload) < length:
            break
        at += length
        if mask:
            repeated = mask * (length // 4 + 1)
            key = int.from_bytes(repeated[:length], "big")
            payload = (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
        if first & 0x0F:
            messages.append(payload)
        else:  # the rest of a message in several frames
            messages[-1] += payload
    return messages


class Recorder:
    """Relays that pass everything on and keep it; `stop` ends them."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self._servers: list[asyncio.Server] = []
        self._passing: set[asyncio.Task[None]] = set()

    async def relay_port(self, target: int, between: str) -> int:
        """Stand before a TCP port of this machine; the port to be used in its place."""

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(reader, writer, asyncio.open_connection("127.0.0.1", target), between)

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def relay_socket(self, target: Path, place: Path, between: str) -> None:
        """Stand before a unix socket, with one at another place."""

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(reader, writer, asyncio.open_unix_connection(target), between)

        self._servers.append(await asyncio.start_unix_server(meet, place))

    async def stop(self) -> None:
        """End all relays with their connections."""
        for server in self._servers:
            server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def read(self) -> dict[str, bytes]:
        """What was said, by whom it connects; WebSockets stand apart."""
        said: dict[str, list[bytes]] = {}
        for each in self.connections:
            said.setdefault("/ws" if each.is_websocket else each.between, []).append(each.read())
        return {between: b"\n".join(parts) for between, parts in said.items()}

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connect: Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]],
        between: str,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        kept = Connection(between)
        self.connections.append(kept)
        try:
            there, onward = await connect
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pass_on(reader, onward, kept.asked))
                    both.create_task(_pass_on(there, writer, kept.answered))
            finally:
                onward.close()
        except ConnectionError:
            return  # nobody listens there, which the other end sees by its own connection's end
        finally:
            writer.close()
            self._passing.discard(task)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with suppress(ConnectionError):
        while part := await reader.read(65_536):
            kept += part
            writer.write(part)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()
