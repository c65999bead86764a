"""Seccomp (Linux, userspace-api/seccomp_filter): a process gives up system calls for good; they then fail with EPERM.

Landlock and a network namespace know TCP and their own network only. A process that can make no socket and start no program has no way out but the
sockets that it was given.
"""

import ctypes
import errno
import os
import platform
from typing import Final, NamedTuple

_SET_SECCOMP: Final = 22
_FILTER: Final = 2
_NO_X32: Final = 0x40000000
"""From this number on, x86-64 takes the same calls in another form."""

_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_LOAD: Final = 0x20
"""BPF_LD | BPF_W | BPF_ABS, of `seccomp_data`: the number is at 0, the architecture at 4."""
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

REFUSED: Final = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),  # a ring makes sockets without those calls
}
"""What is refused, by its number on x86-64 and on arm64."""

_libc = ctypes.CDLL(None, use_errno=True)


class Instruction(ctypes.Structure):
    """One of classic BPF: where to jump when a comparison holds and when not, and its constant."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


class _Architecture(NamedTuple):
    audit: int
    column: int


_ARCHITECTURES: Final = {"x86_64": _Architecture(0xC000003E, 0), "aarch64": _Architecture(0xC00000B7, 1)}


def refuse_ways_out() -> None:
    """Refuse `REFUSED`, and all calls of other architectures, to this thread and those it starts from now on.

    The process must have no_new_privs set. Raises OSError, also where the numbers are not known here.
    """
    lines = instructions(platform.machine())
    program = _Program(len(lines), lines)
    if _libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def instructions(machine: str) -> "ctypes.Array[Instruction]":
    """Return the filter for a machine, as `platform.machine` names it. Raises OSError for one whose numbers are not known here.

    Jumps count from the next instruction on; the last is the refusal, and the one before lets pass.
    """
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} are not known here")
    checks = [(_AT_LEAST, _NO_X32), *((_EQUAL, each[architecture.column]) for each in REFUSED.values())]
    last = len(checks) + 4
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 0, last - 2, architecture.audit), (_LOAD, 0, 0, 0)]
    for code, number in checks:
        lines.append((code, last - len(lines) - 1, 0, number))
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return (Instruction * len(lines))(*(Instruction(*line) for line in lines))
