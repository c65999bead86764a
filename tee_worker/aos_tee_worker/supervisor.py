"""Keeps one enclave running: a child process that is started, watched, and started again when it crashes or hangs.

The child holds all keys, so each life begins with fresh ones, and every job and connection of the life before is lost. It inherits
the listening socket: while it is away, connections wait. It shows that it lives by a byte a second through a pipe (`heart`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import structlog
from pydantic import BaseModel, ConfigDict

from aos_service.tether import tied

End: TypeAlias = Literal["stopped", "crashed", "hung"]

_ADVICE: Final = (
    "Its lines above may say more. Prompts sealed to its keyset must be sealed again, to the new one; other jobs are retried "
    "elsewhere. If it happens again, lower --slots or --context (memory: see dmesg), and report it with these lines."
)

_log = structlog.get_logger(__name__)


class Restarts(BaseModel):
    """How often the enclave was started again, by reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crashed: int = 0
    hung: int = 0

    def after(self, end: Literal["crashed", "hung"]) -> "Restarts":
        """The counts after one more such end."""
        return self.model_copy(update={end: getattr(self, end) + 1})


@dataclass(frozen=True)
class Timing:
    """Seconds: without a beat until the enclave counts as hung, for it to start and to stop, between restarts (doubled each time, up to the
    longest), and after which life counts as good, so that the next restart is quick again.
    """

    silence: float = 15.0
    start: float = 1800.0
    stop: float = 10.0
    pause: float = 0.5
    longest_pause: float = 30.0
    steady: float = 60.0


class Pulse:
    """The supervisor's end of a heartbeat pipe."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._loop = asyncio.get_running_loop()
        self._first = asyncio.Event()
        self._last = 0.0
        self._loop.add_reader(self._reading, self._take)

    def _take(self) -> None:
        if os.read(self._reading, 4096):
            self._last = self._loop.time()
            self._first.set()
        else:
            self._loop.remove_reader(self._reading)

    @property
    def felt(self) -> bool:
        """Whether there has been a beat."""
        return self._first.is_set()

    async def stopped(self, timing: Timing) -> None:
        """Return when the first beat or the next one is overdue.

        Beats that waited while this process itself was held up count when they are read, which is before a timer is looked at.
        """
        try:
            async with asyncio.timeout(timing.start):
                await self._first.wait()
        except TimeoutError:
            if not self.felt:
                return
        while (left := self._last + timing.silence - self._loop.time()) > 0:
            await asyncio.sleep(left)

    def started(self) -> None:
        """The child has its end: close ours, so that the pipe ends with the child."""
        os.close(self.writing)

    def close(self) -> None:
        """Let go of the pipe."""
        self._loop.remove_reader(self._reading)
        os.close(self._reading)


class Supervisor:
    """Runs the program that `command` gives for the file descriptor of its heartbeat and the restarts so far.

    `inherited` are further file descriptors that it keeps, and `command` starts with an absolute path.
    """

    def __init__(
        self,
        command: Callable[[int, Restarts], Sequence[str]],
        inherited: Sequence[int],
        timing: Timing = Timing(),
    ) -> None:
        self._command = command
        self._inherited = inherited
        self._timing = timing
        self._told = asyncio.Event()
        self._failures = 0

    async def run(self) -> int:
        """Keep it running until SIGINT or SIGTERM: 0. If it cannot start, its exit status, for it has said why.

        That holds for its first start, however that ends, and for every later one that it gives up by itself.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told.set)
        restarts = Restarts()
        first = True
        while not self._told.is_set():
            pulse = Pulse()
            try:
                end, status, lived = await self._live(pulse, restarts)
            finally:
                pulse.close()
            if end == "stopped":
                break
            if not pulse.felt and (first or status > 0):
                if status < 0:  # it could not say why itself
                    _log.error("the enclave cannot start", status=_described(status), advice=_ADVICE)
                return _exit_status(status)
            first = False
            restarts = restarts.after(end)
            await self._pause(end, status, lived, restarts)
        return 0

    async def _live(self, pulse: Pulse, restarts: Restarts) -> tuple[End, int, float]:
        """One life: how it ended, with which status (negative: by that signal), after how many seconds."""
        loop = asyncio.get_running_loop()
        born = loop.time()
        process = await asyncio.create_subprocess_exec(
            # The child may hang: only SIGKILL surely ends it when we die.
            *tied(self._command(pulse.writing, restarts), on_parent_death=signal.SIGKILL),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(pulse.writing, *self._inherited),
            start_new_session=True,  # a terminal's Ctrl-C comes to us, and we decide
        )
        pulse.started()
        try:
            end = await self._watch(process, pulse)
        finally:
            if process.returncode is None:
                process.kill()
            status = await process.wait()
        return end, status, loop.time() - born

    async def _watch(self, process: asyncio.subprocess.Process, pulse: Pulse) -> End:
        """Wait until the child ends by itself, hangs, or is to be stopped, which is then done."""
        ended = asyncio.create_task(process.wait())
        silent = asyncio.create_task(pulse.stopped(self._timing))
        told = asyncio.create_task(self._told.wait())
        watched = {ended, silent, told}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                await self._stop(process, ended)
                return "stopped"
            return "crashed" if ended.done() else "hung"
        finally:
            for task in watched:
                task.cancel()
            await asyncio.gather(*watched, return_exceptions=True)

    async def _stop(self, process: asyncio.subprocess.Process, ended: "asyncio.Task[int]") -> None:
        if not ended.done():
            process.terminate()
        await asyncio.wait({ended}, timeout=self._timing.stop)
        if not ended.done():
            _log.warning("the enclave does not stop and is killed", seconds=self._timing.stop)

    async def _pause(
        self, end: Literal["crashed", "hung"], status: int, lived: float, restarts: Restarts
    ) -> None:
        self._failures = 1 if lived >= self._timing.steady else self._failures + 1
        pause = min(self._timing.pause * 2 ** (self._failures - 1), self._timing.longest_pause)
        _log.error(
            "the enclave crashed" if end == "crashed" else "the enclave hung and was killed",
            status=_described(status),
            lived=round(lived, 1),
            restarting_in=pause,
            restarts=restarts.model_dump(),
            advice=_ADVICE,
        )
        try:
            async with asyncio.timeout(pause):
                await self._told.wait()
        except TimeoutError:
            return


def enclave_command(orders: str) -> list[str]:
    """The command line of an enclave with these orders (JSON, see `enclave.Orders`); the working directory's modules are not imported."""
    return [sys.executable, "-P", "-m", "aos_tee_worker.enclave", orders]


def _exit_status(status: int) -> int:
    """As a shell gives it: 128 and the signal's number for a process that a signal ended; never 0, for it was not to end."""
    return 128 - status if status < 0 else status or 1


def _described(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
