"""HTTP/1.1 through aiohttp below httpx's interface: a request costs a third of the processor time that it does through httpcore's pool.

What comes back, and what is raised, is what `httpx.AsyncBaseTransport` promises, but for bodies that a server does not take, which are a
`ReadTimeout`. Nothing of the environment's proxies is used, cookies are not kept, and redirects are not followed.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

import aiohttp
import httpx
from yarl import URL

_CHUNK: Final = 1 << 16

Names: TypeAlias = Mapping[type[Exception], type[httpx.TransportError]]
"""What httpx calls the exceptions of a library below it."""

_TRANSLATED: Final[Names] = {
    aiohttp.ConnectionTimeoutError: httpx.ConnectTimeout,
    aiohttp.ServerTimeoutError: httpx.ReadTimeout,
    TimeoutError: httpx.ReadTimeout,
    aiohttp.ServerDisconnectedError: httpx.RemoteProtocolError,
    aiohttp.ClientConnectorError: httpx.ConnectError,
    aiohttp.ClientOSError: httpx.ReadError,
    aiohttp.ClientConnectionError: httpx.ReadError,
    aiohttp.ClientError: httpx.RemoteProtocolError,
    OSError: httpx.ReadError,
}


class PooledTransport(httpx.AsyncBaseTransport):
    """Requests over TCP, or all of them over the unix socket `path`; idle connections are kept for `keepalive` seconds."""

    def __init__(
        self, *, keepalive: float, path: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._keepalive = keepalive
        self._path = path
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response once its head is there; see `httpx.AsyncBaseTransport`."""
        session = self._session = self._session or self._opened()
        bounds = request.extensions.get("timeout", {})
        known = int(request.headers.get("content-length", 0)) > 0
        headers = [
            (name, value) for name, value in request.headers.multi_items() if name != "transfer-encoding"
        ]
        with translated(_TRANSLATED):
            async with asyncio.timeout(_until_head(bounds)):
                answer = await session.request(
                    request.method,
                    URL(str(request.url), encoded=True),
                    headers=headers,
                    data=io.BytesIO(await request.aread()) if known else _sent(request),
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, sock_connect=bounds.get("connect"), sock_read=bounds.get("read")
                    ),
                )
        reason = (answer.reason or "").encode("latin-1", "replace")
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": reason}
        return httpx.Response(
            answer.status, headers=answer.raw_headers, stream=_Body(answer), extensions=extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Open a session, which belongs to the event loop that runs now."""
        connector: aiohttp.BaseConnector
        if self._path is not None:
            connector = aiohttp.UnixConnector(self._path, limit=0, keepalive_timeout=self._keepalive)
        else:
            connector = aiohttp.TCPConnector(
                limit=0, keepalive_timeout=self._keepalive, ssl=self._tls or True
            )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
            trust_env=False,
        )


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated(_TRANSLATED):
            async for part in self._answer.content.iter_chunked(_CHUNK):
                yield part

    async def aclose(self) -> None:
        """Give the connection back; one on which more would come is closed, so that the server notices."""
        if not self._answer.content.at_eof():
            self._answer.close()
        self._answer.release()


def _sent(request: httpx.Request) -> AsyncIterator[bytes] | None:
    """The body of a request whose length is not known beforehand; None for one without a body."""
    if "transfer-encoding" not in request.headers or not isinstance(request.stream, httpx.AsyncByteStream):
        return None
    return aiter(request.stream)


def _until_head(bounds: Mapping[str, float | None]) -> float | None:
    """The seconds within which a response's head has to come: aiohttp does not watch a server that takes no body."""
    steps = [bounds.get(step) for step in ("connect", "write", "read")]
    known = [step for step in steps if step is not None]
    return sum(known) if len(known) == len(steps) else None


@contextmanager
def translated(names: Names) -> Iterator[None]:
    """Turn a library's exceptions into those that httpx promises, each by the first of its class and bases that is named."""
    try:
        yield
    except tuple(names) as error:
        raise _named(error, names) from error


def _named(error: Exception, names: Names) -> httpx.TransportError:
    kind = next(kind for kind in type(error).__mro__ if kind in names)
    return names[kind](str(error))
