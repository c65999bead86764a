import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from aos_inference.errors import BodyTooLarge, QueueFull
from aos_inference.intake import Intake


class Upload:
    """A request whose body comes in pieces, when the test sends them."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: asyncio.Queue[Message] = asyncio.Queue()
        self.request = Request({"type": "http", "method": "POST", "headers": []}, self.pieces.get)
        for piece in pieces:
            self.send(piece)

    def send(self, piece: bytes) -> None:
        """A piece; an empty one is the last."""
        self.pieces.put_nowait({"type": "http.request", "body": piece, "more_body": bool(piece)})


async def read(intake: Intake, *pieces: bytes, limit: int = 10) -> bytes:
    async with intake.body(Upload(*pieces, b"").request, limit) as body:
        return body


async def test_the_limit_is_counted_over_all_pieces() -> None:
    assert await read(Intake(), b"12345", b"67890") == b"1234567890"
    with pytest.raises(BodyTooLarge, match="exceeds 10 bytes"):
        await read(Intake(), b"12345", b"67890", b"1")


async def test_all_bodies_together_are_bounded_until_they_are_taken_up() -> None:
    intake = Intake(most=15)
    async with intake.body(Upload(b"1234567890", b"").request, 10):
        assert await read(intake, b"12345") == b"12345"
        with pytest.raises(QueueFull, match="10 bytes are being read"):
            await read(intake, b"123456")
        assert await read(intake, b"12345") == b"12345"
    assert await read(intake, b"1234567890") == b"1234567890"


async def test_a_body_under_way_counts_and_one_given_up_does_not() -> None:
    intake, slow = Intake(most=15), Upload(b"1234567890")

    async def follow() -> None:
        async with intake.body(slow.request, 10):
            pytest.fail("the body never ends")

    following = asyncio.create_task(follow())
    while not slow.pieces.empty():
        await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await read(intake, b"123456")
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert await read(intake, b"1234567890") == b"1234567890"


async def test_a_client_that_exceeds_the_limit_by_far_is_not_heard_out() -> None:
    endless = Upload(*[bytes(2**20)] * 20)
    with pytest.raises(BodyTooLarge):
        async with Intake().body(endless.request, 10):
            pass
    assert not endless.pieces.empty()


async def test_a_piece_that_finds_no_memory_does_not_stay_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(bytearray):
        def __iadd__(self, _other: object) -> "Full":
            raise MemoryError

    intake = Intake(most=15)
    with monkeypatch.context() as patch:
        patch.setattr("aos_inference.intake.bytearray", Full, raising=False)
        for _ in range(3):
            with pytest.raises(MemoryError):
                await read(intake, b"1234567890")
    assert await read(intake, b"1234567890") == b"1234567890"
