"""A dispatcher for the operator's tests: it speaks the real protocol over a real WebSocket, and a test decides what it says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from aos_operator.tasks import Method, Request, TaskKey
from aos_protocol.clock import VectorClock
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import Connect, Dispatch, JobResult, JobScore, ScoreCall, Ticket, Vrf
from aos_protocol.verification import check_ticket
from unit.operator.world import NUMBER, OPERATOR, World

Answer: TypeAlias = tuple[int, str] | None
Said: TypeAlias = JobResult | JobScore


class FakeDispatcher:
    """Accepts one operator at a time; keeps every accepted result and score by its task, and every counter it has seen.

    As a real one, it answers a repetition of what it has accepted with 200 and keeps nothing of it; another result or score for
    the same task is a problem. `problems` must be empty in the end.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.url = ""
        self.port = 0
        self.connects: list[Connect] = []
        self.accepted: dict[TaskKey, Said] = {}
        self.counters: list[int] = []
        self.refuse: str | None = None
        self.repetitions = 0
        self.unreachable = False
        self.leaving = False
        self.lose_replies = False
        self.problems: list[str] = []
        self.answer: Callable[[Said], Answer] = lambda _: (200, "success")
        self.connected = asyncio.Event()
        self.progress = asyncio.Condition()
        self.sent: dict[TaskKey, Request] = {}
        self.tickets: dict[TaskKey, Ticket] = {}
        self._socket: ServerConnection | None = None
        self._replies: dict[str, asyncio.Future[Frame]] = {}

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FakeDispatcher"]:
        """Listen on loopback, on the port if it is given."""
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

    async def draw(self, request: Request) -> dict[str, Any]:
        """Call for a ticket and verify it."""
        draw = self.world.draw(request)
        result = await self.ask("draw", draw.to_json())
        if result["code"] == 200:
            ticket = parse_message(Ticket, result["ticket"])
            check_ticket(ticket, draw, OPERATOR.address)
            self.tickets[TaskKey.of(request)] = ticket
        return result

    async def dispatch(self, request: Request) -> dict[str, Any]:
        """Dispatch a job, or call for a score."""
        self.sent[TaskKey.of(request)] = request
        return await self.ask(Method.of(request), request.to_json())

    async def run(self, request: Request) -> None:
        """Draw, dispatch, and wait for what comes of it."""
        assert (await self.draw(request))["code"] == 200
        assert (await self.dispatch(request))["code"] == 200
        await self.done(request)

    async def done(self, request: Request) -> None:
        """Wait for a request's accepted result or score."""
        key = TaskKey.of(request)
        async with self.progress:
            await self.progress.wait_for(lambda: key in self.accepted)

    async def result_of(self, dispatch: Dispatch) -> JobResult:
        """Wait for a dispatch's accepted result."""
        await self.done(dispatch)
        return cast("JobResult", self.accepted[TaskKey.of(dispatch)])

    async def score_of(self, call: ScoreCall) -> JobScore:
        """Wait for a call's accepted score."""
        await self.done(call)
        return cast("JobScore", self.accepted[TaskKey.of(call)])

    async def reconnected(self, times: int) -> None:
        """Wait until the operator has connected this many times in all, and is connected."""
        while len(self.connects) < times or not self.connected.is_set():
            await asyncio.sleep(0.01)

    async def insist(self, jobs: Sequence[Request]) -> None:
        """Dispatch all of them until it was acknowledged, over as many connections as that takes."""
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
        if self.unreachable or self.leaving:
            await socket.close(CloseCode.SERVICE_RESTART if self.leaving else 1013)
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
        key, said = self._verified(frame)
        self._count(said.clock)
        answer = self.answer(said)
        if answer is None:
            return
        if answer[0] == 200:
            self._accept(key, said)
        async with self.progress:
            self.progress.notify_all()
        if not self.lose_replies:
            await socket.send(self.world.reply(frame.id, *answer))

    def _verified(self, frame: Frame) -> tuple[TaskKey, Said]:
        param = cast("dict[str, Any]", frame.params[0])
        if frame.method == "job_score":
            key = TaskKey(param["job_id"], param["tag"], param["challenge"], Method.SCORE)
            call = cast("ScoreCall", self.sent[key])
            ticket = self.tickets.get(key) or _ticket_of(param, call)
            return key, self.world.verify_score(frame, call, ticket)
        assert frame.method == "job_result"
        key = TaskKey(param["job_id"], param["tag"])
        dispatch = cast("Dispatch", self.sent[key])
        return key, self.world.verify(frame, dispatch, self.tickets.get(key) or _ticket_of(param, dispatch))

    def _accept(self, key: TaskKey, said: Said) -> None:
        earlier = self.accepted.setdefault(key, said)
        if earlier is not said:
            self.repetitions += 1
            assert _content(earlier) == _content(said), "two answers to one request"

    def _count(self, clock: dict[str, str]) -> None:
        counter = VectorClock.from_map(clock).get(NUMBER)
        assert counter > max(self.counters, default=0), "the operator's clock ran backwards"
        self.counters.append(counter)


def _content(said: Said) -> Said:
    """A result or score without what changes at each sending."""
    afresh = {"clock": {}, "signature": ""} | ({"counter": 1} if isinstance(said, JobResult) else {})
    return said.model_copy(update=afresh)


def _ticket_of(said: dict[str, Any], request: Request) -> Ticket:
    """The ticket that a result or score carries, for a test that held no draw."""
    return Ticket(
        job_id=request.job_id,
        tag=request.tag,
        position=request.position,
        challenge=request.challenge if isinstance(request, ScoreCall) else 0,
        operator=said["operator"],
        vrf=Vrf.model_validate(said["vrf"]),
        clock=said["clock"],
    )
