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
        with suppress(FileNotFoundError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process with its descendants while the block runs."""
    members = family(pid)
    for member in members:
        os.kill(member, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            os.kill(member, signal.SIGCONT)
