"""What a simulated enclave gives up before it sees a request, so that what gets in by one cannot get out: as far as the kernel has it, without root.

A real enclave has its hypervisor for that. Nothing here keeps the host out of a simulated one.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aos_tee_worker import landlock, seccomp

_SET_DUMPABLE: Final = 4
_SET_NO_NEW_PRIVS: Final = 38
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION: Final = 0x20080522

_SYSTEM: Final = tuple(
    map(
        Path,
        (
            "/usr",
            "/lib",
            "/lib64",
            "/etc/ld.so.cache",
            "/etc/localtime",
            "/proc",
            "/sys/devices/system",
            "/dev/urandom",
        ),
    )
)
"""Libraries, and what llama.cpp and Python ask about the machine."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Report:
    """What holds of what was tried, each in a few words, and what does not, with the reason."""

    in_force: Sequence[str]
    not_in_force: Sequence[str]


def isolate(readable: Sequence[Path], memory_limit: int | None = None) -> Report:
    """Give up network, files, programs and privileges for the rest of this process's life.

    `readable` is what may be read beside Python, its packages and the system's libraries; `memory_limit` is in bytes, of memory that can be
    written: a model that is mapped from its file does not count. Sockets and files that are open stay so. Raises RuntimeError when a thread was
    started before, since that would keep everything. Capabilities go after the namespace, which gives new ones; Landlock and seccomp take
    a process that can gain no privileges.
    """
    if sys.platform != "linux":
        return Report([], ["all of it: the kernel is not Linux"])
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("isolate before any thread starts: one that runs already keeps what this gives up")
    places = [*_SYSTEM, *_python(), *readable]
    steps: list[tuple[str, Callable[[], str]]] = [
        ("namespaces", _leave_network),
        ("no_new_privs", lambda: _prctl(_SET_NO_NEW_PRIVS, 1, "no new privileges")),
        ("capabilities", _drop_capabilities),
        (
            "dumpable",
            lambda: _prctl(_SET_DUMPABLE, 0, "memory not to be dumped or traced by others of this user"),
        ),
        ("RLIMIT_CORE", _forbid_core_files),
        ("RLIMIT_DATA", lambda: _limit_memory(memory_limit)),
        ("Landlock", lambda: _landlocked(places)),
        ("seccomp", _filtered),
    ]
    return _report(steps)


def _report(steps: Sequence[tuple[str, Callable[[], str]]]) -> Report:
    in_force, not_in_force = [], []
    for name, step in steps:
        try:
            in_force.append(f"{name}: {step()}")
        except (OSError, ValueError) as error:
            not_in_force.append(f"{name}: {error}")
    return Report(in_force, not_in_force)


def _leave_network() -> str:
    """The user namespace is there because making others takes a privilege in it; identities stay unmapped, they are not needed."""
    _checked(_libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC))
    return "a network of its own with no interface up, and IPC of its own"


def _drop_capabilities() -> str:
    """Root keeps its own files; what it may beyond any user's rights is gone, in the namespace, too."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()))
    return "none"


def _forbid_core_files() -> str:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return "no core files"


def _limit_memory(limit: int | None) -> str:
    """RLIMIT_AS would count the model's file, and address space that is only reserved."""
    if limit is None:
        raise ValueError("no memory limit was given")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return f"{limit >> 20} MiB of memory beside the model's file"


def _landlocked(places: Sequence[Path]) -> str:
    version = landlock.restrict(places)
    tcp = ", no TCP" if version >= landlock.TCP_SINCE else ""
    signals = ", no signals to others" if version >= landlock.SCOPES_SINCE else ""
    return f"ABI {version}: reads its model, Python and libraries only, writes nothing{tcp}{signals}"


def _filtered() -> str:
    seccomp.refuse_ways_out()
    return "no new sockets, no programs, no tracing"


def _python() -> Iterator[Path]:
    """Where modules may still be loaded from; the working directory is not among them."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    yield from (Path(place) for place in sys.path if place)


def _prctl(option: int, value: int, meaning: str) -> str:
    _checked(_libc.prctl(option, value, 0, 0, 0))
    return meaning


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
