"""Processes that are killed and stopped on purpose, and started again when they end by themselves, as a supervisor would do."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aos_service.child import Child

_POLL_S = 0.2
_RESTART_S = 1.0
_FINISH_S = 30.0


@dataclass(frozen=True)
class Ended:
    """A process that ended though nobody killed it: its exit status (None: it had to be killed), and the last line that it said."""

    name: str
    status: int | None
    said: str


@dataclass
class Process:
    """One part of the network through all its restarts; each has a log of its own, `<name>.<run>.log`.

    `command` is asked for each run's command line.
    """

    name: str
    command: Callable[[int], list[str]]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    runs: int = 0
    ended: list[Ended] = field(default_factory=list)
    _child: Child | None = None

    @property
    def child(self) -> Child:
        """The present run."""
        assert self._child is not None, f"{self.name} was not started"
        return self._child

    def start(self) -> None:
        """Start the next run."""
        self.runs += 1
        log = self.folder / f"{self.name}.{self.runs}.log"
        environment = os.environ | self.environment
        self._child = Child(self.name, self.command(self.runs), log=log, environment=environment)
        self._child.start()

    async def kill(self) -> None:
        """End it by SIGKILL."""
        child, self._child = self.child, None
        if child.returncode is None:
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        await child.until_ended()

    async def finish(self) -> None:
        """End it by SIGTERM, which it must obey in time; a server says by its status that it was that signal, as supervisors expect."""
        child, self._child = self.child, None
        if child.pid is not None and child.returncode is None:
            os.kill(child.pid, signal.SIGTERM)
            try:
                status = await asyncio.wait_for(child.until_ended(), _FINISH_S)
            except TimeoutError:
                status = None
            if status not in {0, -signal.SIGTERM}:
                self.ended.append(Ended(self.name, status, f"after SIGTERM; {_last_line(child)}"))
        await child.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._child is not None and self._child.returncode is None and self._child.pid is not None:
            os.kill(self._child.pid, number)

    async def stop(self) -> None:
        """End it for good."""
        if self._child is not None:
            self.signal(signal.SIGCONT)
            await self._child.stop()

    async def supervise(self) -> None:
        """Start it again whenever it has ended by itself, for ever."""
        while True:
            await asyncio.sleep(_POLL_S)
            child = self._child
            if child is None or (status := child.returncode) is None:
                continue
            self.ended.append(Ended(self.name, status, _last_line(child)))
            await asyncio.sleep(_RESTART_S)
            if self._child is child:
                self.start()


def _last_line(child: Child) -> str:
    lines = [line for line in child.log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for one in _numbers(Path("/proc").iterdir()):
        try:
            parent = int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(one)
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and all its descendants; those that have just ended are passed over."""
    for one in family(pid):
        try:
            os.kill(one, number)
        except ProcessLookupError:
            continue


def _numbers(folders: Iterable[Path]) -> list[int]:
    return [int(folder.name) for folder in folders if folder.name.isdigit()]
