"""The HTTP and WebSocket application around a `Dispatcher`."""

import asyncio
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import structlog
from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect, WebSocketState

from aos_dispatcher import api, attestation_api, disputes_api, gateway, log_api, network_api, sessions_api
from aos_dispatcher.draining import Draining
from aos_dispatcher.edge import Edge
from aos_dispatcher.errors import ApiError
from aos_dispatcher.gateway.errors import error_body, said_plainly
from aos_dispatcher.http_bounds import Gate
from aos_dispatcher.link import POLICY_VIOLATION
from aos_dispatcher.log_backfill import backfill
from aos_dispatcher.openapi import ERRORS, describe
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tls import WITHOUT_CERTIFICATE, may_connect

log = structlog.get_logger()

_CANCEL_AGAIN_S = 0.5
_service = APIRouter(tags=["service"])
_ROUTERS = (
    api.router,
    disputes_api.router,
    attestation_api.router,
    log_api.router,
    sessions_api.router,
    network_api.router,
    *gateway.routers,
    _service,
)


def create_app(dispatcher: Dispatcher) -> FastAPI:
    """Return the application; its lifespan runs the dispatch loop."""
    app = FastAPI(
        title="AOS dispatcher",
        version="1",
        description="Verifiable inference: submit jobs, read signed results, and fetch the evidence to check them.",
        lifespan=_lifespan,
    )
    app.state.dispatcher = dispatcher
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    # Their own routes, not `include_router`: that makes each of them again, which took 0.2 s of every application's first request.
    for router in _ROUTERS:
        app.router.routes += router.routes
    app.add_api_websocket_route("/ws", operator_socket)
    app.exception_handler(ApiError)(_render)
    app.exception_handler(RequestValidationError)(_render_validation)
    app.exception_handler(HTTPException)(_render_http)
    app.add_middleware(Gate, most=dispatcher.settings.limits.requests)
    app.add_middleware(Edge, tls=dispatcher.settings.listen.tls is not None)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    dispatcher: Dispatcher = app.state.dispatcher
    chain = dispatcher.chain
    if chain is not None:
        await chain.start()
    await backfill(dispatcher.database, dispatcher.evidence)
    parts = [dispatcher.loop.run(), dispatcher.sequencer.run(), dispatcher.front.run()] + (
        [chain.run()] if chain else []
    )
    parts += [dispatcher.following.run(), dispatcher.images.run()]
    if dispatcher.mesh is not None:
        parts.append(dispatcher.mesh.run(dispatcher.errands))
    tasks = [asyncio.create_task(part) for part in parts]
    for task in tasks:
        task.add_done_callback(_report_end)
    try:
        yield
    finally:
        await Draining(dispatcher).hand_over()
        await _end(tasks)
        if chain is not None:
            await chain.close()
        await dispatcher.front.close()
        await dispatcher.database.close()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: redis-py can lose a cancellation that meets the reply it is reading."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


def _report_end(loop: asyncio.Task[None]) -> None:
    """A dispatcher that takes jobs and dispatches none is worse than none: stop, to be restarted."""
    if not loop.cancelled() and loop.exception() is not None:
        log.critical("a task that must never end has ended; stopping", exc_info=loop.exception())
        signal.raise_signal(signal.SIGTERM)


@_service.get("/healthz")
async def healthz() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "ok"}


@_service.get("/readyz", response_model=None, responses={503: ERRORS[503]})
async def readyz(request: Request) -> JSONResponse:
    """Tell whether jobs can be taken: the database answers, and the process is not being stopped.

    Operators may still be missing, and a chain may be away: then jobs wait.
    """
    dispatcher: Dispatcher = request.app.state.dispatcher
    if dispatcher.leaving.is_set():
        said = {"code": 503, "message": "draining: this process is being stopped"}
        return JSONResponse(said, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"})
    await dispatcher.ping_database()
    registry = {"registry": dispatcher.chain.registry.standing()} if dispatcher.chain else {}
    return JSONResponse({"status": "ready", "operators": len(dispatcher.hub)} | registry)


@_service.get("/metrics", response_model=None, response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Show Prometheus metrics."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    if dispatcher.chain:
        dispatcher.chain.registry.standing()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class _StarletteSocket:
    """A `link.Socket` over a WebSocket of the web framework."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | bytes | None = message.get("text")
        return text if text is not None else message["bytes"]

    async def send(self, text: str) -> None:
        # A peer that has just left is noticed by `receive`; writing to it is no error of ours.
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(RuntimeError, OSError, WebSocketDisconnect):
                await self._websocket.send_text(text)

    async def close(self, reason: str, code: int = POLICY_VIOLATION) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(RuntimeError, OSError, WebSocketDisconnect):
                await self._websocket.close(code, reason[:120])


async def operator_socket(websocket: WebSocket) -> None:
    """Serve one operator's connection (docs/protocol.md)."""
    await websocket.accept()
    dispatcher: Dispatcher = websocket.app.state.dispatcher
    if not may_connect(websocket, dispatcher.settings.listen.tls):
        await websocket.close(POLICY_VIOLATION, WITHOUT_CERTIFICATE)
        return
    await dispatcher.link.serve(_StarletteSocket(websocket))


async def _render(request: Request, error: ApiError) -> Response:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request failed", path=request.url.path, why=str(error))
    again = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return JSONResponse(error_body(request.url.path, error), error.status, again | error.headers)


async def _render_validation(request: Request, error: RequestValidationError) -> Response:
    said = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return JSONResponse(said_plainly(request.url.path, status, said), status)


async def _render_http(request: Request, error: HTTPException) -> Response:
    status = error.status_code
    return JSONResponse(said_plainly(request.url.path, status, str(error.detail)), status, error.headers)
