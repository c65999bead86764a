"""The node's own port, on which the models of this machine register: DBC's four requests, over loopback only.

Nobody proves who they are: whoever may open a connection to this machine's loopback may register. What a page in a browser makes the
browser send is refused by its Host and Origin (DNS rebinding, cross-site requests).
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from aos_operator.errors import Refused, Unavailable
from aos_operator.registration import Registrations
from aos_operator.registration_messages import (
    RegisterModel,
    RegisterProject,
    UnregisterModel,
    UnregisterProject,
)
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Message, parse_message

MOST_BYTES: Final = 256 << 10
"""Of a request's body: 64 models with their longest names and URLs."""

_LOOPBACK_PEERS: Final = frozenset({"127.0.0.1", "::1"})
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})

M = TypeVar("M", bound=Message)


def create_app(registrations: Registrations) -> FastAPI:
    """Return the application; it has no pages of its own."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add(app, "model/register", RegisterModel, registrations.register_model)
    _add(app, "model/unregister", UnregisterModel, registrations.unregister_model)
    _add(app, "project/register", RegisterProject, registrations.register_project)
    _add(app, "project/unregister", UnregisterProject, registrations.unregister_project)
    app.add_exception_handler(404, _unknown)
    app.add_exception_handler(405, _unknown)
    return app


def _add(app: FastAPI, path: str, kind: type[M], act: Callable[[M], Awaitable[None]]) -> None:
    async def answer(request: Request) -> JSONResponse:
        try:
            _check_origin(request)
            await act(_message(kind, await _body(request)))
        except Refused as error:
            return _said(error.code, str(error))
        except Unavailable as error:
            return _said(503, str(error))
        return JSONResponse({"code": 0, "message": "ok"})

    app.add_api_route(f"/api/v0/ai/{path}", answer, methods=["POST"])


def _check_origin(request: Request) -> None:
    peer = request.client.host if request.client is not None else ""
    if peer not in _LOOPBACK_PEERS:
        raise Refused(403, "models register from this very machine only")
    host = request.headers.get("host", "")
    if host.rpartition(":")[0] not in _LOOPBACK_NAMES and host not in _LOOPBACK_NAMES:
        raise Refused(403, "the Host header must name 127.0.0.1 or localhost")
    if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
        raise Refused(403, "a page in a browser registers no models")


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the body has more than {MOST_BYTES} bytes: register fewer models at a time")
    return body


def _message(kind: type[M], body: bytes) -> M:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be a JSON object") from None
    try:
        return parse_message(kind, value)
    except InvalidMessage as error:
        raise Refused(400, str(error)) from None


async def _unknown(_request: Request, _error: Exception) -> JSONResponse:
    return _said(
        404,
        "there is POST /api/v0/ai/model/register and unregister, and /api/v0/ai/project/register and unregister",
    )


def _said(code: int, message: str) -> JSONResponse:
    return JSONResponse({"code": code, "message": message}, status_code=code)
