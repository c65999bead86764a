"""Keeps the memory of a process that holds keys to itself: no core files, and no looking in by others of the same user."""

import ctypes
import os
import resource
import sys

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Forbid core files (RLIMIT_CORE 0, which children inherit) and on Linux dumps and tracing (PR_SET_DUMPABLE 0, of this process).

    To be called when a process starts. From then on only root can trace it, read its memory, or read its environment in /proc.

    Raises:
        OSError: when the system refuses, which it has no reason to.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl(PR_SET_DUMPABLE): {os.strerror(code)}")
