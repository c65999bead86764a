"""The WebSocket to the dispatcher: it carries texts between the socket and a `Session`, and connects again when it breaks."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, WebSocketException
from websockets.frames import CloseCode

from aos_operator.backoff import Backoff
from aos_operator.errors import (
    DispatcherLeaves,
    DispatcherRefused,
    LinkLost,
    Refused,
    Replaced,
    StartError,
    Unavailable,
)
from aos_operator.events import (
    AttestCall,
    CancelCall,
    DirectCall,
    DrawCall,
    JobCall,
    Say,
    Settled,
    Welcomed,
)
from aos_operator.offer import Offer
from aos_operator.outbox import Outbox, Wire
from aos_operator.session import MAX_FRAME_BYTES, Session
from aos_operator.tasks import Request, TaskKey
from aos_protocol.canonical import JsonObject, digest
from aos_protocol.errors import ProtocolError
from aos_protocol.identity import Signer
from aos_protocol.messages import Attest, DirectPrompt, Dispatch, Draw, ScoreCall
from aos_protocol.typed_data import Domain
from aos_service.tls import handshake_problem

CLOSE_REPLACED = 4001
"""The dispatcher's close code when a newer connection of the same operator took this one's place."""

_HANDSHAKE_S = 15.0
_PAUSE_LIMIT_S = 8.0
_STABLE_S = 10.0
_AT_ONCE = 64

_Call: TypeAlias = DrawCall | JobCall | CancelCall | AttestCall | DirectCall

_log = structlog.get_logger(__name__)


class Desk(Protocol):
    """What the dispatcher's requests are put to; every method may raise `Refused` or `Unavailable`."""

    def offer(self) -> Offer:
        """Return what is announced on the next connection."""
        ...

    async def admit(self, draw: Draw) -> None:
        """Return when a draw may be taken part in now."""
        ...

    async def take(self, request: Request) -> None:
        """Take a checked request durably."""
        ...

    async def cancel(self, keys: Iterable[TaskKey]) -> None:
        """Drop tasks, whichever of them there are."""
        ...

    async def attest(self, call: Attest) -> JsonObject:
        """Return a fresh attestation of the enclave, at once or not at all: nobody else may have to wait for it."""
        ...

    def relay(self, prompt: DirectPrompt) -> None:
        """Take a client's sealed prompt for a direct job, and begin to answer it by way of the dispatcher."""
        ...


@dataclass(frozen=True)
class Target:
    """Where the dispatcher is, whose key it must hold, how often the connection is tried, in seconds, and its domain if that is known.

    Of several `urls`, each leads to a process of the same dispatcher. `tls` is how wss:// addresses are connected to; None for what the
    system believes.
    """

    urls: tuple[str, ...]
    address: str
    heartbeat: float
    domain: Domain | None = None
    tls: ssl.SSLContext | None = None


class Link:
    """Keeps one connection to the dispatcher open."""

    def __init__(self, target: Target, signer: Signer, desk: Desk, outbox: Outbox) -> None:
        self._target = target
        self._signer = signer
        self._desk = desk
        self._outbox = outbox
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._socket: ClientConnection | None = None
        self.welcomed = asyncio.Event()
        """Set once the dispatcher has let this operator in for the first time."""
        self._tried = 0
        self._sent_away = 0
        self._renewing = False
        self._said: Offer | None = None
        self._taken: Offer | None = None
        self._refused: Offer | None = None

    @property
    def _url(self) -> str:
        return self._target.urls[self._tried % len(self._target.urls)]

    async def run(self) -> None:
        """Connect, and connect again, for ever, to the next URL whenever one fails.

        A process that is being stopped says so: then the next is tried at once, unless all of them have said so. Else there is a pause.

        Raises (in an exception group) `DispatcherRefused` or `WrongDispatcher` when the very first connection does not come
        about, since then something is set up wrongly; later ones are only logged. Raises `Replaced` at any time.
        """
        async with asyncio.TaskGroup() as answers:
            backoff = Backoff(limit=_PAUSE_LIMIT_S)
            while True:
                try:
                    await self._connect(answers, backoff)
                except StartError as error:
                    if isinstance(error, Replaced) or not self.welcomed.is_set():
                        raise
                    _log.error("the dispatcher does not let this operator in", problem=str(error))
                    if isinstance(error, DispatcherRefused) and self._takes_back():
                        continue
                except Unavailable as error:
                    if not self._renewing:
                        _log.warning("not connected to the dispatcher", url=self._url, problem=str(error))
                    if self._moves_at_once(error):
                        continue
                renewed = self._renewing
                self._turn()
                if not renewed:
                    await backoff.wait()

    async def renew(self) -> None:
        """Connect again, to announce a new offer."""
        if self._socket is not None:
            self._renewing = True
            await self._socket.close()

    def _moves_at_once(self, error: Unavailable) -> bool:
        """Go on to the next URL if this one's process is being stopped; False when there is none that was not tried yet."""
        self._sent_away += isinstance(error, DispatcherLeaves)
        if not isinstance(error, DispatcherLeaves) or self._sent_away >= len(self._target.urls):
            return False
        self._turn()
        return True

    def _turn(self) -> None:
        """Let the next attempt be at the next URL, unless the connection was only closed to announce a new offer."""
        self._tried += not self._renewing
        self._renewing = False

    def _announced(self) -> Offer:
        """What the next connection announces: the offer, or of one that was refused, what of it was taken before."""
        offer = self._desk.offer()
        if self._taken is None or offer != self._refused:
            return offer
        return offer.within(self._taken)

    def _takes_back(self) -> bool:
        """Leave out what is new in the offer that was refused, so that the rest is served; False when nothing of it is new."""
        said, taken = self._said, self._taken
        if said is None or taken is None or said.within(taken) == said:
            return False
        self._refused = said
        _log.error(
            "models that the dispatcher does not take are left out",
            models=sorted(set(said.models) - set(said.within(taken).models)),
        )
        return True

    async def _connect(self, answers: asyncio.TaskGroup, backoff: Backoff) -> None:
        async with self._open() as socket:
            target = self._target
            self._said = offer = self._announced()
            session = Session(self._signer, target.address, offer, target.domain)
            wire = _SocketWire(socket)
            welcomed = await _shake_hands(session, socket, wire)
            await self._outbox.attach(session, wire, welcomed.last_seen)
            self._socket, self._sent_away, self._taken = socket, 0, offer
            self.welcomed.set()
            _log.info("connected to the dispatcher", url=self._url, dispatcher=self._target.address)
            since = asyncio.get_running_loop().time()
            try:
                await self._read(session, socket, wire, answers)
            finally:
                self._outbox.detach()
                self._socket = None
                if asyncio.get_running_loop().time() - since > _STABLE_S:
                    backoff.reset()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ClientConnection]:
        heartbeat = self._target.heartbeat
        try:
            async with connect(
                self._url,
                ssl=self._target.tls,
                open_timeout=_HANDSHAKE_S,
                ping_interval=heartbeat,
                ping_timeout=2 * heartbeat,
                close_timeout=1,
                # A frame somewhat too large gets an answer; a huge one ends the connection.
                max_size=2 * MAX_FRAME_BYTES,
                proxy=None,
            ) as socket:
                yield socket
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == CLOSE_REPLACED:
                raise Replaced from error
            if error.rcvd is not None and error.rcvd.code == CloseCode.SERVICE_RESTART:
                raise DispatcherLeaves from error
            raise LinkLost(f"the connection was closed ({error})") from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise LinkLost(f"cannot connect ({_problem(error, self._target)})") from error

    async def _read(
        self, session: Session, socket: ClientConnection, wire: Wire, answers: asyncio.TaskGroup
    ) -> None:
        while True:
            match session.receive(await socket.recv()):
                case Settled() as reply:
                    self._outbox.settle(reply)
                case Say(text):
                    await wire.send(text)
                case DrawCall() | JobCall() | CancelCall() | AttestCall() | DirectCall() as call:
                    await self._slots.acquire()
                    answers.create_task(self._answer(session, wire, call))

    async def _answer(self, session: Session, wire: Wire, call: _Call) -> None:
        """Answer one request. That the connection is gone is for `_read` to report."""
        try:
            reply = await self._reply(session, call)
            if reply is not None:
                await wire.send(reply)
        except LinkLost:
            _log.debug("an answer came too late for its connection")
        finally:
            self._slots.release()

    async def _reply(self, session: Session, call: _Call) -> str | None:
        """Carry a request out and make its reply; None when it has been sent already."""
        try:
            return await self._carry_out(session, call)
        except LinkLost:
            raise
        except (Refused, ProtocolError, Unavailable) as error:
            code = (
                error.code if isinstance(error, Refused) else 503 if isinstance(error, Unavailable) else 400
            )
            _log.warning("declined a request", request=type(call).__name__, code=code, reason=str(error))
            return session.reply(call.frame_id, code, str(error))

    async def _carry_out(self, session: Session, call: _Call) -> str | None:
        attestation = accepted = None
        match call:
            case DrawCall():
                await self._desk.admit(call.draw)
                await self._outbox.ticket(call)
                return None
            case JobCall(request=request):
                if isinstance(request, ScoreCall):
                    await asyncio.to_thread(session.check_subject, request)
                await self._desk.take(request)
                accepted = _accepted(request)
            case CancelCall(keys=keys):
                await self._desk.cancel(keys)
            case AttestCall(attest=attest):
                attestation = await self._desk.attest(attest)
            case DirectCall(prompt=prompt):
                self._desk.relay(prompt)
        return session.reply(call.frame_id, attestation=attestation, accepted=accepted)


def _accepted(request: Request) -> str | None:
    """Return what this operator accepts with a direct job: its session, which names its key."""
    if not isinstance(request, Dispatch) or request.session is None:
        return None
    return digest(request.session.to_json())


def _problem(error: Exception, target: Target) -> str:
    """Say why no connection came about; who refuses a client certificate often ends the connection without saying so."""
    said = handshake_problem(error) or str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{said}; is it of an authority in net.tls.ca?"
    if target.tls is not None and isinstance(error, InvalidMessage | ConnectionError):
        said += "; if the dispatcher asks for client certificates: is net.tls.certificate one of its client_ca, and still valid?"
    return said


class _SocketWire:
    """`Wire` on a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        """See `Wire.send`."""
        try:
            await self._socket.send(text)
        except ConnectionClosed as error:
            raise LinkLost from error


async def _shake_hands(session: Session, socket: ClientConnection, wire: Wire) -> Welcomed:
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            while True:
                match session.receive(await socket.recv()):
                    case Say(text):
                        await wire.send(text)
                    case Welcomed() as welcomed:
                        return welcomed
    except TimeoutError:
        raise LinkLost(
            f"no challenge and welcome within {_HANDSHAKE_S:g} s: is an AOS dispatcher there?"
        ) from None
