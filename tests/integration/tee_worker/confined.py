"""A process that isolates itself and then tries what its parent names; not a test. See `test_isolation`.

Its arguments are one JSON object: `uid` to become first (None: stay), `listener` (a file descriptor), `readable`, `memory_limit`, `without` (layers
that are to fail), `model` (to serve with llama.cpp in place of attempts), and `free` (not to isolate at all). It writes the report as its first line.
"""

import asyncio
import codecs
import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aos_tee_worker import isolation, landlock, seccomp

SET_DEATH_SIGNAL, GET_DEATH_SIGNAL = 1, 2


def absent(*_: object) -> int:
    """Stand in for a layer that the kernel does not have."""
    raise OSError(errno.ENOSYS, "not in this kernel")


LAYERS: dict[str, Callable[[], None]] = {
    "namespaces": lambda: setattr(isolation, "_leave_network", absent),
    "Landlock": lambda: setattr(landlock, "restrict", absent),
    "seccomp": lambda: setattr(seccomp, "refuse_ways_out", absent),
}


def connect(host: str, port: str) -> None:
    with socket.socket() as client:  # create_connection would import a codec
        client.settimeout(5)
        client.connect((host, int(port)))


def connect_unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def send_datagram(host: str, port: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"out", (host, int(port)))


def listen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


def write(path: str) -> None:
    with Path(path).open("r+b") as file:
        file.write(b"X")


def overwrite_memory(pid: str) -> None:
    with Path(f"/proc/{pid}/mem").open("r+b"):
        pass


def trace(pid: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    attach, detach = 16, 17
    if libc.ptrace(attach, int(pid), None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(int(pid), 0)
    libc.ptrace(detach, int(pid), None, None)


def take_memory(mebibytes: str) -> None:
    block = bytearray(int(mebibytes) << 20)
    del block


def talk_to_itself() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"x")
    theirs.recv(1)
    ours.close()
    theirs.close()


def die_with_parent() -> None:
    """Whether the signal that was set for its parent's death is still set."""
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(GET_DEATH_SIGNAL, ctypes.byref(found), 0, 0, 0)
    if found.value != signal.SIGKILL:
        raise OSError(errno.ESRCH, "it would outlive its parent")


ATTEMPTS: dict[str, Callable[..., object]] = {
    "connect": connect,
    "connect_unix": connect_unix,
    "send_datagram": send_datagram,
    "listen": listen,
    "read": lambda path: Path(path).read_bytes(),
    "write": write,
    "create": lambda path: Path(path).touch(),
    "delete": lambda path: Path(path).unlink(),
    "make_folder": lambda path: Path(path).mkdir(),
    "null": lambda: Path(os.devnull).write_bytes(b"x"),
    "run": lambda program: subprocess.run([program], check=True),
    "signal": lambda pid: os.kill(int(pid), 0),
    "environment": lambda pid: Path(f"/proc/{pid}/environ").read_bytes(),
    "overwrite_memory": overwrite_memory,
    "trace": trace,
    "take_memory": take_memory,
    "become_root": lambda: os.setuid(0),
    "change_host_name": lambda: socket.sethostname("x"),
    "die_with_parent": die_with_parent,
    "talk_to_itself": talk_to_itself,
}


def attempt(name: str, *arguments: str) -> str:
    """Return "did", or the error's name and number."""
    try:
        ATTEMPTS[name](*arguments)
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else type(error).__name__
    except MemoryError:
        return "MemoryError"
    return "did"


def serve_attempts(listener: socket.socket) -> None:
    """Each connection brings one attempt, as a JSON list, and takes what came of it; an empty list ends this."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            asked = json.loads(stream.readline())
            if not asked:
                return
            stream.write(attempt(*asked))


def model_server(model: Path) -> Callable[[socket.socket], None]:
    """Import what it takes at once: whoever this becomes may not be able to read Python's own folder."""
    import aos_inference.llama  # noqa: F401
    from aos_inference import loading, server
    from aos_inference.options import ServeOptions
    from aos_inference.worker import Worker

    for codec in ("utf-16be", "unicode-escape"):
        codecs.lookup(codec)

    def serve(listener: socket.socket) -> None:
        options = ServeOptions(path=model, name="demo", context=256, slots=2, threads=2)
        with loading.loaded(options, None) as ready:
            asyncio.run(server.serve(Worker(*ready), listener))

    return serve


def become(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def main(orders: dict[str, Any]) -> None:
    serve = serve_attempts if orders["model"] is None else model_server(Path(orders["model"]))
    become(orders["uid"])
    ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    for layer in orders["without"]:
        LAYERS[layer]()
    report = isolation.Report([], [])
    if not orders["free"]:
        report = isolation.isolate([Path(path) for path in orders["readable"]], orders["memory_limit"])
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    sys.stdout.flush()
    serve(socket.socket(fileno=orders["listener"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
