"""`operator-runner` as a real process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aos_service.child import Child

RUNNER = Path(sys.executable).with_name("operator-runner")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


async def run_command(
    *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> Ended:
    """Run `operator-runner` with these arguments to its end."""
    process = await asyncio.create_subprocess_exec(
        RUNNER,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class OperatorProcess:
    """An operator that can be started, killed and started again; `program` takes the arguments of `operator-runner`."""

    def __init__(
        self, folder: Path, configuration: dict[str, Any], program: Sequence[str] = (str(RUNNER),)
    ) -> None:
        self.file = folder / "config.yaml"
        self.file.write_text(yaml.safe_dump(configuration))
        self.file.chmod(0o600)
        self._child = Child("operator", [*program, "-c", str(self.file)], log=folder / "operator.log")

    @property
    def child(self) -> Child:
        """Its process."""
        return self._child

    def start(self) -> None:
        """Start it, without waiting for anything."""
        self._child.start()

    async def kill(self) -> None:
        """End it by SIGKILL."""
        assert await self.end(signal.SIGKILL) == -signal.SIGKILL

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and return its exit status."""
        assert self._child.pid is not None
        os.kill(self._child.pid, number)
        return await self._child.until_ended()

    async def until_ended(self) -> int:
        """Wait for its end and return its exit status."""
        return await self._child.until_ended()

    def log(self) -> str:
        """What it has logged since it was started."""
        return self._child.log.read_text()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OperatorProcess"]:
        """Start it, and see to it that it is gone in the end."""
        self.start()
        try:
            yield self
        finally:
            await self._child.stop()
