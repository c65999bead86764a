"""A process and all its descendants, to be stopped (SIGSTOP) and to go on (SIGCONT): a server that says nothing at all."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process with its descendants while the block runs: also those that it starts while it is being stopped."""
    members: list[int] = []
    while new := [member for member in family(pid) if member not in members]:
        for member in new:
            _send(member, signal.SIGSTOP)
        members += new
    try:
        yield
    finally:
        for member in members:
            _send(member, signal.SIGCONT)


def _send(pid: int, sent: signal.Signals) -> None:
    # One that had ended before its parent was stopped is gone as soon as that goes on.
    with suppress(ProcessLookupError):
        os.kill(pid, sent)
