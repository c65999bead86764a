"""What hostile operators and strangers send to a dispatcher's `/ws`, while honest operators do jobs."""

import asyncio
import random
import socket
from collections import Counter
from typing import Any

from websockets.exceptions import ConnectionClosed

from aos_protocol.errors import ProtocolError
from aos_protocol.frames import seal_object, seal_reply, seal_request
from aos_protocol.identity import Signer
from fuzz.frame_mutations import JUNK, bent, garbled, pieces, wire
from support.dispatcher_process import DispatcherProcess
from support.operators import ScriptedOperator

_ON_ONE_CONNECTION = 150
_GENUINE_KEPT = 20
_WIRE_SHARE = 0.15
_HANGING = 5
_HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_METHODS = (
    "job_result", "job_score", "job_stream", "direct_chunks", "connect", "challenge", "dispatch_job", "", "x" * 200,
)  # fmt: skip
_PIECES = {"job_id": "0" * 64, "route": "here", "chunks": [{"last": False, "box": "AAAA"}]}


class Attacker:
    """One registered operator that takes part in draws, and sends whatever comes to its mind.

    `sent` counts messages by what they were; `told` what the dispatcher said to them.
    """

    def __init__(self, dispatcher: DispatcherProcess, signer: Signer, seed: str) -> None:
        self._dispatcher = dispatcher
        self._signer = signer
        self._rng = random.Random(seed)
        self._genuine: list[str] = []
        self._results: list[dict[str, Any]] = []
        self.sent: Counter[str] = Counter()
        self.told: Counter[int] = Counter()
        self._hanging: list[socket.socket] = []
        self.connections = 0

    async def run(self, messages: int) -> None:
        """Send as many messages, over as many connections as that takes."""
        while (left := messages - self.sent.total()) > 0:
            if self._rng.random() < _WIRE_SHARE:
                await self._break_the_wire()
            else:
                await self._connected(min(left, _ON_ONE_CONNECTION))

    async def _connected(self, messages: int) -> None:
        operator = ScriptedOperator(self._signer, self._dispatcher.ws)
        operator.bend_ticket = self._bend_now_and_then
        operator.bend_result = self._bend_now_and_then
        operator.bend_frame = self._keep
        if self._rng.random() < 0.2:
            operator.bend_connect = lambda said: seal_object(self._signer, bent(self._rng, said))
        self.connections += 1
        try:
            self.told[(await operator.connect()).get("code", 0)] += 1
            for _ in range(messages):
                name, message = self._message(operator)
                self.sent[name] += 1
                await operator.send(message)
            await operator.send(operator.request("last", {"clock": operator.tick()}).text)
            await operator.wait(lambda: any("'last'" in str(reply["message"]) for reply in operator.replies))
        except (ConnectionClosed, ProtocolError, OSError):
            self.told[-1] += 1
        finally:
            self.told.update(reply["code"] for reply in operator.replies)
            await operator.close()

    def _bend_now_and_then(self, said: dict[str, Any]) -> dict[str, Any]:
        """What it answers to draws and dispatches is honest half of the time, so that it gets far."""
        self._results = [*self._results[-_GENUINE_KEPT:], said]
        return bent(self._rng, said) if self._rng.random() < 0.5 else said

    def _keep(self, text: str) -> str:
        self._genuine = [*self._genuine[-_GENUINE_KEPT:], text]
        return text

    def _message(self, operator: ScriptedOperator) -> tuple[str, Any]:
        rng = self._rng
        said = rng.choice(self._results) if self._results else {"job_id": "0" * 64, "clock": {}}
        if rng.random() < 0.7:  # a counter that passes, so that what is behind it is reached
            said = {**said, "clock": operator.tick()}
        request = seal_request(self._signer, str(rng.randrange(99)), rng.choice(_METHODS[:2]), [said]).text
        match rng.randrange(10):
            case 0 | 1:
                return "signed", self._sealed(rng.choice(_METHODS[:2]), bent(rng, said))
            case 2:
                return "signed, another method", self._sealed(rng.choice(_METHODS), said)
            case 3:
                return "garbled", garbled(rng, request)
            case 4:
                return "replay", rng.choice(self._genuine or [request])
            case 5:
                return "reply", seal_reply(
                    self._signer, str(rng.randrange(99)), bent(rng, {"ticket": said})
                ).text
            case 6:
                return "fragments", pieces(rng, request)
            case 7:
                return "notice", self._sealed("direct_chunks", bent(rng, _PIECES))
            case 8:
                return "another key", seal_request(Signer(b"\x55" * 32), "1", "job_result", [said]).text
            case _:
                return "junk", rng.choice(JUNK)

    def _sealed(self, method: str, said: dict[str, Any]) -> str:
        try:
            return seal_request(self._signer, str(self._rng.randrange(99)), method, [said]).text
        except ProtocolError:  # not to be said in JSON at all
            return "{}"

    async def _break_the_wire(self) -> None:
        """Say something that is no WebSocket, before or after the handshake, and leave, stay, or stop half-way."""
        rng, loop = self._rng, asyncio.get_running_loop()
        self.sent["wire"] += 1
        request = _HANDSHAKE.format(host=rng.choice(("x", "", "é"))).encode()
        peer = socket.socket()
        peer.setblocking(False)
        self._hanging.append(peer)
        try:
            await loop.sock_connect(peer, ("127.0.0.1", self._dispatcher.port))
            if rng.random() < 0.2:
                await loop.sock_sendall(peer, request[: rng.randrange(len(request))])
            else:
                await loop.sock_sendall(peer, request)
                await loop.sock_recv(peer, 1 << 16)
                await loop.sock_sendall(peer, wire(rng, '{"id":"1"}' * rng.choice((1, 20, 1000))))
            if rng.random() < 0.3:
                peer.shutdown(socket.SHUT_WR)
        except OSError:
            self.told[-1] += 1
        if len(self._hanging) > _HANGING or rng.random() < 0.3:
            self._hanging.pop(0).close()

    def leave(self) -> None:
        """Let go of connections that were left hanging."""
        for peer in self._hanging:
            peer.close()


class Honest:
    """Operators and a client that mind their own business meanwhile."""

    def __init__(self, dispatcher: DispatcherProcess) -> None:
        self._dispatcher = dispatcher
        self._operators: list[ScriptedOperator] = []
        self.ends: Counter[str] = Counter()

    async def start(self, operators: int) -> None:
        """Connect operators."""
        self._operators = [await self._dispatcher.operator() for _ in range(operators)]

    async def work(self, stop: asyncio.Event) -> None:
        """Submit jobs one after another, and wait for the end of each, until told to stop; at least one."""
        number = 0
        while not stop.is_set() or not self.ends:
            number += 1
            job = await self._dispatcher.submit(user=f"user {number}", tag=("", "", "suspicion")[number % 3])
            while (detail := await self._dispatcher.detail(job))["status"] in {"created", "dispatched"}:
                await asyncio.sleep(0.05)
            self.ends[f"{detail['status']} {detail['reason']}".strip()] += 1

    async def close(self) -> bool:
        """Disconnect; whether all of them were connected to the last."""
        served = len(self._operators)
        asked = await self._dispatcher.client.get("/readyz")
        there = asked.json()["operators"] >= served
        for operator in self._operators:
            await operator.close()
        return there
