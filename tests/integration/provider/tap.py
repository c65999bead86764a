"""A listener between a provider and its dispatcher, who writes down all that is said: WebSocket frames are masked on the wire."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


class Tap:
    """Passes WebSockets on to `target`; `heard` is every head and message that came from the provider, `told` every message to it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.heard: list[str] = []
        self.told: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Tap"]:
        async with serve(self._meet, "127.0.0.1", 0, max_size=None) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
            yield self

    async def _meet(self, client: ServerConnection) -> None:
        assert client.request is not None
        self.heard.append(f"{client.request.path}\n{client.request.headers}")
        async with (
            connect(self.target, max_size=None, proxy=None) as server,
            anyio.create_task_group() as both,
        ):
            both.start_soon(self._pass, client, server, self.heard)
            both.start_soon(self._pass, server, client, self.told)

    async def _pass(self, source: Connection, sink: Connection, kept: list[str]) -> None:
        with suppress(ConnectionClosed):
            async for message in source:
                kept.append(str(message))
                await sink.send(message)
        code = source.close_code or 1000
        await sink.close(code if code != 1006 else 1011, source.close_reason or "")
