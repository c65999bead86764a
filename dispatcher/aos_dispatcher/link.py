"""`/ws`: the handshake with an operator and the loop that reads its frames (docs/protocol.md).

`Greeting` is the handshake without I/O; `OperatorLink` drives one connection over a `Socket`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from aos_dispatcher.epochs import Epochs
from aos_dispatcher.errors import DispatcherError, Refused, Unavailable
from aos_dispatcher.hub import OVERTAKEN, Connection, Hub, Peer
from aos_dispatcher.metrics import FRAMES_REFUSED
from aos_dispatcher.operators import Operators
from aos_protocol.canonical import JsonObject
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame, open_object, param_text, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import Challenge, Connect, Welcome
from aos_protocol.typed_data import Domain

log = structlog.get_logger()

POLICY_VIOLATION = 1008
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
REPLACED = 4001
"""WebSocket close codes (RFC 6455, section 7.4, and IANA's registry); 4001 is ours: another connection of the same operator took over."""

_HANDSHAKE_S = 10.0
_HANDSHAKE_BYTES = 1 << 17  # 256 models with their digests; whoever is not admitted yet shall cost little
_MOST_REFUSALS = 100
_MOST_AT_THE_DOOR = 256  # who shake hands at once: so many are through in time even where the machine is busy, and of more nobody would be
_CROWDED = "too many operators come at once; come again in a while"
_LEAVING = "this dispatcher is being stopped; connect to another, or again"
_AWAY = 503, "the database does not answer; send this again"
_MOST_AT_ONCE = 64  # frames of one operator that are verified and stored at once


class Socket(Protocol):
    """What a connection must offer; `receive` returns None at its end."""

    async def receive(self) -> str | bytes | None:
        """Return the next message."""

    async def send(self, text: str) -> None:
        """Send one text message."""

    async def close(self, reason: str, code: int = POLICY_VIOLATION) -> None:
        """Close, giving the peer a reason and a WebSocket close code."""


_Take = Callable[[Peer, Frame], Awaitable[JsonObject | None]]
_Note = Callable[[Frame], None]


class Greeting:
    """One handshake: the challenge that is sent, and the check of what answers it."""

    def __init__(self, signer: Signer, domain: Domain) -> None:
        self._nonce = secrets.token_hex(32)
        challenge = Challenge(
            nonce=self._nonce,
            dispatcher=signer.address,
            public_key=signer.public_key.hex(),
            chain_id=domain.chain_id,
            registry=domain.registry,
        )
        self.frame = seal_request(signer, secrets.token_hex(8), "challenge", [challenge.to_json()])

    def check(self, frame: Frame) -> Connect:
        """Return the operator's `connect` once its own seal, signer and nonce are good. Raises `ProtocolError`, `Refused`."""
        if frame.method != "connect" or len(frame.params) != 1:
            raise Refused(400, "the first frame of an operator must be 'connect' with one parameter")
        connect = parse_message(Connect, frame.params[0])
        _, signer = open_object(param_text(frame))
        if not signer == connect.operator == frame.address:
            raise Refused(
                400,
                f"'connect' speaks for {connect.operator}, but is signed by {signer} in a frame of {frame.address}",
            )
        if connect.nonce != self._nonce:
            raise Refused(400, "'connect' answers another challenge than the one sent on this connection")
        return connect


@dataclass(frozen=True)
class OperatorLink:
    """Serves operators' connections.

    `methods` are what an operator may request, each with what stores it or raises `Refused` with the reply's code; `notices` what it
    may say without a clock, to no reply, each with what takes it in at once or raises `ProtocolError`; `asks` what it may request without
    a clock, each with what says the reply or raises as `methods` do; `keep` stores what an operator signed
    and was refused, with the reason. While `leaving` is set, operators are sent elsewhere.
    """

    signer: Signer
    domain: Domain
    hub: Hub
    operators: Operators
    epochs: Epochs
    frame_bytes: int
    methods: Mapping[str, _Take]
    notices: Mapping[str, _Note]
    asks: Mapping[str, _Take]
    keep: Callable[[Frame, str], Awaitable[None]]
    leaving: asyncio.Event
    door: set[object] = field(default_factory=set, init=False, repr=False)

    async def serve(self, socket: Socket) -> None:
        """Run one connection from its challenge to its end."""
        if self.leaving.is_set():
            await socket.close(_LEAVING, SERVICE_RESTART)
            return
        peer = await self._admit(socket)
        if peer is None:
            return
        if self.leaving.is_set():  # it began while they shook hands
            await socket.close(_LEAVING, SERVICE_RESTART)
            return
        self.hub.add(peer)
        log.info(
            "operator connected", operator=peer.address, models=sorted({name for _, name in peer.serves})
        )
        reading = asyncio.create_task(self._read(socket, peer))
        replaced = asyncio.create_task(peer.wait_closed())
        try:
            await asyncio.wait({reading, replaced}, return_when=asyncio.FIRST_COMPLETED)
            if replaced.done() and not reading.done():
                await _close_ours(socket, peer)
        finally:
            self.hub.remove(peer)
            for task in (reading, replaced):
                task.cancel()
            ended = await asyncio.gather(reading, replaced, return_exceptions=True)
            log.info("operator left", operator=peer.address)
        if isinstance(ended[0], Exception):
            raise ended[0]

    async def _admit(self, socket: Socket) -> Connection | None:
        """Shake hands in time, if not too many do so already; None for a connection that was closed instead."""
        if len(self.door) >= _MOST_AT_THE_DOOR:
            FRAMES_REFUSED.labels("crowded").inc()
            await socket.close(_CROWDED, TRY_AGAIN_LATER)
            return None
        place = object()
        self.door.add(place)
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                return await self._welcome(socket)
        except TimeoutError:
            await socket.close("no 'connect' within 10 seconds")
            return None
        finally:
            self.door.discard(place)

    async def _welcome(self, socket: Socket) -> Connection | None:
        greeting = Greeting(self.signer, self.domain)
        await socket.send(greeting.frame.text)
        text = await socket.receive()
        if text is None:
            return None
        request_id = ""
        try:
            frame = open_frame(text, max_bytes=_HANDSHAKE_BYTES)
            request_id = frame.id
            connect = greeting.check(frame)
            number, seen = await self.operators.admit(connect.operator, connect.workers, connect.models)
            epoch = await self.epochs.next()
        except (ProtocolError, DispatcherError, Unavailable) as error:
            FRAMES_REFUSED.labels("handshake").inc()
            log.warning("operator refused", why=str(error))
            code = (
                error.code if isinstance(error, Refused) else 503 if isinstance(error, Unavailable) else 400
            )
            refusal: JsonObject = {"code": code, "message": str(error)}
            await socket.send(seal_reply(self.signer, request_id, refusal).text)
            await socket.close("refused: " + str(error)[:100])
            return None
        welcome = Welcome(number=number, clock={str(number): str(seen)} if seen else {})
        await socket.send(seal_reply(self.signer, frame.id, welcome.to_json()).text)
        return Connection(
            connect.operator,
            number,
            epoch=epoch,
            seen=seen,
            workers=connect.workers,
            models=connect.models,
            direct=connect.direct,
            signer=self.signer,
            send=lambda frame: socket.send(frame.text),
        )

    async def _read(self, socket: Socket, peer: Connection) -> None:
        talk = _Talk(peer)
        while (text := await socket.receive()) is not None:
            try:
                frame = open_frame(text, max_bytes=self.frame_bytes)
            except ProtocolError as error:
                await self._refuse(talk, None, error)
            else:
                await self._handle(talk, frame)
            if talk.failed is not None:
                raise talk.failed
            if talk.refusals >= _MOST_REFUSALS:
                await socket.close(f"{talk.refusals} frames of this connection were refused")
                return

    async def _handle(self, talk: "_Talk", frame: Frame) -> None:
        """Take a reply at once; verify and store what an operator says beside other frames, a bounded number of them."""
        try:
            take = self._observed(talk.peer, frame)
        except (ProtocolError, Refused) as error:
            await self._refuse(talk, frame, error)
            return
        if take is not None:
            await talk.room.acquire()
            # Not cancelled with the connection: what is being stored is known to its round when it is.
            taking = asyncio.create_task(self._take(talk, frame, take))
            talk.taking.add(taking)
            taking.add_done_callback(talk.taken)

    def _observed(self, peer: Connection, frame: Frame) -> _Take | None:
        """Hold a frame against its connection, in the order of arrival; returns who takes it in, None for a reply or a notice."""
        if frame.address != peer.address:
            raise Refused(
                400, f"this connection belongs to {peer.address}; the frame is signed by {frame.address}"
            )
        if frame.result is not None:
            ticket = frame.result.get("ticket")
            if isinstance(ticket, dict):
                peer.observe(ticket.get("clock"), frame)
            peer.receive_reply(frame)
            return None
        note = self.notices.get(frame.method or "")
        if note is not None and len(frame.params) == 1:
            note(frame)
            return None
        ask = self.asks.get(frame.method or "")
        if ask is not None and len(frame.params) == 1:
            return ask
        take = self.methods.get(frame.method or "")
        if take is None or len(frame.params) != 1:
            raise Refused(
                400,
                f"method {frame.method!r} is not understood here; an operator sends {' or '.join(self.methods)}",
            )
        peer.observe(frame.params[0].get("clock"), frame)
        return take

    async def _take(self, talk: "_Talk", frame: Frame, take: _Take) -> None:
        peer = talk.peer
        try:
            said: JsonObject = {"code": 200, "message": "success"}
            await peer.reply(frame.id, said | (await take(peer, frame) or {}))
        except (ProtocolError, Refused) as error:
            await self._refuse(talk, frame, error)
        except Unavailable as error:
            log.error(
                "database away; the operator will send this again", why=str(error), operator=peer.address
            )
            code, message = _AWAY
            await peer.reply(frame.id, {"code": code, "message": message})

    async def _refuse(self, talk: "_Talk", frame: Frame | None, error: ProtocolError | Refused) -> None:
        peer = talk.peer
        talk.refusals += 1
        FRAMES_REFUSED.labels(type(error).__name__).inc()
        log.warning(
            "frame refused", operator=peer.address, method=frame.method if frame else None, why=str(error)
        )
        if frame is None or frame.method in self.notices:
            return
        code, why = error.code if isinstance(error, Refused) else 400, str(error)
        if code in {400, OVERTAKEN} and frame.address == peer.address and frame.method not in self.asks:
            try:
                await self.keep(frame, why)
            except Unavailable as away:
                log.error("database away; what was refused is not kept", why=str(away), operator=peer.address)
                code, why = _AWAY
        if frame.method is not None:
            await peer.reply(frame.id, {"code": code, "message": why})


class _Talk:
    """One connection: how many frames were refused on it, and those that are being taken in."""

    def __init__(self, peer: Connection) -> None:
        self.peer = peer
        self.refusals = 0
        self.room = asyncio.Semaphore(_MOST_AT_ONCE)
        self.taking: set[asyncio.Task[None]] = set()
        self.failed: BaseException | None = None

    def taken(self, task: asyncio.Task[None]) -> None:
        """Make room for another frame; a defect of ours ends the connection at the next one."""
        self.taking.discard(task)
        self.room.release()
        if not task.cancelled():
            self.failed = self.failed or task.exception()


async def _close_ours(socket: Socket, peer: Connection) -> None:
    """Close a connection that this side ends."""
    if peer.replaced:
        await socket.close("replaced by a newer connection of the same operator", REPLACED)
    else:
        await socket.close(_LEAVING, SERVICE_RESTART)
