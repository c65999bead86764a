"""Operators that come all at once: so many shake hands as can be done in time, the others are told to come again."""

import asyncio
from typing import Any

from aos_dispatcher.hub import Hub
from aos_dispatcher.link import _MOST_AT_THE_DOOR, TRY_AGAIN_LATER, OperatorLink
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain


class Visitor:
    """A connection that is sent the challenge, and says nothing until it leaves."""

    def __init__(self) -> None:
        self.greeted = asyncio.Event()
        self.leaves = asyncio.Event()
        self.closed: tuple[str, int] | None = None

    async def receive(self) -> None:
        await self.leaves.wait()

    async def send(self, text: str) -> None:
        assert '"challenge"' in text
        self.greeted.set()

    async def close(self, reason: str, code: int = 0) -> None:
        self.closed = reason, code


def link() -> OperatorLink:
    unused: Any = None
    return OperatorLink(
        signer=Signer(b"\x11" * 32),
        domain=Domain(0, "0x" + "0" * 40),
        hub=Hub(),
        operators=unused,
        epochs=unused,
        frame_bytes=1 << 16,
        methods={},
        notices={},
        asks={},
        keep=unused,
        leaving=asyncio.Event(),
    )


async def test_more_than_can_be_served_in_time_are_told_to_come_again() -> None:
    door = link()
    first = [Visitor() for _ in range(_MOST_AT_THE_DOOR)]
    serving = [asyncio.create_task(door.serve(visitor)) for visitor in first]
    await asyncio.gather(*(visitor.greeted.wait() for visitor in first))
    late = Visitor()
    await door.serve(late)
    assert not late.greeted.is_set()
    assert late.closed == ("too many operators come at once; come again in a while", TRY_AGAIN_LATER)
    first[7].leaves.set()
    await serving[7]
    again = Visitor()
    serving.append(asyncio.create_task(door.serve(again)))
    await again.greeted.wait()
    for visitor in (*first, again):
        visitor.leaves.set()
    await asyncio.gather(*serving)
    assert door.door == set()
    assert [visitor.closed for visitor in (*first, again)] == [None] * (_MOST_AT_THE_DOOR + 1)
