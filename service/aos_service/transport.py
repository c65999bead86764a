"""HTTP to a worker wherever it listens: TCP, a unix socket, or vsock, the socket between a host and its enclaves."""

import asyncio
import re
import select
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

import httpcore
import httpx

from aos_service.errors import WorkerUrlError
from aos_service.http_client import Names, PooledTransport, translated

FORMS: Final = "http://host:port, unix:///folder/worker.sock with three slashes, or vsock://CID:PORT"
_LARGEST: Final = 2**32 - 1
_FIRST_CID: Final = 3
_LOCAL_CID: Final = 1
"""The machine itself, where its kernel has vsock_loopback (vsock(7))."""
"""vsock(7): 0 is the hypervisor, 1 the machine itself, 2 its host."""

_KEEPALIVE_S: Final = 2.0
"""Idle connections end here well before a worker ends them (5 s), or a request would now and then meet a closed one."""

Connect: TypeAlias = Callable[[int, tuple[int, int]], Awaitable[socket.socket]]
"""Connects a socket of a family to an address, as (CID, port), and returns it, not blocking; raises `OSError`."""

_TRANSLATED: Final[Names] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.ProtocolError: httpx.ProtocolError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}


@dataclass(frozen=True)
class WorkerAddress:
    """Where a worker listens: a unix socket's `path`, a `vsock` address as (CID, port), or neither: `base_url` is its own."""

    base_url: str
    path: str | None = None
    vsock: tuple[int, int] | None = None


def worker_address(url: str) -> WorkerAddress:
    """Read a worker's URL: http, https, unix or vsock. Raises `WorkerUrlError` that says what is wrong with it."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise WorkerUrlError(f"cannot be read ({error}): must be {FORMS}") from None
    match parts.scheme:
        case "http" | "https":
            return WorkerAddress(_http(parts))
        case "unix" if not parts.netloc and len(parts.path) > 1:
            return WorkerAddress("http://worker", path=parts.path)
        case "vsock":
            return WorkerAddress("http://worker", vsock=_vsock(url))
        case _:
            raise WorkerUrlError(f"must be {FORMS}")


class WorkerTransport(httpx.AsyncBaseTransport):
    """An httpx transport to the worker at one URL, to be used with its `base_url`. Connections are kept alive.

    On unix and vsock every request goes to the worker, whatever host its URL names. `connect` opens vsock sockets. Raises
    `WorkerUrlError`; requests raise `httpx.TransportError`, each time-out its own kind of `httpx.TimeoutException`.
    """

    def __init__(self, url: str, *, connect: Connect | None = None) -> None:
        address = worker_address(url)
        self.base_url = address.base_url
        self._inner: httpx.AsyncBaseTransport
        if address.vsock:
            self._inner = _VsockTransport(address.vsock, connect or connect_socket)
        else:
            tls = ssl.create_default_context() if self.base_url.startswith("https") else None
            self._inner = PooledTransport(keepalive=_KEEPALIVE_S, path=address.path, tls=tls)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response once its head is there; see `httpx.AsyncBaseTransport`."""
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


class _VsockTransport(httpx.AsyncBaseTransport):
    """Through httpcore, whose network backends reach any socket."""

    def __init__(self, address: tuple[int, int], connect: Connect) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=_Vsock(address, connect),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with translated(_TRANSLATED):
            answer = await self._pool.handle_async_request(asked)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=dict(answer.extensions)
        )

    async def aclose(self) -> None:
        with translated(_TRANSLATED):
            await self._pool.aclose()


async def connect_socket(family: int, address: tuple[int, int]) -> socket.socket:
    """Return a socket of this family that is connected to the address. Raises `OSError`."""
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated(_TRANSLATED):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        with translated(_TRANSLATED):
            await self._answer.aclose()


class _Vsock(httpcore.AsyncNetworkBackend):
    """Connects to one vsock address, whatever host is asked for."""

    def __init__(self, address: tuple[int, int], connect: Connect) -> None:
        self._address = address
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore passes it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        del host, port, local_address, socket_options
        cid, at = self._address
        with _failing(httpcore.ConnectTimeout, httpcore.ConnectError, f"vsock {cid}:{at}"):
            async with asyncio.timeout(timeout):
                return _SocketStream(await self._connect(socket.AF_VSOCK, self._address))


class _SocketStream(httpcore.AsyncNetworkStream):
    """A connected socket of any family. asyncio's own streams and anyio's know TCP and unix sockets only."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        with _failing(httpcore.ReadTimeout, httpcore.ReadError, "reading"):
            async with asyncio.timeout(timeout):
                return await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        with _failing(httpcore.WriteTimeout, httpcore.WriteError, "writing"):
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_sendall(self._socket, buffer)

    async def aclose(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> object:
        """Tell httpcore whether an idle connection has ended: then there is something to read, namely the end."""
        if info != "is_readable":
            return None
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        return bool(ready.poll(0))


@contextmanager
def _failing(late: type[Exception], failed: type[Exception], what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(f"{what}: no end in time") from error
    except OSError as error:
        raise failed(f"{what}: {error.strerror or error}") from error


def _http(parts: SplitResult) -> str:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise WorkerUrlError("has a port that is none: give 1 to 65535")
    if not parts.hostname:
        raise WorkerUrlError(f"names no host: must be {FORMS}")
    if parts.query or parts.fragment:
        raise WorkerUrlError("has a query or fragment: a worker's URL ends before them")
    return parts.geturl().rstrip("/")


def _vsock(url: str) -> tuple[int, int]:
    found = re.fullmatch(r"vsock://([0-9]{1,10}):([0-9]{1,10})/?", url)
    if found is None:
        raise WorkerUrlError("must be vsock://CID:PORT with two numbers, as vsock://15:5005")
    cid, port = int(found[1]), int(found[2])
    if cid != _LOCAL_CID and not _FIRST_CID <= cid <= _LARGEST:
        raise WorkerUrlError(
            f"has CID {cid}: an enclave's is {_FIRST_CID} to {_LARGEST}, and {_LOCAL_CID} is this machine itself"
        )
    if not 1 <= port <= _LARGEST:
        raise WorkerUrlError(f"has port {port}: vsock ports are 1 to {_LARGEST}")
    return cid, port
