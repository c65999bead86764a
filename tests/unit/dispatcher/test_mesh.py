"""Processes of one dispatcher, on a bus in memory: who is known where, what is passed on, and what is lost when the bus is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from aos_dispatcher.errors import PeerGone, Refused, ReplyTimeout, Unavailable
from aos_dispatcher.hub import Connection, Hub, Peer
from aos_dispatcher.mesh import Mesh
from aos_dispatcher.mesh_messages import ALL, Reply, Seal, State
from aos_protocol.errors import InvalidMessage
from aos_protocol.frames import Frame, open_frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import ServedModel

DISPATCHER, OPERATOR, STRANGER = Signer(b"\x01" * 32), Signer(b"\x02" * 32), Signer(b"\x03" * 32)
TINY = ServedModel(name="tiny", sha256="ab" * 32)


class MemoryBus:
    """What Redis does, in one process; while `away`, everything is lost."""

    def __init__(self) -> None:
        self.away = False
        self.listeners: list[tuple[Sequence[str], Callable[[str], None]]] = []
        self.said: list[tuple[str, str]] = []

    def publish(self, channel: str, text: str) -> None:
        self.said.append((channel, text))
        if not self.away:
            for channels, receive in self.listeners:
                if channel in channels:
                    asyncio.get_running_loop().call_soon(receive, text)

    async def run(
        self, channels: Sequence[str], receive: Callable[[str], None], joined: Callable[[], None]
    ) -> None:
        listener = channels, receive
        self.listeners.append(listener)
        joined()
        try:
            await asyncio.Event().wait()
        finally:
            self.listeners.remove(listener)


class Node:
    """One process: its hub, its mesh, and what the others wanted of it."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self.hub = Hub()
        self.changed: list[str] = []
        self.hub.on_change(self.changed.append)
        self.mesh = Mesh(bus, self.hub, DISPATCHER, name, heartbeat=0.02, patience=1, frame_bytes=1 << 16)
        self.woken = 0
        self.jobs: list[str] = []
        self.taken: list[tuple[Peer, Frame]] = []
        self.refusal: Exception | None = None

    def wake(self) -> None:
        self.woken += 1

    def cancelled(self, job_id: str) -> None:
        self.jobs.append(job_id)

    async def take(self, peer: Peer, frame: Frame) -> None:
        self.taken.append((peer, frame))
        if self.refusal is not None:
            raise self.refusal

    def connect(self, epoch: int, answer: Callable[[Connection, Frame], Any] | None = None) -> Connection:
        """Connect the operator here; it `answer`s requests, or stays silent."""

        async def send(frame: Frame) -> None:
            if answer is not None:
                answer(connection, frame)

        connection = Connection(
            OPERATOR.address,
            2,
            epoch=epoch,
            seen=0,
            workers=["opml"],
            models=[TINY],
            signer=DISPATCHER,
            send=send,
        )
        self.hub.add(connection)
        return connection

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        task = asyncio.create_task(self.mesh.run(self))
        yield self
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def honest(connection: Connection, frame: Frame) -> None:
    connection.receive_reply(seal_reply(OPERATOR, frame.id, {"code": 200, "said": frame.method}))


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest_asyncio.fixture
async def a(bus: MemoryBus) -> AsyncIterator[Node]:
    async with Node(bus, "a").running() as node:
        yield node


@pytest_asyncio.fixture
async def b(bus: MemoryBus) -> AsyncIterator[Node]:
    async with Node(bus, "b").running() as node:
        yield node


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0)


def known(node: Node) -> Peer | None:
    return node.hub.get(OPERATOR.address)


async def test_an_operator_elsewhere_is_known_asked_and_forgotten(a: Node, b: Node) -> None:
    connection = b.connect(7, honest)
    await until(lambda: known(a))
    peer = a.hub.require(OPERATOR.address)
    assert (peer.number, peer.epoch, a.hub.serving("opml", TINY), a.hub.here()) == (2, 7, [peer], [])
    reply = await peer.request("draw", {"a": 1}, 5)
    assert (reply.address, reply.result) == (OPERATOR.address, {"code": 200, "said": "draw"})
    b.hub.remove(connection)
    await until(lambda: known(a) is None)
    assert a.changed == [OPERATOR.address] * 2


async def test_a_process_that_comes_later_learns_of_all_at_once(bus: MemoryBus, b: Node) -> None:
    b.connect(1)
    async with Node(bus, "late").running() as late:
        await until(lambda: known(late))


async def test_what_was_lost_is_mended_by_the_next_heartbeat(bus: MemoryBus, a: Node, b: Node) -> None:
    await until(lambda: a.mesh._others)
    bus.away = True
    connection = b.connect(1)
    bus.away = False
    await until(lambda: known(a))
    bus.away = True
    b.hub.remove(connection)
    bus.away = False
    await until(lambda: known(a) is None)


async def test_a_process_that_is_silent_is_forgotten_with_its_operators(
    bus: MemoryBus, a: Node, b: Node
) -> None:
    b.connect(1)
    await until(lambda: known(a))
    waiting = asyncio.create_task(a.hub.require(OPERATOR.address).request("draw", {}, 60))
    statement = asyncio.create_task(a.mesh.pass_on("b", seal_request(OPERATOR, "1", "job_result", [{}])))
    bus.away = True
    await until(lambda: known(a) is None)
    with pytest.raises(PeerGone):
        await waiting
    with pytest.raises(Refused, match="between two dispatchers"):
        await statement
    bus.away = False
    await until(lambda: known(a))


@pytest.mark.parametrize("first", ["here", "there"])
async def test_the_newer_of_two_connections_stays_wherever_it_is(a: Node, b: Node, first: str) -> None:
    await until(lambda: a.mesh._others and b.mesh._others)
    older, newer = (a, b) if first == "here" else (b, a)
    old = older.connect(1)
    await until(lambda: known(newer))
    new = newer.connect(2)
    await old.wait_closed()
    assert (old.replaced, new.replaced, known(newer)) == (True, False, new)
    older.hub.remove(old)
    await until(lambda: getattr(known(older), "epoch", None) == 2)


async def test_an_older_connection_that_outlives_the_newer_is_found_again(
    bus: MemoryBus, a: Node, b: Node
) -> None:
    await until(lambda: a.mesh._others and b.mesh._others)
    bus.away = True  # so b hears nothing of the newer one
    b.connect(1)
    newer = a.connect(2)
    bus.listeners.reverse()
    a.hub.remove(newer)
    bus.away = False
    await until(lambda: getattr(known(a), "epoch", None) == 1)


async def test_silence_elsewhere_is_a_timeout_and_leaving_fails_at_once(a: Node, b: Node) -> None:
    connection = b.connect(1)
    await until(lambda: known(a))
    peer = a.hub.require(OPERATOR.address)
    with pytest.raises(ReplyTimeout, match="did not answer draw"):
        await peer.request("draw", {}, 0.01)
    waiting = asyncio.create_task(peer.request("draw", {}, 60))
    await until(lambda: len(connection._replies) == 2)
    b.hub.remove(connection)
    with pytest.raises(PeerGone):
        await waiting


async def test_a_reply_counts_only_as_the_operator_signed_it(bus: MemoryBus, a: Node, b: Node) -> None:
    """Even a process of ours that was taken over cannot speak for an operator."""

    def lies(connection: Connection, frame: Frame) -> None:
        forged = [
            seal_reply(STRANGER, frame.id, {"code": 200}).text,
            seal_reply(OPERATOR, "another", {"code": 200}).text,
            seal_request(OPERATOR, frame.id, "draw", [{}]).text,
            "nonsense",
        ]
        for text in forged:
            b.mesh._say("a", Reply(id=frame.id, operator=OPERATOR.address, text=text))
        honest(connection, frame)

    b.connect(1, lies)
    await until(lambda: known(a))
    reply = await a.hub.require(OPERATOR.address).request("draw", {}, 5)
    assert reply.result == {"code": 200, "said": "draw"}


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (None, 200),
        (Refused(400, "no"), 400),
        (InvalidMessage("what?"), 400),
        (Refused(503, "later"), 503),
        (Unavailable("away"), 503),
    ],
)
async def test_a_statement_is_taken_by_who_leads_its_round(
    a: Node, b: Node, refusal: Exception | None, code: int
) -> None:
    a.connect(1)
    b.refusal = refusal
    await until(lambda: known(b))
    frame = seal_request(OPERATOR, "1", "job_result", [{"clock": {"2": "9"}}])
    try:
        await a.mesh.pass_on("b", frame)
        answered = 200
    except Refused as error:
        answered = error.code
    assert answered == code
    [(peer, taken)] = b.taken
    assert (peer.address, peer.number, peer.seen, taken) == (OPERATOR.address, 2, 9, open_frame(frame.text))


async def test_a_statement_of_nobody_we_know_is_not_taken(a: Node, b: Node) -> None:
    await until(lambda: a.mesh._others)
    with pytest.raises(Refused, match="not connected") as refused:
        await a.mesh.pass_on("b", seal_request(STRANGER, "1", "job_result", [{}]))
    assert (refused.value.code, b.taken) == (503, [])


async def test_a_statement_for_nobody_is_to_be_sent_again(a: Node) -> None:
    with pytest.raises(Refused, match="between two dispatchers") as refused:
        await a.mesh.pass_on("nobody", seal_request(OPERATOR, "1", "job_result", [{}]))
    assert refused.value.code == 503


async def test_cancelled_jobs_and_open_rounds_are_told_to_all(a: Node, b: Node) -> None:
    await until(lambda: a.mesh._others)
    a.mesh.cancelled("ab" * 32)
    a.mesh.wake()
    await until(lambda: b.woken)
    assert (b.jobs, a.jobs, a.woken) == (["ab" * 32], [], 0)


async def test_who_can_write_to_the_bus_makes_nobody_known(bus: MemoryBus, a: Node, b: Node) -> None:
    """Neither with another key, nor with what was said before, nor with noise."""
    connection = b.connect(1)
    await until(lambda: known(a))
    b.hub.remove(connection)
    await until(lambda: known(a) is None)
    channel = bus.said[0][0]
    replayed = [text for _, text in bus.said]
    presence = {"address": OPERATOR.address, "number": 2, "epoch": 9, "serves": []}
    forged = Seal(STRANGER, "b").close(ALL, State.model_validate({"operators": [presence]}))
    changes = len(a.changed)
    for text in (*replayed, forged, "", "noise"):
        bus.publish(channel, text)
    b.mesh.wake()
    await until(lambda: a.woken)
    assert (known(a), len(a.changed)) == (None, changes)
