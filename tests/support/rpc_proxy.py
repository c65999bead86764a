"""An RPC endpoint between a test and its chain, that does what endpoints do to their users: fail, lag, forget, limit."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web

Answer: TypeAlias = dict[str, Any]
Forward: TypeAlias = Callable[[], Awaitable[Answer]]
Hook: TypeAlias = Callable[[str, list[Any], Forward], Awaitable[Answer | web.Response | None]]


class RpcProxy:
    """Passes requests on to a chain; `hook(method, params, forward)` may answer in its place, `None` cuts the connection."""

    def __init__(self, chain_url: str) -> None:
        self.url = ""
        self.asked: list[tuple[str, list[Any]]] = []
        self.hook: Hook | None = None
        self._chain_url = chain_url

    def cut(self) -> None:
        """From now on, end every connection without an answer."""

        async def nothing(*_: Any) -> None:
            return None

        self.hook = nothing

    def mend(self) -> None:
        self.hook = None

    def count(self, method: str) -> int:
        return sum(asked == method for asked, _ in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        method, params = asked["method"], asked["params"]
        self.asked.append((method, params))

        async def forward() -> Answer:
            async with (
                aiohttp.ClientSession() as session,
                session.post(self._chain_url, json=asked) as answer,
            ):
                return dict(await answer.json())

        answer = await self.hook(method, params, forward) if self.hook else await forward()
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, web.Response):
            return answer
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"]} | answer)


@asynccontextmanager
async def rpc_proxy(chain_url: str) -> AsyncIterator[RpcProxy]:
    """Run a proxy to a chain on a free loopback port."""
    proxy = RpcProxy(chain_url)
    app = web.Application()
    app.router.add_post("/{path:.*}", proxy.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        yield proxy
    finally:
        await runner.cleanup()
