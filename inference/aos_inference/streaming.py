"""Generation tied to its client: server-sent events, and cancellation when the client leaves."""

import asyncio
import json
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aos_inference.errors import ClientLeft, RequestError
from aos_inference.jobs import Queued
from aos_inference.worker import Generation, Piece, Worker

_Result = TypeVar("_Result")

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await `work`, but cancel it and raise ClientLeft when the client disconnects first."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class GenerationStream(Response):
    """Events {"text"} as text comes, with {"logprobs"} where they are asked for, then the answer; an `error` event if something fails in between.

    While the job waits, an event `queued` with {"position"}, from 1, whenever that changes.

    The job is submitted before the status line goes out, so that a full queue is still an honest 503.
    """

    def __init__(self, worker: Worker, generation: Generation) -> None:
        super().__init__()
        self._worker = worker
        self._generation = generation

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Run the generation as an ASGI response. Raises whatever submitting raises."""
        # Nobody could be told that the client has left: the status line is out, or not read.
        with suppress(ClientLeft):
            await unless_client_leaves(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        with self._worker.run(self._generation) as texts:
            await send({"type": "http.response.start", "status": self.status_code, "headers": _HEADERS})
            try:
                async with aclosing(texts):
                    async for news in texts:
                        await _send_news(send, news)
                answer = await asyncio.to_thread(self._worker.answer, self._generation)
                last = await asyncio.to_thread(answer.model_dump_json)
            except RequestError as error:
                last = json.dumps({"code": error.status, "message": str(error)})
                await _send_event(send, last, name="error")
            else:
                await _send_event(send, last)
        await send({"type": "http.response.body", "body": b""})


async def _send_news(send: Send, news: Piece | Queued) -> None:
    if isinstance(news, Queued):
        await _send_event(send, json.dumps({"position": news.position}), name="queued")
    elif news.logprobs:
        said = {"text": news.text, "logprobs": [token.to_json() for token in news.logprobs]}
        await _send_event(send, json.dumps(said))
    else:
        await _send_event(send, json.dumps({"text": news.text}))


async def _send_event(send: Send, data: str, name: str | None = None) -> None:
    head = f"event: {name}\n" if name else ""
    body = f"{head}data: {data}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
