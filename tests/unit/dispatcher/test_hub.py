"""Peers: replies find their requests, counters only rise, and leaving fails whoever waits."""

import asyncio
from typing import Any

import pytest

from aos_dispatcher.errors import PeerGone, Refused, ReplyTimeout
from aos_dispatcher.hub import Connection, Hub
from aos_protocol.frames import Frame, open_frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import ServedModel

DISPATCHER, OPERATOR = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
TINY = ServedModel(name="tiny", sha256="ab" * 32)


class Wire:
    """What a peer sent, and a way to wait for it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Frame] = asyncio.Queue()

    def peer(self, *, seen: int = 0, signer: Signer = OPERATOR, epoch: int = 1) -> Connection:
        return Connection(
            signer.address,
            2,
            epoch=epoch,
            seen=seen,
            workers=["opml"],
            models=[TINY],
            signer=DISPATCHER,
            send=self.sent.put,
        )


def frame(text: str = "x") -> Frame:
    return seal_request(OPERATOR, text, "job_result", [{"n": text}])


async def test_a_reply_reaches_its_request() -> None:
    wire = Wire()
    peer = wire.peer()
    asking = asyncio.create_task(peer.request("draw", {"a": 1}, 5))
    sent = open_frame((await wire.sent.get()).text)
    assert (sent.method, sent.params, sent.address) == ("draw", [{"a": 1}], DISPATCHER.address)
    peer.receive_reply(seal_reply(OPERATOR, "another id", {"code": 500}))
    peer.receive_reply(seal_reply(OPERATOR, sent.id, {"code": 200}))
    assert (await asking).result == {"code": 200}
    peer.receive_reply(seal_reply(OPERATOR, sent.id, {"code": 500}))


async def test_silence_is_a_timeout_and_leaving_fails_at_once() -> None:
    peer = Wire().peer()
    with pytest.raises(ReplyTimeout, match="draw"):
        await peer.request("draw", {}, 0.01)
    asking = asyncio.create_task(peer.request("draw", {}, 60))
    await asyncio.sleep(0)
    peer.close()
    with pytest.raises(PeerGone):
        await asking
    with pytest.raises(PeerGone):
        await peer.request("draw", {}, 60)


def test_counters_only_rise() -> None:
    peer = Wire().peer(seen=4)
    peer.observe({"2": "5"}, frame("a"))
    assert peer.seen == 5
    with pytest.raises(Refused, match="replay"):
        peer.observe({"2": "5"}, frame("a"))
    with pytest.raises(Refused, match="equivocation"):
        peer.observe({"2": "5"}, frame("b"))
    with pytest.raises(Refused, match="replay"):
        peer.observe({"2": "3"}, frame("c"))
    peer.observe({"2": "9", "1": "1"}, frame("d"))
    assert peer.seen == 9


@pytest.mark.parametrize(
    "clock", [None, [], {}, {"3": "9"}, {"2": 9}, {"2": "x"}, {"2": "-9"}, {"2": "9" * 30}]
)
def test_a_clock_without_its_senders_counter_is_refused(clock: Any) -> None:
    with pytest.raises(Refused, match="no entry of participant 2"):
        Wire().peer().observe(clock, frame())


def test_the_hub_knows_who_serves_which_file() -> None:
    hub, changes = Hub(), list[str]()
    hub.on_change(changes.append)
    peer = Wire().peer()
    hub.add(peer)
    assert hub.serving("opml", TINY) == [peer]
    assert hub.serving("opml", TINY, 1) == []
    assert hub.serving("tee", TINY) == []
    assert hub.serving("opml", ServedModel(name="tiny", sha256="cd" * 32)) == []
    assert (hub.served(), hub.connected(), len(hub)) == ({("opml", "tiny")}, {OPERATOR.address}, 1)
    hub.remove(peer)
    assert changes == [OPERATOR.address] * 2
    assert (hub.served(), hub.serving("opml", TINY)) == (set(), [])
    assert hub.get(OPERATOR.address) is None
    with pytest.raises(PeerGone):
        hub.require(OPERATOR.address)


async def test_a_newer_connection_closes_the_older_and_outlives_its_end() -> None:
    hub = Hub()
    older, newer = Wire().peer(epoch=1), Wire().peer(epoch=2)
    hub.add(older)
    hub.add(newer)
    await older.wait_closed()
    hub.remove(older)
    assert hub.get(OPERATOR.address) is newer
