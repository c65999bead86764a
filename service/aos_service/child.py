"""A child process that is surely stopped: by `stop`, and on Linux also when we are killed (see `tether`).

child = Child("worker", [program, "-c", str(config)], log=data / "worker.log")
child.start()
try:
    await child.until_ready(answers, timeout_s=60)
    ...
finally:
    await child.stop()
"""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from aos_service.errors import ChildError
from aos_service.tether import Account, tied

_POLL_S = 0.02
_ABORT_TIMEOUT_S = 5.0
_LOG_TAIL_LINES = 20


class Child:
    """One command as a child process in a process group of its own, its output in `log`.

    The group keeps a terminal's Ctrl-C from it, so that the parent decides when it stops. Start it from a
    thread that lives as long as the child should, such as the event loop's: Linux ties it to the thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        abort_signal: signal.Signals = signal.SIGKILL,
        stop_timeout_s: float = 20.0,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """`command` starts with an absolute path; `inherited` are file descriptors that it keeps.

        `abort_signal` follows when `stop_signal` has done nothing for `stop_timeout_s`; SIGKILL comes last in
        any case. `log` is a file in a folder that exists.
        """
        self.name = name
        self.log = log
        self._command = command
        self._stop_signal = stop_signal
        self._abort_signal = abort_signal
        self._stop_timeout_s = stop_timeout_s
        self._account = account
        self._environment = environment
        self._folder = folder
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it was started and not yet stopped."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """Its exit status (negative: the signal that ended it), None while it runs or was not started."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it, with its standard input empty; the log of the run before is kept as `<log>.1`."""
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tied(self._command, on_parent_death=self._stop_signal, account=self._account),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self._folder,
                env=self._environment,
                pass_fds=self._inherited,
            )

    async def until_ready(self, ready: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        """Ask `ready` until it says so.

        Raises:
            ChildError: when the child ends first, or is not ready within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await ready():
                    if self.returncode is not None:
                        raise ChildError(
                            f"{self.name} ended with status {self.returncode}. {self.log_tail()}"
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ChildError(f"{self.name} was not ready within {timeout_s:g} s. {self.log_tail()}") from None

    async def until_ended(self) -> int:
        """Wait until it ends by itself; its exit status."""
        while (status := self.returncode) is None:
            await asyncio.sleep(_POLL_S)
        return status

    async def stop(self) -> None:
        """Stop it, cleanly if it lets us; it is gone when this returns, also when cancelled."""
        process = self._process
        if process is None:
            return
        try:
            if process.poll() is None:
                process.send_signal(self._stop_signal)
                async with asyncio.timeout(self._stop_timeout_s):
                    await self.until_ended()
        except TimeoutError:
            pass  # it is aborted below
        finally:
            _abort(process, self._abort_signal)
            self._process = None

    def log_tail(self) -> str:
        """The last lines of its log, as the end of a message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"Its log, {self.log}, ends:\n" + "\n".join(f"  {line}" for line in lines)


def _abort(process: subprocess.Popen[bytes], abort_signal: signal.Signals) -> None:
    """End it at once, blocking: nothing may interrupt this."""
    if process.poll() is None:
        process.send_signal(abort_signal)
        try:
            process.wait(_ABORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
