"""Group commit: callers share batches, outcomes reach their own callers."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from aos_service.coalesce import Coalescer


async def test_callers_that_arrive_during_a_write_share_the_next() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def write(items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        if len(batches) == 1:
            await gate.wait()
        return [item * 10 for item in items]

    coalescer: Coalescer[int, int] = Coalescer(write, limit=3)
    first = asyncio.create_task(coalescer.submit(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(coalescer.submit(n)) for n in range(1, 6)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *others) == [0, 10, 20, 30, 40, 50]
    assert batches == [[0], [1, 2, 3], [4, 5]]


async def test_an_outcome_that_is_an_error_reaches_its_own_caller_only() -> None:
    async def write(items: Sequence[int]) -> list[int | Exception]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    coalescer: Coalescer[int, int] = Coalescer(write, limit=8)
    outcomes = await asyncio.gather(*(coalescer.submit(n) for n in range(4)), return_exceptions=True)
    assert [outcomes[0], outcomes[2]] == [0, 2]
    assert [str(outcomes[1]), str(outcomes[3])] == ["1", "3"]


async def test_a_failed_write_reaches_everybody_and_the_next_batch_is_fresh() -> None:
    failing = True

    async def write(items: Sequence[int]) -> list[int | Exception]:
        if failing:
            raise ConnectionError
        return list(items)

    coalescer: Coalescer[int, int] = Coalescer(write, limit=8)
    outcomes = await asyncio.gather(coalescer.submit(1), coalescer.submit(2), return_exceptions=True)
    assert all(isinstance(outcome, ConnectionError) for outcome in outcomes)
    failing = False
    assert await coalescer.submit(3) == 3


async def test_what_waits_of_a_cancelled_caller_is_not_written() -> None:
    written: list[list[int]] = []
    gate = asyncio.Event()

    async def write(items: Sequence[int]) -> list[int | Exception]:
        written.append(list(items))
        await gate.wait()
        return list(items)

    coalescer: Coalescer[int, int] = Coalescer(write, limit=8)
    first = asyncio.create_task(coalescer.submit(1))
    while not written:
        await asyncio.sleep(0)
    gone, stays = (asyncio.create_task(coalescer.submit(n)) for n in (2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.set()
    assert await asyncio.gather(first, stays) == [1, 3]
    assert written == [[1], [3]]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_ends_when_what_it_wrote_is_written(fails: bool) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))

    async def write(items: Sequence[int]) -> list[int | Exception]:
        begun.set()
        await gate.wait()
        return [ValueError() if fails else item for item in items]

    coalescer: Coalescer[int, int] = Coalescer(write, limit=8)
    caller = asyncio.create_task(coalescer.submit(1))
    await begun.wait()
    caller.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not caller.done()
    gate.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    del caller
    gc.collect()
    assert unseen == []


async def test_what_is_hopeless_reaches_those_who_wait_behind_it_too() -> None:
    written: list[list[int]] = []
    gate = asyncio.Event()
    error: Exception = ConnectionError()

    async def write(items: Sequence[int]) -> list[int | Exception]:
        written.append(list(items))
        await gate.wait()
        raise error

    coalescer: Coalescer[int, int] = Coalescer(write, limit=2, hopeless=ConnectionError)
    callers = [asyncio.create_task(coalescer.submit(n)) for n in range(7)]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert outcomes == [error] * 7
    assert written == [[0, 1]]
    error = ValueError()
    again = await asyncio.gather(*(coalescer.submit(n) for n in range(3)), return_exceptions=True)
    assert again == [error] * 3
    assert written[1:] == [[0, 1], [2]]
