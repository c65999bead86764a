"""The outbox: clocks in order on the wire, and replies to whoever waits."""

import asyncio
from typing import Any

import pytest

from aos_operator.counter import Counter
from aos_operator.errors import LinkLost, StoreUnavailable
from aos_operator.events import DrawCall, Say, Settled
from aos_operator.memory import MemoryStore
from aos_operator.outbox import Outbox
from aos_operator.session import Session
from aos_operator.tasks import Outcome, Task
from aos_protocol.frames import Frame
from unit.operator.world import NUMBER, OFFER, OPERATOR, World, opened

WORLD = World()


class Wire:
    """Keeps what is sent; each sending gives way to others first, as a full socket would."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.gone = False
        self.arrived = asyncio.Event()

    async def send(self, text: str) -> None:
        await asyncio.sleep(0)
        if self.gone:
            raise LinkLost
        self.sent.append(opened(text))
        self.arrived.set()

    def counters(self) -> list[int]:
        """Our own clock entry in every frame, in the order of the wire."""
        said = [frame.params[0] if frame.params else (frame.result or {})["ticket"] for frame in self.sent]
        clocks: list[Any] = [message["clock"] for message in said]  # type: ignore[call-overload,index]
        return [int(clock[str(NUMBER)]) for clock in clocks]


def open_session() -> Session:
    session = Session(OPERATOR, WORLD.signer.address, OFFER)
    connect = session.receive(WORLD.challenge())
    assert isinstance(connect, Say)
    session.receive(WORLD.welcome(opened(connect.text)))
    return session


def failed_task() -> Task:
    return Task(WORLD.job(), outcome=Outcome.failed("no"))


async def answer(outbox: Outbox, wire: Wire, count: int) -> None:
    """Accept the next `count` results."""
    for index in range(count):
        while len(wire.sent) <= index:
            wire.arrived.clear()
            await wire.arrived.wait()
        outbox.settle(Settled(wire.sent[index].id, 200, "success"))


async def test_tickets_and_results_sent_at_once_have_rising_clocks() -> None:
    outbox, wire = Outbox(Counter(MemoryStore(), block=3)), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    async with asyncio.TaskGroup() as group:
        for index in range(10):
            group.create_task(outbox.ticket(DrawCall(str(index), WORLD.draw(WORLD.job()))))
            group.create_task(outbox.result(failed_task()))
        while len(wire.sent) < 20:
            await asyncio.sleep(0)
        for frame in wire.sent:
            if frame.method == "job_result":
                outbox.settle(Settled(frame.id, 200, "success"))
    assert wire.counters() == sorted(set(wire.counters()))
    assert len(wire.counters()) == 20


async def test_clocks_start_above_what_the_dispatcher_has_seen() -> None:
    outbox, wire = Outbox(Counter(MemoryStore())), Wire()
    await outbox.attach(open_session(), wire, last_seen=1000)
    await outbox.ticket(DrawCall("1", WORLD.draw(WORLD.job())))
    assert wire.counters() == [1001]


async def test_a_result_waits_for_a_connection() -> None:
    outbox, wire = Outbox(Counter(MemoryStore())), Wire()
    sending = asyncio.create_task(outbox.result(failed_task()))
    await asyncio.sleep(0)
    assert not sending.done()
    await outbox.attach(open_session(), wire, last_seen=0)
    await answer(outbox, wire, 1)
    assert (await sending).code == 200


async def test_a_lost_connection_ends_the_wait_for_its_replies() -> None:
    outbox, wire = Outbox(Counter(MemoryStore())), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    sending = asyncio.create_task(outbox.result(failed_task()))
    await wire.arrived.wait()
    outbox.detach()
    with pytest.raises(LinkLost):
        await sending


async def test_a_reply_on_a_new_connection_is_not_taken_for_one_on_the_old() -> None:
    outbox, old, new = Outbox(Counter(MemoryStore())), Wire(), Wire()
    await outbox.attach(open_session(), old, last_seen=0)
    first = asyncio.create_task(outbox.result(failed_task()))
    await old.arrived.wait()
    outbox.detach()
    await outbox.attach(open_session(), new, last_seen=0)
    second = asyncio.create_task(outbox.result(failed_task()))
    await new.arrived.wait()
    assert old.sent[0].id == new.sent[0].id
    outbox.settle(Settled(new.sent[0].id, 200, "success"))
    assert (await second).code == 200
    with pytest.raises(LinkLost):
        await first


async def test_a_missing_reply_is_not_waited_for_for_ever() -> None:
    outbox, wire = Outbox(Counter(MemoryStore()), patience=0.01), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    with pytest.raises(LinkLost, match=r"did not reply to a result or score within 0\.01 s"):
        await outbox.result(failed_task())
    outbox.settle(Settled(wire.sent[0].id, 200, "success"))  # too late, and harmless


async def test_a_socket_that_breaks_while_sending_leaves_nobody_waiting() -> None:
    outbox, wire = Outbox(Counter(MemoryStore())), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    wire.gone = True
    with pytest.raises(LinkLost):
        await outbox.result(failed_task())
    outbox.detach()


async def test_without_a_durable_number_nothing_leaves() -> None:
    class Away(MemoryStore):
        async def reserve(self, count: int) -> int:
            raise StoreUnavailable

    outbox, wire = Outbox(Counter(Away())), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    with pytest.raises(StoreUnavailable):
        await outbox.ticket(DrawCall("1", WORLD.draw(WORLD.job())))
    with pytest.raises(StoreUnavailable):
        await outbox.result(failed_task())
    assert wire.sent == []


async def test_the_domain_is_known_from_the_first_connection_on() -> None:
    outbox = Outbox(Counter(MemoryStore()))
    asking = asyncio.create_task(outbox.domain())
    await asyncio.sleep(0)
    assert not asking.done()
    await outbox.attach(open_session(), Wire(), last_seen=0)
    assert await asking == WORLD.domain
    outbox.detach()
    assert await outbox.domain() == WORLD.domain


async def test_without_a_connection_there_is_no_ticket() -> None:
    with pytest.raises(LinkLost):
        await Outbox(Counter(MemoryStore())).ticket(DrawCall("1", WORLD.draw(WORLD.job())))


async def test_what_needs_no_clock_takes_no_number_and_gets_its_reply() -> None:
    outbox, wire = Outbox(Counter(MemoryStore())), Wire()
    asking = asyncio.create_task(outbox.ask("blob_get", {"offset": 0}))
    await asyncio.sleep(0)
    assert not asking.done()
    await outbox.attach(open_session(), wire, last_seen=0)
    await wire.arrived.wait()
    [frame] = wire.sent
    assert (frame.method, list(frame.params)) == ("blob_get", [{"offset": 0}])
    outbox.settle(Settled(frame.id, 200, "success", {"size": 5}))
    assert (await asking).said == {"size": 5}
    await outbox.ticket(DrawCall("1", WORLD.draw(WORLD.job())))
    assert int((wire.sent[1].result or {})["ticket"]["clock"][str(NUMBER)]) == 1  # type: ignore[index,call-overload]


async def test_what_needs_no_clock_is_not_waited_for_beyond_the_connection_or_for_ever() -> None:
    outbox, wire = Outbox(Counter(MemoryStore()), patience=0.01), Wire()
    await outbox.attach(open_session(), wire, last_seen=0)
    with pytest.raises(LinkLost, match=r"did not reply to blob_put within 0\.01 s"):
        await outbox.ask("blob_put", {})
    patient = Outbox(Counter(MemoryStore()))
    await patient.attach(open_session(), wire, last_seen=0)
    wire.arrived.clear()
    asking = asyncio.create_task(patient.ask("blob_put", {}))
    await wire.arrived.wait()
    patient.detach()
    with pytest.raises(LinkLost):
        await asking
