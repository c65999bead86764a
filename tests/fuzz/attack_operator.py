"""What a hostile dispatcher, with the very key that the operator trusts, sends to an operator process, and honest work in between."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from aos_operator.tasks import Method, TaskKey
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import Frame, seal_request
from aos_protocol.identity import Signer
from aos_service.child import Child
from aos_service.database import database_url, ensure_database
from aos_service.revisions import migrate
from fuzz.frame_mutations import JUNK, bent, garbled, pieces, wire
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.fake_worker import FakeWorker
from integration.operator.processes import OperatorProcess
from unit.operator.world import OPERATOR, World

_BAD_SHARE = 0.004  # a hundred of them end a connection, and the operator takes its time to come back
_BASES = 6
_BETWEEN_HONEST = 250
_METHODS = (
    "draw",
    "dispatch_job",
    "score_job",
    "cancel_job",
    "attest",
    "direct_prompt",
    "challenge",
    "connect",
    "",
    "x" * 200,
)


class HostileDispatcher(FakeDispatcher):
    """As the fake one, for requests that it made in earnest; of what the operator says to all others it counts the codes."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.told: Counter[int] = Counter()

    async def bytes(self, raw: bytes) -> None:
        """Put any bytes on the wire to the operator that is connected, which then connects again."""
        await self.connected.wait()
        assert self._socket is not None
        self._socket.transport.write(raw)
        self._socket.transport.close()
        self.connected.clear()

    async def _receive(self, socket: ServerConnection, frame: Frame) -> None:
        if frame.method is None:
            if frame.id not in self._replies:
                self.told[(frame.result or {}).get("code", 0)] += 1
                return
        elif self._key(frame) not in self.sent:
            self.told[0] += 1
            await socket.send(self.world.reply(frame.id))
            return
        await super()._receive(socket, frame)

    def _key(self, frame: Frame) -> TaskKey:
        said: dict[str, Any] = frame.params[0]
        if frame.method == "job_score":
            return TaskKey(said["job_id"], said["tag"], said["challenge"], Method.SCORE)
        return TaskKey(said["job_id"], said["tag"])


class OperatorAttack:
    """The attack on one operator process; `operator_under_attack` makes it."""

    def __init__(self, dispatcher: HostileDispatcher, operator: OperatorProcess, child: Child) -> None:
        self._dispatcher = dispatcher
        self._operator = operator
        self._child = child
        self._ids = 0
        self.sent: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.returncode

    @property
    def told(self) -> Counter[int]:
        return self._dispatcher.told

    @property
    def connections(self) -> int:
        return len(self._dispatcher.connects)

    def log(self) -> str:
        """What the operator has logged, and what is wrong with what it said."""
        return "\n".join(
            [self._operator.log(), *(f"Traceback: {each}" for each in self._dispatcher.problems)]
        )

    async def run(self, messages: int, seed: str, *, wire_too: bool = True) -> None:
        """Send messages, with an honest job after every few hundred of them and one after the last; then break the WebSocket, if `wire_too`."""
        rng = random.Random(seed)
        bases = [self._base(rng) for _ in range(_BASES)]
        for number in range(messages):
            name, message = self._message(rng, bases)
            self.sent[name] += 1
            await self._send(message)
            if number % _BETWEEN_HONEST == 0:
                await self._honest(number)
        await self._honest(messages)  # by then, all before it was answered
        if wire_too:
            self.sent["wire"] += 1
            await self._dispatcher.bytes(wire(rng, '{"id":"1"}' * rng.choice((1, 20, 1000)), masked=False))

    def _base(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        """A request that holds in every respect, and that nobody made in earnest."""
        world = self._dispatcher.world
        job = world.job(f"prompt {rng.random()}")
        match rng.randrange(6):
            case 0:
                return "draw", world.draw(job).to_json()
            case 1 | 2:
                return "dispatch_job", job.to_json()
            case 3:
                return "score_job", world.call(job).to_json()
            case 4:
                return "direct_prompt", {"job_id": job.job_id, "route": "here", "box": "AAAA"}
            case _:
                return "cancel_job", {"job_id": job.job_id, "tag": "", "challenge": 0}

    def _message(self, rng: random.Random, bases: list[tuple[str, dict[str, Any]]]) -> tuple[str, Any]:
        method, said = rng.choice(bases)
        if rng.random() < _BAD_SHARE:
            return self._bad(rng, self._sealed(method, said))
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                return "signed", self._sealed(method, bent(rng, said))
            case 4:
                return "signed, another method", self._sealed(rng.choice(_METHODS), said)
            case 5:
                return "replay", self._sealed(method, said)
            case 6:
                return "reply", self._dispatcher.world.reply(
                    str(rng.randrange(99)), rng.choice((200, 400, 503))
                )
            case _:
                return "fragments", pieces(rng, self._sealed(method, bent(rng, said)))

    def _bad(self, rng: random.Random, text: str) -> tuple[str, Any]:
        match rng.randrange(4):
            case 0:
                return "junk", rng.choice(JUNK)
            case 1:
                return "another key", seal_request(Signer(b"\x55" * 32), "1", "draw", [{}]).text
            case 2:
                return "oversized", text[:-1] + ',"pad":"' + "x" * (5 << 20) + '"}'
            case _:
                return "garbled", garbled(rng, text)

    def _sealed(self, method: str, said: dict[str, Any]) -> str:
        self._ids += 1
        try:
            return seal_request(self._dispatcher.world.signer, f"a-{self._ids}", method, [said]).text
        except ProtocolError:  # not to be said in JSON at all
            return self._dispatcher.world.reply("1")

    async def _send(self, message: Any) -> None:
        try:
            await self._dispatcher.raw(message)
        except ConnectionClosed:  # it comes again
            self._dispatcher.connected.clear()

    async def _honest(self, number: int) -> None:
        world = self._dispatcher.world
        job = world.job(f"honest {number}")
        wanted = world.call(job) if number % 2 else job
        await self._dispatcher.insist([wanted])
        await self._dispatcher.done(wanted)
        self.ends["completed"] += 1


@asynccontextmanager
async def operator_under_attack(folder: Path, database: str, queue: str) -> AsyncIterator[OperatorAttack]:
    """Run an operator process on these servers, a stub worker over HTTP, and the dispatcher that attacks it."""
    await ensure_database(database_url(database))
    await migrate(database_url(database), "operator")
    async with HostileDispatcher(World()).serving() as dispatcher, FakeWorker().serving() as worker:
        configuration = {
            "db": {"pg_db_url": database, "min_connect_pool": 1, "max_connect_pool": 4},
            "queue": {"queue_url": queue},
            "net": {"dispatcher_url": dispatcher.url, "worker_url": worker.url},
            "node": {
                "signer_key": "0x" + "11" * 32,
                "node_id": OPERATOR.address,
                "dispatcher_address": dispatcher.world.signer.address,
                "heartbeat_interval": 5,
            },
        }
        async with OperatorProcess(folder, configuration).running() as operator:
            await dispatcher.connected.wait()
            yield OperatorAttack(dispatcher, operator, operator.child)
