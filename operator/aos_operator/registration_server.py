"""Listens on the loopback for models that register, for as long as the node runs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import structlog
import uvicorn

from aos_operator.errors import StartError
from aos_operator.registration import Registrations
from aos_operator.registration_api import create_app

_LOOPBACK: Final = "127.0.0.1"
_IDLE_S: Final = 5
_AT_ONCE: Final = 32
_GRACE_S: Final = 1

_log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to the node."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def listening(registrations: Registrations, port: int) -> AsyncIterator[int]:
    """Take registrations on this port of the loopback (0: any free one), and give its number. Raises `StartError` when it is taken."""
    listener = _bound(port)
    try:
        server = _Server(
            uvicorn.Config(
                create_app(registrations),
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,  # who connects is who registers
                limit_concurrency=_AT_ONCE,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        number: int = listener.getsockname()[1]
        _log.info("taking registrations of models", url=f"http://{_LOOPBACK}:{number}")
        try:
            yield number
        finally:
            server.should_exit = True
            await serving
    finally:
        listener.close()


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise StartError(
            f"port {port} of {_LOOPBACK} cannot be used for registrations ({error.strerror}): stop what uses it, or choose another"
        ) from error
    return listener
