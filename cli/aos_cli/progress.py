"""What a command shows while it starts things: one line for each part that is ready, and what it still waits for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Progress:
    """Prints to `console`; on a terminal, a last line names what is under way."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._under_way: dict[str, None] = {}
        self._status: Status | None = None

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step and print it when it is done; what the caller puts into the list stands behind it."""
        said: list[str] = []
        started = time.monotonic()
        self._under_way[name] = None
        self._show()
        try:
            yield said
        finally:
            del self._under_way[name]
            self._show()
        self.say(name, time.monotonic() - started, " ".join(said))

    def say(self, name: str, seconds: float, what: str) -> None:
        """Print one line: what, after how long, and more about it."""
        self.console.print(
            f"  {name:<18} {seconds:6.1f} s   {what}".rstrip(), highlight=False, markup=False, soft_wrap=True
        )

    def _show(self) -> None:
        if not self.console.is_terminal:
            return
        text = f"waiting for {', '.join(self._under_way)}"
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        elif self._under_way:
            self._status.update(text)
        else:
            self._status.stop()
            self._status = None
