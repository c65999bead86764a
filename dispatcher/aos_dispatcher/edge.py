"""What every HTTP answer passes last: security headers, and that an answer goes out even when something of ours breaks."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aos_dispatcher.attempts import caller_address
from aos_dispatcher.gateway.errors import said_plainly

_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
# FastAPI's pages load their programs from there, and show the API's own description.
_PAGE = (
    b"default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; style-src https://cdn.jsdelivr.net 'unsafe-inline'; "
    b"img-src https://fastapi.tiangolo.com data:; connect-src 'self'; frame-ancestors 'none'"
)
_PAGES = frozenset({"/docs", "/redoc"})
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_FOR_TLS = (b"strict-transport-security", b"max-age=31536000")
_CACHE = b"cache-control"
_UNSTORED = (_CACHE, b"no-store")


class Edge:
    """ASGI middleware that must be the outermost of the application. `tls`: it is served over TLS, and browsers are to insist on that.

    Answers may be private, so nobody on the way stores one, unless it says itself how long it may be.
    """

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self._app = app
        self._headers = (*_ALWAYS, _FOR_TLS) if tls else _ALWAYS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is raised is answered with 500, and raised again for the server's log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        caller_address.set(client[0] if client else "")
        policy = _PAGE if scope["path"] in _PAGES else _NOTHING
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = self._completed(list(message.get("headers", ())), policy)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if not started:
                await _send_error(scope["path"], send_with_headers)
            raise

    def _completed(self, headers: list[tuple[bytes, bytes]], policy: bytes) -> list[tuple[bytes, bytes]]:
        headers += [*self._headers, (b"content-security-policy", policy)]
        if not any(name.lower() == _CACHE for name, _ in headers):
            headers.append(_UNSTORED)
        return headers


async def _send_error(path: str, send: Send) -> None:
    """Answer in the form of whatever is at this path; why it failed is for the log alone."""
    body = json.dumps(said_plainly(path, 500, "the dispatcher failed; its log says why")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
