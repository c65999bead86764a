"""Who can be asked: one `Peer` per operator, requests to it and its replies.

Most are a `Connection` of this process; with several dispatchers, others are connected to another one, which passes on what is said
(`mesh`). A peer knows nothing of WebSockets or Redis; it sends frames through a function and is fed those that came.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from typing import TypeAlias

from aos_dispatcher.errors import PeerGone, Refused, ReplyTimeout
from aos_protocol.canonical import JsonObject
from aos_protocol.fields import ModelKind
from aos_protocol.frames import Frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import DirectOffer, ModelOffer, ServedModel

Send: TypeAlias = Callable[[Frame], Awaitable[None]]

OVERTAKEN = 409
"""The code of `Refused` for a counter that is not above the last one: a replay, or a frame that another one has overtaken on its way."""

Serves: TypeAlias = Mapping[tuple[str, str], ServedModel]
"""Each model that an operator serves, by job type and name."""


class Peer:
    """One operator that can be asked. Of two with the same address, the greater `epoch` is the newer connection."""

    def __init__(
        self,
        address: str,
        number: int,
        *,
        epoch: int,
        serves: Serves,
        signer: Signer,
        send: Send,
        direct: DirectOffer | None = None,
    ) -> None:
        self.address = address
        self.number = number
        self.epoch = epoch
        self.serves = serves
        self.direct = direct
        self.seen = 0
        """The highest counter seen from this operator."""
        self.replaced = False
        self._signer = signer
        self._send = send
        self._replies: dict[str, asyncio.Future[Frame]] = {}
        self._gone = asyncio.Event()

    async def request(self, method: str, params: JsonObject, timeout: float) -> Frame:  # noqa: ASYNC109 - one bound for send and reply
        """Send a request and return the reply. Raises `PeerGone` or, after `timeout` seconds, `ReplyTimeout`."""
        frame = seal_request(self._signer, str(uuid.uuid4()), method, [params])
        return await self.carry(frame, timeout)

    async def carry(self, frame: Frame, timeout: float) -> Frame:  # noqa: ASYNC109 - one bound for send and reply
        """Send a request that is sealed already, and return the reply. Raises as `request` does."""
        if self._gone.is_set():
            raise PeerGone(f"{self.address} is not connected")
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._replies[frame.id] = reply
        try:
            async with asyncio.timeout(timeout):
                await self._send(frame)
                return await reply
        except TimeoutError:
            raise ReplyTimeout(f"{self.address} did not answer {frame.method} within {timeout:g} s") from None
        finally:
            del self._replies[frame.id]

    def receive_reply(self, frame: Frame) -> None:
        """Hand a reply to whoever waits for it; one that nobody waits for any more is dropped."""
        waiting = self._replies.get(frame.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)

    def fail(self, request_id: str) -> None:
        """Let a request fail with `PeerGone`: there will be no reply to it."""
        waiting = self._replies.get(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_exception(PeerGone(f"{self.address} did not get the request"))

    def close(self) -> None:
        """Fail everybody who waits for a reply; the connection is gone."""
        self._gone.set()
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(PeerGone(f"{self.address} disconnected"))

    async def wait_closed(self) -> None:
        """Return when the connection is gone or was replaced by a newer one."""
        await self._gone.wait()


class Connection(Peer):
    """An operator that is connected to this very process, which keeps its counter."""

    def __init__(
        self,
        address: str,
        number: int,
        *,
        epoch: int,
        seen: int,
        workers: Iterable[str],
        models: Iterable[ServedModel],
        direct: DirectOffer | None = None,
        signer: Signer,
        send: Send,
    ) -> None:
        serves = {(worker, offer.name): offer for offer in models for worker in workers}
        super().__init__(address, number, epoch=epoch, serves=serves, direct=direct, signer=signer, send=send)
        self.seen = seen
        self._seen_in = ""

    async def reply(self, request_id: str, result: JsonObject) -> None:
        """Answer a request of the operator's."""
        await self._send(seal_reply(self._signer, request_id, result))

    def observe(self, clock: object, frame: Frame) -> None:
        """Hold the operator's own counter against the last one seen, and remember it.

        Raises `Refused` for a replay (not greater), naming equivocation when the same counter now
        stands for other content.
        """
        counter = counter_of(clock, self.number)
        if counter is None:
            raise Refused(400, f"the clock has no entry of participant {self.number}, its sender")
        if counter == self.seen and self._seen_in not in {"", frame.hash}:
            raise Refused(
                400,
                f"equivocation: counter {counter} of participant {self.number} was used for other content",
            )
        if counter <= self.seen:
            raise Refused(
                OVERTAKEN,
                f"replay: counter {counter} of participant {self.number} is not above {self.seen}; what is new comes with a new counter",
            )
        self.seen, self._seen_in = counter, frame.hash


class Hub:
    """All operators that can be asked. `changed` callbacks run after every arrival and departure."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._here: dict[str, Connection] = {}
        self._serving: dict[tuple[str, str, str, ModelKind], list[Peer]] = {}
        self._offers: dict[tuple[str, str], list[ServedModel]] = {}
        self._served: set[tuple[str, str]] | None = None
        self._listeners: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._peers)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the operator's address whenever one connects or leaves."""
        self._listeners.append(listener)

    def add(self, peer: Peer) -> None:
        """Take a peer in. Of two of the same operator, the older connection is closed, whichever of them that is."""
        other = self._peers.get(peer.address)
        if other is not None and other.epoch > peer.epoch:
            _replace(peer)
            return
        self._forget(peer.address)
        self._peers[peer.address] = peer
        if isinstance(peer, Connection):
            self._here[peer.address] = peer
        if other is not None:
            _replace(other)
        self._tell(peer.address)

    def remove(self, peer: Peer) -> None:
        """Forget a peer, unless a newer connection has taken its place already."""
        peer.close()
        if self._peers.get(peer.address) is peer:
            self._forget(peer.address)
            self._tell(peer.address)

    def get(self, operator: str) -> Peer | None:
        """Return the operator's connection, if it has one."""
        return self._peers.get(operator)

    def require(self, operator: str) -> Peer:
        """Return the operator's connection. Raises `PeerGone`."""
        peer = self._peers.get(operator)
        if peer is None:
            raise PeerGone(f"{operator} is not connected")
        return peer

    def connected(self) -> Set[str]:
        """Return the addresses of all connected operators, as they change."""
        return self._peers.keys()

    def here(self) -> list[Connection]:
        """Return the connections of this process."""
        return list(self._here.values())

    def serving(self, job_type: str, model: ModelOffer, kind: ModelKind = 0) -> list[Peer]:
        """Return the operators that serve exactly this model file for jobs of this kind, by address."""
        key = job_type, model.name, model.sha256, kind
        if key not in self._serving:
            named = [
                peer
                for peer in self._peers.values()
                if (offer := peer.serves.get((job_type, model.name)))
                and offer.sha256 == model.sha256
                and kind in offer.kinds
            ]
            self._serving[key] = sorted(named, key=lambda peer: peer.address)
        return list(self._serving[key])

    def served(self) -> set[tuple[str, str]]:
        """Return every (job type, model name) that somebody serves."""
        if self._served is None:
            self._served = {pair for peer in self._peers.values() for pair in peer.serves}
        return self._served

    def offers(self, job_type: str, name: str) -> list[ServedModel]:
        """Return what each operator that serves a model of this name says of it, by the operators' addresses."""
        key = job_type, name
        if key not in self._offers:
            found = [peer for peer in self._peers.values() if key in peer.serves]
            found.sort(key=lambda peer: peer.address)
            self._offers[key] = [peer.serves[key] for peer in found]
        return list(self._offers[key])

    def peers(self) -> list[Peer]:
        """Return all operators that can be asked, here or by way of another process."""
        return list(self._peers.values())

    def close(self) -> None:
        """Close every connection of this process."""
        for connection in self.here():
            connection.close()

    def _forget(self, operator: str) -> None:
        self._peers.pop(operator, None)
        self._here.pop(operator, None)

    def _tell(self, operator: str) -> None:
        self._serving.clear()
        self._offers.clear()
        self._served = None
        for listener in self._listeners:
            listener(operator)


def _replace(peer: Peer) -> None:
    peer.replaced = True
    peer.close()


def counter_of(clock: object, number: int) -> int | None:
    """Return a participant's own entry of a clock that somebody sent; None without one in the protocol's form."""
    entry = clock.get(str(number)) if isinstance(clock, dict) else None
    return (
        int(entry)
        if isinstance(entry, str) and entry.isascii() and entry.isdigit() and len(entry) <= 19
        else None
    )
