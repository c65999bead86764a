"""Several streams of news as one, with a word in between when nobody has any."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TypeVar

T = TypeVar("T")


async def merged(
    streams: Sequence[AsyncIterator[T]], patience: float
) -> AsyncGenerator[tuple[int, T] | None, None]:
    """Yield what comes of any stream, with the stream's number, until all have ended; None whenever nothing came for `patience` seconds.

    What a stream raises is raised here. No stream is asked for more before what it said was taken.
    """
    waiting = {asyncio.ensure_future(anext(stream)): number for number, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            for each in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(each)
                try:
                    said = each.result()
                except StopAsyncIteration:
                    continue
                yield number, said
                waiting[asyncio.ensure_future(anext(streams[number]))] = number
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
