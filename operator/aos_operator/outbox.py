"""The one way out for everything that carries a clock, so that clocks never run backwards on the wire.

Each sending takes the next number of the counter, is signed with it and is handed to the connection, all under one lock.
A number is durable before it leaves (`counter`).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from aos_operator.counter import Counter
from aos_operator.errors import LinkLost
from aos_operator.events import DrawCall, Settled
from aos_operator.session import Session
from aos_operator.tasks import Task
from aos_protocol.canonical import JsonObject
from aos_protocol.typed_data import Domain


class Wire(Protocol):
    """A connection that takes texts, in order. `send` raises `LinkLost` when it is gone."""

    async def send(self, text: str) -> None:
        """Hand a text to the connection."""
        ...


@dataclass(frozen=True)
class _Open:
    """The open connection, and who waits for a reply on it, by frame id."""

    session: Session
    wire: Wire
    waiting: dict[str, asyncio.Future[Settled]] = field(default_factory=dict)


class Outbox:
    """Sends tickets, results and scores over whichever connection is open; `patience` is the wait for a reply, in seconds."""

    def __init__(self, counter: Counter, patience: float = 30.0) -> None:
        self._counter = counter
        self._patience = patience
        self._lock = asyncio.Lock()
        self._opened = asyncio.Event()
        self._open: _Open | None = None
        self._domain: Domain | None = None
        self.connection = 0
        """How many connections there have been."""

    async def attach(self, session: Session, wire: Wire, last_seen: int) -> None:
        """Use this connection from now on. Raises `StoreUnavailable` when the counter cannot be lifted."""
        async with self._lock:
            await self._counter.lift(last_seen)
            self._open = _Open(session, wire)
            self._domain = session.domain
            self.connection += 1
            self._opened.set()

    def detach(self) -> None:
        """Use no connection; whoever waits for a reply learns that there will be none."""
        closed, self._open = self._open, None
        self._opened.clear()
        for reply in closed.waiting.values() if closed else ():
            if not reply.done():
                reply.set_exception(LinkLost())
                reply.exception()  # seen: whoever is still sending will not wait for it

    async def ticket(self, call: DrawCall) -> None:
        """Answer a draw with this operator's ticket. Raises `StoreUnavailable` or `LinkLost`."""
        async with self._lock:
            link = self._connection()
            await link.wire.send(link.session.ticket(call, await self._counter.next()))

    async def result(self, task: Task) -> Settled:
        """Send a task's result or score, once there is a connection, and return the dispatcher's reply.

        Raises `StoreUnavailable` or `LinkLost`; then it is not known whether the dispatcher has it.
        """
        await self._opened.wait()
        link, frame_id, reply = await self._send_result(task)
        try:
            async with asyncio.timeout(self._patience):
                return await reply
        except TimeoutError:
            raise LinkLost(
                f"the dispatcher did not reply to a result or score within {self._patience:g} s"
            ) from None
        finally:
            del link.waiting[frame_id]

    async def ask(self, method: str, param: JsonObject) -> Settled:
        """Send a request that has no clock, once there is a connection, and return the dispatcher's reply. Raises `LinkLost`."""
        await self._opened.wait()
        link = self._connection()
        frame_id, text = link.session.ask(method, param)
        reply: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        link.waiting[frame_id] = reply
        try:
            async with asyncio.timeout(self._patience):
                await link.wire.send(text)
                return await reply
        except TimeoutError:
            raise LinkLost(f"the dispatcher did not reply to {method} within {self._patience:g} s") from None
        finally:
            del link.waiting[frame_id]

    async def notice(self, method: str, param: JsonObject) -> None:
        """Send what has no clock and gets no reply, over the connection that is open. Raises `LinkLost` when there is none, or it is gone."""
        link = self._connection()
        await link.wire.send(link.session.notice(method, param))

    async def domain(self) -> Domain:
        """Return where this dispatcher's signatures are valid, as it said last; before that, wait for the first connection."""
        while self._domain is None:
            await self._opened.wait()
        return self._domain

    def settle(self, reply: Settled) -> None:
        """Give the dispatcher's reply to whoever waits for it; nobody may, after a time-out or a cancellation."""
        waiting = self._open.waiting.get(reply.frame_id) if self._open else None
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    async def _send_result(self, task: Task) -> tuple[_Open, str, asyncio.Future[Settled]]:
        async with self._lock:
            link = self._connection()
            frame_id, text = link.session.result(task, await self._counter.next())
            reply = link.waiting[frame_id] = asyncio.get_running_loop().create_future()
            try:
                await link.wire.send(text)
            except BaseException:
                del link.waiting[frame_id]
                raise
            return link, frame_id, reply

    def _connection(self) -> _Open:
        if self._open is None:
            raise LinkLost
        return self._open
