"""Ties a child process to its parent, so that nothing is left running when the parent is killed.

`tied(command)` is a command line that runs `command` with a signal set for the moment its parent dies. This
file is also the small program in between (it sets the signal and becomes the command), so it may import the
standard library only.

It holds on Linux, SIGKILL of the parent included, for the child itself: what the child starts is the child's
affair. Linux watches the parent's *thread*: start children from a thread that lives as long as they should,
such as the event loop's. Elsewhere the command simply runs, and a killed parent leaves it running.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

_PR_SET_PDEATHSIG = 1


class Account(NamedTuple):
    """Whom a child runs as (only root may choose)."""

    uid: int
    gid: int


def tied(
    command: Sequence[str],
    *,
    on_parent_death: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
) -> list[str]:
    """The command line that runs `command`, an absolute path and its arguments, until this process dies.

    With `account`, the command runs as that user, who needs no access to this file or to Python.
    """
    who = f"{account.uid}:{account.gid}" if account else ""
    isolated = [sys.executable, "-I", "-S", __file__]  # no site-packages: it starts in about 10 ms
    return [*isolated, str(os.getpid()), str(int(on_parent_death)), who, *command]


def _main(parent: str, death_signal: str, who: str, *command: str) -> NoReturn:
    if who:
        uid, gid = map(int, who.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # after setuid, which would undo it
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        sys.exit("the parent died before its child started")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
