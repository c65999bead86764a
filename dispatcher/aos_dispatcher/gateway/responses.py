"""The answers to a request for text, whole or streamed: they follow its jobs, and give them up when the client leaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from aos_dispatcher.conversations import Turn
from aos_dispatcher.errors import ApiError, Unavailable
from aos_dispatcher.following import Following, News, Piece
from aos_dispatcher.gateway.chunks import Rendering, comment, failure
from aos_dispatcher.gateway.merging import merged
from aos_dispatcher.gateway.telling import Telling
from aos_dispatcher.metrics import FIRST_TEXT_SECONDS

log = structlog.get_logger()

KEEP_ALIVE_S: Final = 10.0
"""How long a stream says nothing at most."""

_LEFT: Final = "its client left before the answer was there"
_EVENTS: Final = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}

Places: TypeAlias = Callable[[str], Awaitable[int | None]]
"""How many jobs wait before this one; None when it waits no more."""


@dataclass(frozen=True)
class Answering:
    """Jobs that were submitted, and how their answers are told; `turn` is the conversation that they are part of.

    `since` is when they were asked for, by the monotonic clock.
    """

    following: Following
    rendering: Rendering
    stop: Sequence[str]
    headers: dict[str, str]
    places: Places
    since: float
    turn: Turn | None = None

    @asynccontextmanager
    async def news(self, telling: Telling) -> AsyncIterator[AsyncIterator[tuple[int, News] | None]]:
        """Follow all jobs. Those that are open when this is left are cancelled, since nobody waits for them any more."""
        reason = _LEFT
        try:
            async with AsyncExitStack() as stack:
                follow = [self.following.follow(job) for job in self.rendering.jobs]
                streams = [await stack.enter_async_context(each) for each in follow]
                yield await stack.enter_async_context(aclosing(merged(streams, KEEP_ALIVE_S)))
        except ApiError as error:
            reason = f"its request failed: {error}"
            error.headers = self.headers | error.headers
            raise
        finally:
            if self.turn is not None and not telling.whole:
                self.turn.drop()
            for job in telling.open:
                await self._give_up(job, reason)

    async def _give_up(self, job: str, reason: str) -> None:
        try:
            await self.following.abandon(job, reason, failed=False)
        except Unavailable as error:
            log.error("a job that nobody waits for is not cancelled", job_id=job, why=str(error))

    async def hear(self, telling: Telling, number: int, news: News) -> bytes:
        """Take news into `telling`; what a conversation keeps is kept before anybody hears of the end."""
        told = telling.hear(number, news)
        if self.turn is not None and telling.whole:
            await self.turn.finish(telling.endings[0].text)
        return told

    async def waiting(self, telling: Telling) -> bytes:
        """Return what is said when there is nothing to say: how many wait before the job, if it waits."""
        place = await self.places(telling.open[0])
        return comment("waiting" if place is None else f"queued {place}")


class WholeAnswer(Response):
    """One JSON document, once all jobs of the request have ended. Raises `JobFailed` when one has no answer."""

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        await unless_left(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = self._answering
        telling = Telling(answering.rendering, answering.stop)
        async with answering.news(telling) as news:
            async for said in news:
                if said is not None:
                    await answering.hear(telling, *said)
        answer = answering.rendering.whole(telling.endings)
        await JSONResponse(answer, headers=answering.headers)(scope, receive, send)


class EventStream(Response):
    """Server-sent events as the jobs come along.

    The status line waits for the first of them, so that a job which fails before has an honest status, and clients can try again. What
    fails later is told in an event, and no [DONE] follows.
    """

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        self._answering = answering

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application. Raises `ApiError` when nothing was sent yet."""
        await unless_left(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        answering, begun, silent = self._answering, False, True
        telling = Telling(answering.rendering, answering.stop)
        async with answering.news(telling) as news:
            try:
                async for said in news:
                    told = await (answering.hear(telling, *said) if said else answering.waiting(telling))
                    if not begun:
                        await _begin(send, answering.headers | _EVENTS)
                        told, begun = telling.begin() + told, True
                    await _send(send, told)
                    if silent and said and isinstance(said[1], Piece):
                        FIRST_TEXT_SECONDS.observe(time.monotonic() - answering.since)
                        silent = False
            except ApiError as error:
                if not begun:
                    raise
                log.warning("a stream broke", why=str(error))
                await _send(send, failure(error))
        await send({"type": "http.response.body", "body": b""})


async def unless_left(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but end it as soon as the client closes the connection."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin(send: Send, headers: dict[str, str]) -> None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": fields})


async def _send(send: Send, told: bytes) -> None:
    if told:
        await send({"type": "http.response.body", "body": told, "more_body": True})
