"""`GET /api/network/providers` and `/ws/stats`: who serves which model and what goes on, for anybody (docs/network.md)."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocketDisconnect, WebSocketState

from aos_dispatcher.api import Service
from aos_dispatcher.errors import TooMany
from aos_dispatcher.network_documents import NetworkAnswer
from aos_dispatcher.openapi import ERRORS
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.stats import Stats

router = APIRouter(responses=ERRORS, tags=["network"])

_POLICY_VIOLATION: Final = 1008
_FRESH: Final = {"Cache-Control": "public, max-age=1"}


@router.get("/api/network/providers", response_model=None, responses={200: {"model": NetworkAnswer}})
async def providers(service: Service) -> Response:
    """Read who serves which model now, what is being worked on, and how answers were judged. It is made once a second for all."""
    snapshot = await service.front.network.snapshot()
    return Response(snapshot.answer, media_type="application/json", headers=_FRESH)


@router.websocket("/ws/stats")
async def stats(websocket: WebSocket) -> None:
    """Push the network's summary to a listener whenever it changes. What a listener says ends its connection."""
    dispatcher: Dispatcher = websocket.app.state.dispatcher
    board, client = dispatcher.front.stats, websocket.client
    try:
        with board.seat(client.host if client else ""):
            await websocket.accept()
            await _until_one_ends(_push(websocket, board), websocket.receive())
            if websocket.client_state is WebSocketState.CONNECTED:
                with suppress(OSError, WebSocketDisconnect):  # it leaves just now
                    await websocket.close(_POLICY_VIOLATION, "nothing is to be sent here")
    except TooMany as refusal:
        body = {"code": refusal.status, "message": str(refusal)} | refusal.details
        again = {"Retry-After": str(refusal.retry_after)}
        await websocket.send_denial_response(JSONResponse(body, refusal.status, again))


async def _push(websocket: WebSocket, board: Stats) -> None:
    number = 0
    while True:
        number, text = await board.after(number)
        try:
            await websocket.send_text(text)  # waits while the listener is slow
        except (OSError, WebSocketDisconnect):
            return


async def _until_one_ends(*works: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in ended:
        task.result()
