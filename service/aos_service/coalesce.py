"""Group commit: many callers share one trip to the database.

While one batch is being written, the callers that arrive meanwhile wait together for the next. A
lone caller waits for nobody, so this costs no latency when there is no load.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Coalescer(Generic[T, R]):
    """Calls `write` with up to `limit` items at a time; it returns one outcome for each, in order.

    An outcome that is an exception is raised to its own caller only; an exception raised by `write`
    reaches every caller of that batch. One of the kind `hopeless`, such as that the database is away, reaches all who
    wait behind it, too: batch after batch would wait as long for the same answer.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        limit: int,
        *,
        hopeless: type[Exception] | tuple[()] = (),
    ) -> None:
        self._write = write
        self._limit = limit
        self._hopeless = hopeless
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, item: T) -> R:
        """Return the outcome of writing this item.

        A caller that is cancelled takes its item back; one that is being written already is waited for. So nothing of a
        cancelled caller is written once it has ended.
        """
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        entry = item, done
        self._waiting.append(entry)
        if self._writer is None:
            self._writer = asyncio.create_task(self._drain())
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if any(waiting is entry for waiting in self._waiting):
                self._waiting = [waiting for waiting in self._waiting if waiting is not entry]
            else:
                await asyncio.wait([done])
                if not done.cancelled():
                    done.exception()  # looked at: nobody is left to be told of it
            raise

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._settle(batch)
        finally:
            self._writer = None

    async def _settle(self, batch: list[tuple[T, "asyncio.Future[R]"]]) -> None:
        outcomes: Sequence[R | Exception]
        try:
            outcomes = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is not swallowed: every caller of the batch gets it
            if isinstance(error, self._hopeless):
                batch, self._waiting = [*batch, *self._waiting], []
            outcomes = [error] * len(batch)
        except asyncio.CancelledError:
            for _, done in batch:
                done.cancel()
            raise
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
