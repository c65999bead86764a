"""Pauses between attempts."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.backoff import Backoff, until_available
from aos_operator.errors import QueueUnavailable, Refused


def test_the_ceiling_doubles_up_to_the_limit() -> None:
    backoff = Backoff(first=1, limit=5, draw=lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_success_starts_over() -> None:
    backoff = Backoff(first=1, limit=5, draw=lambda: 1.0)
    backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == 1


@given(st.integers(1, 60))
def test_every_pause_lies_below_its_ceiling(attempts: int) -> None:
    backoff = Backoff(first=0.25, limit=30)
    for attempt in range(attempts):
        assert 0 <= backoff.next() <= min(30, 0.25 * 2**attempt)


async def test_what_is_unavailable_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    outcomes = iter([QueueUnavailable(), QueueUnavailable(), "done"])

    async def attempt() -> object:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert await until_available(attempt, "a test") == "done"
    assert len(pauses) == 2


async def test_what_is_refused_is_not_tried_again() -> None:
    async def attempt() -> None:
        raise Refused(400, "no")

    with pytest.raises(Refused):
        await until_available(attempt, "a test")


async def test_attempts_end_with_their_task_even_if_a_library_swallows_its_cancellation() -> None:
    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise QueueUnavailable from None

    trying = asyncio.create_task(until_available(swallow, "a test"))
    await asyncio.sleep(0)
    trying.cancel()
    await asyncio.wait([trying], timeout=5)
    assert trying.cancelled()


def test_pauses_are_random() -> None:
    assert len({Backoff(first=1).next() for _ in range(10)}) > 1
