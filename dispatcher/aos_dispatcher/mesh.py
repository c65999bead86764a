"""Several processes of one dispatcher, over one PostgreSQL: which operators are connected where, and what is passed on.

1. Each process says who is connected to it: all of them at its start and at every heartbeat, and each that comes or goes. Who is connected elsewhere
   is in the `Hub` like everybody else; whoever is not heard of for some heartbeats is forgotten, with the operators.
2. A request to an operator elsewhere goes to the process that has its connection, and the reply comes back as the operator signed it.
3. What an operator says of a round goes to the process that leads it, whose answer goes back.
4. What it streams of a job goes to all, for the leader is among them; what the leader makes of that goes to all, for whoever follows the job.

All of it may be lost: then requests time out, and operators send again. What is true stands in PostgreSQL.
"""

import asyncio
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, assert_never

import structlog

from aos_dispatcher.errors import PeerGone, Refused, ReplyTimeout, Unavailable
from aos_dispatcher.hub import Connection, Hub, Peer, counter_of
from aos_dispatcher.mesh_bus import Bus
from aos_dispatcher.mesh_messages import (
    ALL,
    Call,
    Cancelled,
    Deltas,
    Direct,
    Ended,
    GivenUp,
    Gone,
    Here,
    InvalidMeshMessage,
    Message,
    Presence,
    Reply,
    Seal,
    State,
    Statement,
    Stream,
    Taken,
    Wake,
)
from aos_dispatcher.metrics import MESH_PROCESSES, MESH_REFUSED
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import Frame, open_frame
from aos_protocol.identity import Signer
from aos_protocol.messages import Delta

log = structlog.get_logger()

MISSED: Final = 3.5
"""Heartbeats that may be missed before a process is taken for gone."""

_TAKE_S: Final = 10.0  # until the leader of a round has stored a statement; then the operator sends it again
_MOST_CARRIED: Final = 4096  # requests and statements of others at the same time
_QUIET: Final = 256  # refused messages between two lines of the log

NOT_NOW: Final = 503
_BETWEEN: Final = "the job is between two dispatchers; send this again"


class Errands(Protocol):
    """What other processes want of this one."""

    def wake(self) -> None:
        """Look for open rounds."""

    def cancelled(self, job_id: str) -> None:
        """Stop working on a job, if it is led here."""

    async def take(self, peer: Peer, frame: Frame) -> None:
        """Take a statement in. Raises `Refused`, `ProtocolError` or `Unavailable`."""

    def streamed(self, said: Stream | Deltas | GivenUp | Ended | Direct) -> None:
        """Take in what comes of streamed and direct jobs. Raises `Refused` or `ProtocolError`."""


@dataclass
class _Process:
    """Another process: when it was heard last, and the operators that are connected to it."""

    heard: float
    operators: dict[str, Peer] = field(default_factory=dict)


class Mesh:
    """This process among the others. `run` it; before that, and without Redis, it knows of nobody else.

    It speaks every `heartbeat` seconds, and waits `patience` seconds for operators' replies to requests of others.
    """

    def __init__(
        self,
        bus: Bus,
        hub: Hub,
        signer: Signer,
        process: str,
        *,
        heartbeat: float,
        patience: float,
        frame_bytes: int,
    ) -> None:
        self.process = process
        self._bus = bus
        self._hub = hub
        self._signer = signer
        self._seal = Seal(signer, process)
        self._heartbeat = heartbeat
        self._patience = patience
        self._frame_bytes = frame_bytes
        self._others: dict[str, _Process] = {}
        self._announced: dict[str, int] = {}
        self._statements: dict[str, tuple[str, asyncio.Future[Taken]]] = {}
        self._carried: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._channel = f"aos:mesh:{signer.address}"
        hub.on_change(self._changed)

    async def run(self, errands: Errands) -> None:
        """Take part, for ever."""
        channels = [self._channel, f"{self._channel}:{self.process}"]
        receive = partial(self._receive, errands)
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._bus.run(channels, receive, self._say_state))
                parts.create_task(self._beat())
        finally:
            for task in self._carried:
                task.cancel()

    def wake(self) -> None:
        """Tell the others that there are rounds to be led."""
        self._say(ALL, Wake())

    def cancelled(self, job_id: str) -> None:
        """Tell the others that a job was cancelled."""
        self._say(ALL, Cancelled(job_id=job_id))

    def stream(self, rounds: Iterable[tuple[str, str]], frame: Frame) -> None:
        """Pass an operator's `job_stream` on to whoever leads these rounds (job id and tag)."""
        self._say_if_heard(Stream(rounds=sorted(rounds), text=frame.text))

    def direct(self, process: str, frame: Frame) -> None:
        """Pass an operator's `direct_chunks` on to the process that has the client."""
        if process in self._others:
            self._say(process, Direct(text=frame.text))

    def deltas(self, operator: str, deltas: Sequence[Delta]) -> None:
        """Tell the others what the executor of jobs that are led here has said of them."""
        self._say_if_heard(Deltas(operator=operator, deltas=list(deltas)))

    def given_up(self, job_id: str, operator: str, reason: str) -> None:
        """Tell the others that the round of a streamed job goes on without this operator."""
        self._say_if_heard(GivenUp(job_id=job_id, operator=operator, reason=reason))

    def ended(self, job_id: str) -> None:
        """Tell the others that a job has its answer, or its end."""
        self._say_if_heard(Ended(job_id=job_id))

    async def pass_on(self, process: str, frame: Frame) -> None:
        """Have the process that leads its round take an operator's statement in. Raises `Refused`, with what to tell the operator."""
        if process not in self._others:
            raise Refused(NOT_NOW, _BETWEEN)
        statement = Statement(id=str(uuid.uuid4()), text=frame.text)
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._statements[statement.id] = process, answer
        try:
            async with asyncio.timeout(_TAKE_S):
                self._say(process, statement)
                taken = await answer
        except TimeoutError:
            raise Refused(
                NOT_NOW, "the dispatcher that leads this job does not answer; send this again"
            ) from None
        finally:
            del self._statements[statement.id]
        if taken.code != 200:
            raise Refused(taken.code, taken.message)

    async def _beat(self) -> None:
        """Say who is connected here, and forget whoever was not heard of."""
        clock = asyncio.get_running_loop().time
        while True:
            self._say_state()
            await asyncio.sleep(self._heartbeat)
            for process, other in list(self._others.items()):
                if clock() - other.heard > MISSED * self._heartbeat:
                    self._forget(process)

    def _say_state(self) -> None:
        here = self._hub.here()
        self._announced = {peer.address: peer.epoch for peer in here}
        self._say(ALL, State(operators=[_presence(peer) for peer in here]))

    def _changed(self, operator: str) -> None:
        """Tell the others of an operator that came or went here; those elsewhere are for them to tell."""
        peer = self._hub.get(operator)
        if isinstance(peer, Connection):
            if self._announced.get(operator) != peer.epoch:
                self._announced[operator] = peer.epoch
                self._say(ALL, Here(operator=_presence(peer)))
        elif (epoch := self._announced.pop(operator, None)) is not None:
            self._say(ALL, Gone(address=operator, epoch=epoch))

    def _say_if_heard(self, said: Message) -> None:
        """Say to all what somebody who is not there yet need not know."""
        if self._others:
            self._say(ALL, said)

    def _say(self, to: str, said: Message) -> None:
        channel = self._channel if to == ALL else f"{self._channel}:{to}"
        self._bus.publish(channel, self._seal.close(to, said))

    def _receive(self, errands: Errands, text: str) -> None:
        try:
            envelope = self._seal.open(text)
        except InvalidMeshMessage as error:
            MESH_REFUSED.inc()
            if self._refused % _QUIET == 0:
                log.warning("a message over redis was ignored", why=str(error), so_far=self._refused)
            self._refused += 1
            return
        if envelope.origin == self.process:
            return
        other = self._met(envelope.origin)
        self._act(errands, envelope.origin, other, envelope.said)

    def _met(self, process: str) -> _Process:
        now = asyncio.get_running_loop().time()
        other = self._others.get(process)
        if other is None:
            other = self._others[process] = _Process(now)
            MESH_PROCESSES.set(len(self._others))
            log.info("another process of this dispatcher is there", process=process)
            self._say_state()
        other.heard = now
        return other

    def _forget(self, process: str) -> None:
        other = self._others.pop(process)
        MESH_PROCESSES.set(len(self._others))
        log.warning(
            "another process of this dispatcher is gone", process=process, operators=len(other.operators)
        )
        for peer in other.operators.values():
            self._hub.remove(peer)
        for leader, waiting in self._statements.values():
            if leader == process and not waiting.done():
                waiting.set_exception(Refused(NOT_NOW, _BETWEEN))

    def _act(self, errands: Errands, origin: str, other: _Process, said: Message) -> None:
        match said:
            case State() | Here() | Gone():
                self._heard_of_operators(origin, other, said)
            case Wake():
                errands.wake()
            case Cancelled(job_id=job_id):
                errands.cancelled(job_id)
            case Call():
                self._spawn(self._carry(origin, said))
            case Statement():
                self._spawn(self._take(errands, origin, said))
            case Reply():
                self._replied(other, said)
            case Stream() | Deltas() | GivenUp() | Ended() | Direct():
                _streamed(errands, said)
            case Taken(id=id_):
                _, waiting = self._statements.get(id_, ("", None))
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)
            case _:
                assert_never(said)

    def _heard_of_operators(self, origin: str, other: _Process, said: State | Here | Gone) -> None:
        match said:
            case State(operators=operators):
                for address in other.operators.keys() - {presence.address for presence in operators}:
                    self._hub.remove(other.operators.pop(address))
                for presence in operators:
                    self._see(origin, other, presence)
            case Here(operator=presence):
                self._see(origin, other, presence)
            case Gone(address=address, epoch=epoch):
                peer = other.operators.get(address)
                if peer is not None and peer.epoch <= epoch:
                    self._hub.remove(other.operators.pop(address))

    def _see(self, origin: str, other: _Process, presence: Presence) -> None:
        """Know that an operator is connected to another process."""
        known = self._hub.get(presence.address)
        if known is not None and known.epoch >= presence.epoch:
            return
        peer = Peer(
            presence.address,
            presence.number,
            epoch=presence.epoch,
            serves={(job_type, model.name): model for job_type, model in presence.serves},
            direct=presence.direct,
            signer=self._signer,
            send=partial(self._call, origin, presence.address),
        )
        other.operators[presence.address] = peer
        self._hub.add(peer)

    async def _call(self, process: str, operator: str, frame: Frame) -> None:
        self._say(process, Call(operator=operator, text=frame.text))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._carried) >= _MOST_CARRIED:
            work.close()
            MESH_REFUSED.inc()
            return
        task = asyncio.create_task(work)
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _carry(self, origin: str, call: Call) -> None:
        """Send another process's request to an operator that is connected here, and its reply back."""
        try:
            frame = open_frame(
                call.text, max_bytes=2 * self._frame_bytes
            )  # it may repeat a frame of an operator
        except ProtocolError as error:
            log.warning("what another process passed on is no frame", why=str(error))
            return
        peer, text = self._hub.get(call.operator), None
        if isinstance(peer, Connection):
            try:
                text = (await peer.carry(frame, self._patience)).text
            except (PeerGone, ReplyTimeout) as error:
                log.debug("a request of another process was not answered", why=str(error))
        self._say(origin, Reply(id=frame.id, operator=call.operator, text=text))

    def _replied(self, other: _Process, reply: Reply) -> None:
        """Hand an operator's reply to whoever waits for it, if it is the operator's."""
        peer = other.operators.get(reply.operator)
        if peer is None:
            return
        if reply.text is None:
            peer.fail(reply.id)
            return
        try:
            frame = open_frame(reply.text, max_bytes=self._frame_bytes)
        except ProtocolError as error:
            log.warning("what another process passed on is no frame", why=str(error))
            return
        if frame.address == peer.address and frame.id == reply.id and frame.result is not None:
            peer.receive_reply(frame)

    async def _take(self, errands: Errands, origin: str, statement: Statement) -> None:
        """Take in what an operator told another process of a round that is led here, and say what to answer."""
        code, message = 200, "success"
        try:
            frame = open_frame(statement.text, max_bytes=self._frame_bytes)
            await errands.take(self._sender(frame), frame)
        except (PeerGone, Unavailable) as error:
            code, message = NOT_NOW, str(error)
        except Refused as error:
            code, message = error.code, str(error)
        except ProtocolError as error:
            code, message = 400, str(error)
        self._say(origin, Taken(id=statement.id, code=code, message=message))

    def _sender(self, frame: Frame) -> Peer:
        """Return who made a statement, with the counter that it says. Raises `PeerGone`."""
        peer = self._hub.require(frame.address)
        if not isinstance(peer, Connection):
            counter = counter_of(frame.params[0].get("clock"), peer.number) if frame.params else None
            peer.seen = max(peer.seen, counter or 0)
        return peer


def _streamed(errands: Errands, said: Stream | Deltas | GivenUp | Ended | Direct) -> None:
    try:
        errands.streamed(said)
    except (ProtocolError, Refused) as error:
        MESH_REFUSED.inc()
        log.warning("what another process passed on of a stream is refused", why=str(error))


def _presence(peer: Peer) -> Presence:
    serves = [(job_type, model) for (job_type, _), model in peer.serves.items()]
    return Presence(
        address=peer.address, number=peer.number, epoch=peer.epoch, serves=serves, direct=peer.direct
    )
