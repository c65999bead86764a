"""Landlock (Linux 5.13, userspace-api/landlock): a process gives up files, TCP and signals that it does not need, and cannot take them back."""

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION: Final = 1
_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_FILES: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
"""Rights over files by the ABI that brought them: the first 13, REFER, TRUNCATE, IOCTL_DEV."""
_WRITING: Final = {1: _WRITE_FILE, 3: _TRUNCATE}
TCP_SINCE: Final = 4
_TCP: Final = {TCP_SINCE: 0b11}
"""BIND_TCP and CONNECT_TCP."""
SCOPES_SINCE: Final = 6
_SCOPES: Final = {SCOPES_SINCE: 0b11}
"""Abstract unix sockets of others, and signals to others."""

_NULL: Final = Path(os.devnull)

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return which version of Landlock the kernel has. Raises OSError when it has none, or has it switched off."""
    return _call(_CREATE, None, 0, _VERSION)


def restrict(readable: Iterable[Path]) -> int:
    """Keep this thread, and those it starts from now on, from all files but to read these and what is beneath them; return the ABI.

    `/dev/null` may be written to, which libraries do. What the ABI has of TCP, others' abstract sockets and signals to others is given up, too.
    The process must have no_new_privs set. Paths that are not there, or closed to it anyway, are passed over. Raises OSError.
    """
    version = abi()
    # Fields that a kernel does not know must be zero, which they are, as they are handled from their ABI on.
    ruleset = _Ruleset(_rights(_FILES, version), _rights(_TCP, version), _rights(_SCOPES, version))
    descriptor = _call(_CREATE, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        _allow(descriptor, _NULL, _READ_FILE | _rights(_WRITING, version))
        for path in readable:
            _allow(descriptor, path, _READ_FILE | _READ_DIR)
        _call(_RESTRICT, descriptor, 0)
    finally:
        os.close(descriptor)
    return version


def _rights(by_abi: dict[int, int], version: int) -> int:
    return sum(rights for since, rights in by_abi.items() if since <= version)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= ~_READ_DIR  # of a file, the kernel refuses it
        _call(_ADD, ruleset, _BENEATH, ctypes.byref(_Beneath(rights, parent)), 0)
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    """Make a system call that the C library has no name for; numbers from 424 on are the same on every architecture."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
