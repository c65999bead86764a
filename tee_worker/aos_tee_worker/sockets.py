"""Listening before there is a model: who connects meanwhile, or while the enclave starts again, waits and is not refused."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aos_inference.errors import AddressInUse
from aos_inference.server import listen_tcp, listen_unix

BACKLOG: Final = 2048


def listen_vsock(
    port: int, new: Callable[[socket.AddressFamily, socket.SocketKind], socket.socket] = socket.socket
) -> socket.socket:
    """A vsock socket, bound to the port on whichever CID this machine has, that does not accept yet. Raises AddressInUse."""
    try:
        listener = new(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        raise AddressInUse(
            f"This machine has no vsock ({error.strerror}). Use --vsock inside an enclave or a virtual machine, or else --uds."
        ) from error
    try:
        listener.bind((socket.VMADDR_CID_ANY, port))
    except OSError as error:
        listener.close()
        raise AddressInUse(
            f"Cannot listen on vsock port {port}: {error.strerror}. Choose another --vsock."
        ) from error
    return listener


@contextmanager
def listening(host: str, port: int, uds: Path | None, vsock: int | None) -> Iterator[socket.socket]:
    """Listen on the unix socket, else the vsock port, else TCP; a socket file is removed in the end. Raises AddressInUse."""
    if uds is not None:
        listener = listen_unix(uds)
    else:
        listener = listen_tcp(host, port) if vsock is None else listen_vsock(vsock)
    try:
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()
        if uds is not None:
            uds.unlink(missing_ok=True)
