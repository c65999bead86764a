"""Ctrl-C and its relatives, from the first thing that a command starts to the last thing that it cleans up.

    with Interrupts() as interrupts, temporary_folder() as data:
        interrupts.run(main(data))

Inside, SIGINT, SIGTERM and SIGHUP never raise KeyboardInterrupt and never end the process: they cancel the coroutine, whose
clean-up then runs to its end. A second one cancels what the clean-up waits for, so that it hurries.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from aos_cli.failures import Interrupted

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Holds the signals of a command; use it in the main thread."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._cancel: Callable[[], object] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # nohup has a program ignore SIGHUP. (SIGINT is ignored by whatever a script runs in the background; it stops us all
        # the same, since nobody else would stop our children.)
        wanted = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in an event loop of its own.

        Raises:
            Interrupted: when a signal came, after the coroutine has cleaned up.
        """
        return asyncio.run(self._guarded(main))

    async def _guarded(self, main: Coroutine[Any, Any, T]) -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 (we are in a coroutine)
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._received is not None:
            self._cancel()
        try:
            return await main
        except asyncio.CancelledError:
            if self._received is None:
                raise
            raise Interrupted(self._received) from None
        finally:
            self._cancel = None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._received = self._received or number
        if self._cancel is not None:
            self._cancel()
