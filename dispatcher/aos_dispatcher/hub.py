"""Who is connected: one `Peer` per operator, requests to it and its replies.

A peer knows nothing of WebSockets; it sends text through a function and is fed the frames that came.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable

from aos_dispatcher.errors import PeerGone, Refused, ReplyTimeout
from aos_protocol.canonical import JsonObject
from aos_protocol.frames import Frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer


class Peer:
    """One connected operator."""

    def __init__(
        self,
        address: str,
        number: int,
        *,
        seen: int,
        workers: Iterable[str],
        models: Iterable[ModelOffer],
        signer: Signer,
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        self.address = address
        self.number = number
        self.replaced = False
        self.serves = {(worker, offer.name): offer.sha256 for offer in models for worker in workers}
        self._seen = seen
        self._seen_in = ""
        self._signer = signer
        self._send = send
        self._replies: dict[str, asyncio.Future[Frame]] = {}
        self._gone = asyncio.Event()

    @property
    def seen(self) -> int:
        """The highest counter seen from this operator."""
        return self._seen

    async def request(self, method: str, params: JsonObject, timeout: float) -> Frame:  # noqa: ASYNC109 - one bound for send and reply
        """Send a request and return the reply. Raises `PeerGone` or, after `timeout` seconds, `ReplyTimeout`."""
        frame = seal_request(self._signer, str(uuid.uuid4()), method, [params])
        if self._gone.is_set():
            raise PeerGone(f"{self.address} is not connected")
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._replies[frame.id] = reply
        try:
            async with asyncio.timeout(timeout):
                await self._send(frame.text)
                return await reply
        except TimeoutError:
            raise ReplyTimeout(f"{self.address} did not answer {method} within {timeout:g} s") from None
        finally:
            del self._replies[frame.id]

    async def reply(self, request_id: str, result: JsonObject) -> None:
        """Answer a request of the operator's."""
        await self._send(seal_reply(self._signer, request_id, result).text)

    def receive_reply(self, frame: Frame) -> None:
        """Hand a reply to whoever waits for it; one that nobody waits for any more is dropped."""
        waiting = self._replies.get(frame.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)

    def observe(self, clock: object, frame: Frame) -> None:
        """Hold the operator's own counter against the last one seen, and remember it.

        Raises `Refused` for a replay (not greater), naming equivocation when the same counter now
        stands for other content.
        """
        counter = _counter(clock, self.number)
        if counter is None:
            raise Refused(400, f"the clock has no entry of participant {self.number}, its sender")
        if counter == self._seen and self._seen_in not in {"", frame.hash}:
            raise Refused(
                400,
                f"equivocation: counter {counter} of participant {self.number} was used for other content",
            )
        if counter <= self._seen:
            raise Refused(
                400, f"replay: counter {counter} of participant {self.number} is not above {self._seen}"
            )
        self._seen, self._seen_in = counter, frame.hash

    def close(self) -> None:
        """Fail everybody who waits for a reply; the connection is gone."""
        self._gone.set()
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(PeerGone(f"{self.address} disconnected"))

    async def wait_closed(self) -> None:
        """Return when the connection is gone or was replaced by a newer one."""
        await self._gone.wait()


class Hub:
    """All connected operators. `changed` callbacks run after every arrival and departure."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._listeners: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._peers)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the operator's address whenever one connects or leaves."""
        self._listeners.append(listener)

    def add(self, peer: Peer) -> None:
        """Take a peer in; an older connection of the same operator is closed."""
        older = self._peers.get(peer.address)
        self._peers[peer.address] = peer
        if older is not None:
            older.replaced = True
            older.close()
        self._tell(peer.address)

    def remove(self, peer: Peer) -> None:
        """Forget a peer, unless a newer connection has taken its place already."""
        peer.close()
        if self._peers.get(peer.address) is peer:
            del self._peers[peer.address]
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

    def connected(self) -> set[str]:
        """Return the addresses of all connected operators."""
        return set(self._peers)

    def serving(self, job_type: str, model: ModelOffer) -> list[Peer]:
        """Return the operators that serve exactly this model file, by address."""
        serving = [p for p in self._peers.values() if p.serves.get((job_type, model.name)) == model.sha256]
        return sorted(serving, key=lambda peer: peer.address)

    def served(self) -> set[tuple[str, str]]:
        """Return every (job type, model name) that somebody serves."""
        return {pair for peer in self._peers.values() for pair in peer.serves}

    def close(self) -> None:
        """Close every connection."""
        for peer in self._peers.values():
            peer.close()

    def _tell(self, operator: str) -> None:
        for listener in self._listeners:
            listener(operator)


def _counter(clock: object, number: int) -> int | None:
    entry = clock.get(str(number)) if isinstance(clock, dict) else None
    return (
        int(entry)
        if isinstance(entry, str) and entry.isascii() and entry.isdigit() and len(entry) <= 19
        else None
    )
