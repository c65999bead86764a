"""A small TCP balancer: each new connection goes to a server that says it is ready, as balancers in front of real services do."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx

_CHECK_S = 0.05
_READ_BYTES = 65_536


class Balancer:
    """Its own `url`, and the servers' URLs in turn."""

    def __init__(self, servers: Sequence[str]) -> None:
        self.url = ""
        self.passed = dict.fromkeys(servers, 0)
        self.open = dict.fromkeys(servers, 0)
        self._ready: list[str] = []
        self._turn = 0

    async def check(self) -> None:
        """Ask every server whether it is ready, for ever."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                answers = await asyncio.gather(*(_is_ready(client, server) for server in self.passed))
                self._ready = [server for server, ready in zip(self.passed, answers, strict=True) if ready]
                await asyncio.sleep(_CHECK_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join one connection with a server's."""
        server, theirs, ours = await self._connect()
        self.open[server] += 1
        try:
            await asyncio.gather(_pipe(reader, ours), _pipe(theirs, writer))
        finally:
            self.open[server] -= 1
            writer.close()

    async def left(self, server: str) -> None:
        """Wait until nobody is passed to a server any more, and all that were are done with it."""
        while server in self._ready or self.open[server]:
            await asyncio.sleep(_CHECK_S)

    async def _connect(self) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            for _ in self._ready:
                self._turn += 1
                server = self._ready[self._turn % len(self._ready)]
                parts = urlsplit(server)
                with suppress(ConnectionRefusedError):
                    joined = await asyncio.open_connection(parts.hostname, parts.port)
                    self.passed[server] += 1
                    return server, *joined
            await asyncio.sleep(_CHECK_S)


@asynccontextmanager
async def balancing(servers: Sequence[str]) -> AsyncIterator[Balancer]:
    """Run a balancer in front of these servers."""
    balancer = Balancer(servers)
    checking = asyncio.create_task(balancer.check())
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)


async def _is_ready(client: httpx.AsyncClient, server: str) -> bool:
    try:
        return (await client.get(server + "/readyz", headers={"Connection": "close"})).status_code == 200
    except httpx.TransportError:
        return False


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
