"""What HTTP costs at most, whoever asks: so many connections and requests at once, and only so long and so large a request's head.

`body` bounds the bodies, `server` whoever does not read the answer.
"""

import asyncio
import json
import resource
from http import HTTPStatus
from typing import ClassVar, Final

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aos_dispatcher.gateway.errors import said_plainly
from aos_dispatcher.metrics import HTTP_REFUSED
from aos_dispatcher.settings import Limits

log = structlog.get_logger()

_ALWAYS_SERVED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_SPARE_FILES: Final = 256
_RETRY_S: Final = 1

IDLE_S: Final = 75
"""How long a connection may be idle after an answer: longer than clients and balancers keep one (httpx 5, aiohttp 15, nginx and others 60 seconds),
since a request that crosses our end of it is lost."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, for peers who send the head of a request slowly, or without an end, or never.

    uvicorn itself ends a connection that is idle after an answer (`IDLE_S`), and waits for anything else for ever.
    """

    limits: ClassVar[Limits]

    _head_bytes = 0
    _in_head = False
    _in_body = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "connections", "too many connections are open")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self._in_body or not self._waits():
            self._head_bytes = 0
        elif (received := self._head_bytes + len(data)) > self.limits.head_bytes:
            said = f"the request's head is larger than {self.limits.head_bytes} bytes"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head", said)
        else:
            self._head_bytes = received
        self._watch()

    def on_message_begin(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that nobody reads any more."""
        super().on_response_complete()
        self._watch()

    def _waits(self) -> bool:
        """Whether it is the peer's turn: nothing of ours is at work for it. After an upgrade the connection is not ours."""
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return False
        return self.cycle is None or self.cycle.response_complete

    def _is_idle(self) -> bool:
        """Whether nothing has come since the last answer."""
        return self.cycle is not None and not (self._in_head or self._in_body)

    def _watch(self) -> None:
        if not self._waits() or self._is_idle():
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_timeout, self._late)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        if self._in_body:
            self.transport.close()  # it has its answer
            return
        said = f"the request's head was not complete within {self.limits.head_timeout:g} seconds"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow", said)

    def _refuse(self, status: HTTPStatus, why: str, message: str) -> None:
        self._stop_watching()
        if self.transport.is_closing():
            return
        HTTP_REFUSED.labels(why).inc()
        body = json.dumps({"code": status, "message": message}).encode()
        fields = {"content-type": "application/json", "content-length": len(body), "connection": "close"}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            fields["retry-after"] = _RETRY_S
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {status} {status.phrase}\r\n{head}\r\n".encode() + body)
        self.transport.close()


def bounded_protocol(limits: Limits) -> type[BoundedProtocol]:
    """Return the protocol with these limits, as uvicorn's option `http`."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


def allow_connections(limits: Limits) -> None:
    """Raise how many files this process may have open to what the connections need, as far as it may."""
    wanted = limits.connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if resource.RLIM_INFINITY != soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "fewer connections can be open than limits.connections says: raise the limit of open files (ulimit -n)",
            connections=limits.connections,
            files=allowed,
        )


class Gate:
    """ASGI middleware that serves at most `most` requests at the same time; one more gets 503, unless it asks for the service's state."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it at once."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS_SERVED:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._most:
            HTTP_REFUSED.labels("requests").inc()
            await _busy(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    said = said_plainly(scope["path"], status, "too many requests are being served; try again")
    again = {"Retry-After": str(_RETRY_S), "Connection": "close"}
    await JSONResponse(said, status, again)(scope, receive, send)
