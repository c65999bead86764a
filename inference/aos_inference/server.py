"""Listening, serving until a signal or a failure, and going down in good order."""

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from fastapi import APIRouter

from aos_inference.app import create_app
from aos_inference.errors import AddressInUse
from aos_inference.worker import Worker

GRACE: Final = 3.0
"""Seconds that running jobs get to finish once the worker is told to stop."""

_log = structlog.get_logger(__name__)


def listen_tcp(host: str, port: int) -> socket.socket:
    """A bound TCP socket that does not accept yet; port 0 takes a free one. Raises AddressInUse."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, address)
    except OSError as error:
        raise AddressInUse(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port."
        ) from error
    return listener


def listen_unix(path: Path) -> socket.socket:
    """A bound unix socket that does not accept yet; a socket file that nobody serves is replaced.

    Raises AddressInUse when somebody does, when another kind of file is in the way, or when it cannot be made.
    """
    try:
        if path.exists():
            _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _bind(listener, str(path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise AddressInUse(f"Cannot listen on {path}: {reason}. Choose another --uds.") from error
    return listener


def _bind(listener: socket.socket, address: object) -> None:
    try:
        listener.bind(address)  # type: ignore[arg-type]
    except OSError:
        listener.close()
        raise


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise AddressInUse(f"{path} is a file, not a socket. Choose another --uds, or remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise AddressInUse(f"Another process serves {path}. Choose another --uds, or stop it.")


def describe(listener: socket.socket) -> str:
    """Where a client reaches the socket: a URL, or the path of a unix socket."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    if listener.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"vsock port {listener.getsockname()[1]}"  # its own CID is for its host to say
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, with its engine stopped a grace period after it was told to go down."""

    def __init__(self, worker: Worker, routers: Sequence[APIRouter]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(worker, *routers),
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=int(GRACE) + 2,
            )
        )
        self._worker = worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            _log.info("listening", address=describe(listener), model=self._worker.card.name, pid=os.getpid())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(GRACE, self._worker.engine.stop)
        await super().shutdown(sockets)
        timer.cancel()
        self._worker.engine.stop()


async def serve(worker: Worker, listener: socket.socket, *routers: APIRouter) -> None:
    """Serve on the socket until SIGINT or SIGTERM, with a few seconds for running jobs; `routers` add to the worker's API.

    Raises what the engine failed with, once the server is down: the process must end and be started again.
    """
    server = _Server(worker, routers)
    # Also before uvicorn listens to signals, and after: it raises the signal once more when it is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    worker.engine.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    engine_ended = asyncio.create_task(worker.engine.wait())
    await asyncio.wait({serving, engine_ended}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    _log.info("stopped")
    await engine_ended
