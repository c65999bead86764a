"""A dispatcher for the operator's tests: it speaks the real protocol over a real WebSocket, and a test decides what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from aos_protocol.clock import VectorClock
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import Connect, Dispatch, JobResult, Ticket, Vrf, parse_message
from aos_protocol.verification import check_ticket
from unit.operator.world import NUMBER, OPERATOR, World

Answer = tuple[int, str] | None


class FakeDispatcher:
    """Accepts one operator at a time; keeps every accepted result by (job, tag), and every counter it has seen.

    As a real one, it answers a repetition of an accepted result with 200 and keeps nothing of it; another result for
    the same job is a problem. `problems` must be empty in the end.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.url = ""
        self.port = 0
        self.connects: list[Connect] = []
        self.accepted: dict[tuple[str, str], JobResult] = {}
        self.counters: list[int] = []
        self.refuse: str | None = None
        self.repetitions = 0
        self.unreachable = False
        self.lose_replies = False
        self.problems: list[str] = []
        self.answer: Callable[[JobResult], Answer] = lambda _: (200, "success")
        self.connected = asyncio.Event()
        self.progress = asyncio.Condition()
        self.sent: dict[tuple[str, str], Dispatch] = {}
        self.tickets: dict[tuple[str, str], Ticket] = {}
        self._socket: ServerConnection | None = None
        self._replies: dict[str, asyncio.Future[Frame]] = {}

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FakeDispatcher"]:
        """Listen on loopback, on the same port again when it is given."""
        async with serve(self._serve, "127.0.0.1", port, max_size=8 << 20) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://127.0.0.1:{self.port}/ws"
            yield self

    async def ask(self, method: str, param: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the operator that is connected and return the result of its reply."""
        text = self.world.request(method, param)
        frame = open_frame(text, max_bytes=4 << 20)
        reply = self._replies[frame.id] = asyncio.get_running_loop().create_future()
        await self.raw(text)
        return (await reply).result or {}

    async def raw(self, text: str) -> None:
        """Send any text to the operator that is connected."""
        await self.connected.wait()
        assert self._socket is not None
        await self._socket.send(text)

    async def expect_refusal(self, text: str, frame_id: str) -> str:
        """Send a request of our own making and return why it was refused."""
        reply = self._replies[frame_id] = asyncio.get_running_loop().create_future()
        await self.raw(text)
        result = (await reply).result or {}
        assert result["code"] == 400
        return str(result["message"])

    async def drop(self, code: int = 1011) -> None:
        """Close the operator's connection."""
        assert self._socket is not None
        self.connected.clear()
        await self._socket.close(code)

    async def draw(self, dispatch: Dispatch) -> dict[str, Any]:
        """Call for a ticket and verify it."""
        draw = self.world.draw(dispatch)
        result = await self.ask("draw", draw.to_json())
        if result["code"] == 200:
            ticket = parse_message(Ticket, result["ticket"])
            check_ticket(ticket, draw, OPERATOR.address)
            self.tickets[dispatch.job_id, dispatch.tag] = ticket
        return result

    async def dispatch(self, dispatch: Dispatch) -> dict[str, Any]:
        """Dispatch a job."""
        self.sent[dispatch.job_id, dispatch.tag] = dispatch
        return await self.ask("dispatch_job", dispatch.to_json())

    async def run(self, dispatch: Dispatch) -> JobResult:
        """Draw, dispatch, and wait for the accepted result."""
        assert (await self.draw(dispatch))["code"] == 200
        assert (await self.dispatch(dispatch))["code"] == 200
        return await self.result_of(dispatch)

    async def result_of(self, dispatch: Dispatch) -> JobResult:
        """Wait for a dispatch's accepted result."""
        key = dispatch.job_id, dispatch.tag
        async with self.progress:
            await self.progress.wait_for(lambda: key in self.accepted)
        return self.accepted[key]

    async def reconnected(self, times: int) -> None:
        """Wait until the operator has connected this many times in all, and is connected."""
        while len(self.connects) < times or not self.connected.is_set():
            await asyncio.sleep(0.01)

    async def insist(self, jobs: Sequence[Dispatch]) -> None:
        """Dispatch every job until it was acknowledged, over as many connections as that takes."""
        for job in jobs:
            while True:
                await self.connected.wait()
                try:
                    async with asyncio.timeout(1):
                        if (await self.dispatch(job))["code"] == 200:
                            break
                except (TimeoutError, ConnectionClosed):
                    continue

    async def _serve(self, socket: ServerConnection) -> None:
        if self.unreachable:
            await socket.close(1013)
            return
        await socket.send(self.world.challenge())
        frame = open_frame(await socket.recv())
        connect = parse_message(Connect, frame.params[0])
        assert connect.nonce == self.world.nonce
        self.connects.append(connect)
        if self.refuse is not None:
            await socket.send(self.world.reply(frame.id, 400, self.refuse))
            return
        await socket.send(self.world.welcome(frame, max(self.counters, default=0)))
        self._socket = socket
        self.connected.set()
        try:
            async for text in socket:
                await self._receive(socket, open_frame(text, max_bytes=4 << 20))
        except ConnectionClosed:
            pass
        except (AssertionError, ProtocolError) as error:
            self.problems.append(str(error))
            raise
        finally:
            if self._socket is socket:
                self.connected.clear()

    async def _receive(self, socket: ServerConnection, frame: Frame) -> None:
        if frame.method is None:
            ticket = (frame.result or {}).get("ticket")
            if ticket is not None:
                self._count(parse_message(Ticket, ticket).clock)
            waiting = self._replies.pop(frame.id)
            if not waiting.done():
                waiting.set_result(frame)
            return
        assert frame.method == "job_result"
        key = (str(frame.params[0]["job_id"]), str(frame.params[0]["tag"]))
        dispatch = self.sent[key]
        result = self.world.verify(frame, dispatch, self.tickets.get(key) or _ticket_of(frame, dispatch))
        self._count(result.clock)
        answer = self.answer(result)
        if answer is None:
            return
        if answer[0] == 200:
            self._accept(key, result)
        async with self.progress:
            self.progress.notify_all()
        if not self.lose_replies:
            await socket.send(self.world.reply(frame.id, *answer))

    def _accept(self, key: tuple[str, str], result: JobResult) -> None:
        earlier = self.accepted.setdefault(key, result)
        if earlier is not result:
            self.repetitions += 1
            assert _content(earlier) == _content(result), "two results for one job"

    def _count(self, clock: dict[str, str]) -> None:
        counter = VectorClock.from_map(clock).get(NUMBER)
        assert counter > max(self.counters, default=0), "the operator's clock ran backwards"
        self.counters.append(counter)


def _content(result: JobResult) -> JobResult:
    """A result without what changes at each sending."""
    return result.model_copy(update={"clock": {}, "signature": ""})


def _ticket_of(frame: Frame, dispatch: Dispatch) -> Ticket:
    """The ticket that a result carries, for a test that held no draw."""
    said = JobResult.model_validate(frame.params[0])
    return Ticket(
        job_id=dispatch.job_id,
        tag=dispatch.tag,
        position=dispatch.position,
        operator=said.operator,
        vrf=Vrf.model_validate(said.vrf.model_dump()),
        clock=said.clock,
    )
