"""TCP ports: whether one is free, and keeping one free until its server takes it."""

import socket

from aos_cli.failures import PortTaken

LOOPBACK = "127.0.0.1"


def reserve(port: int) -> socket.socket:
    """Bind a loopback port (0: any free one) without listening, so that nobody else gets it but a server that we start.

    Servers bind with SO_REUSEADDR, as this does: Linux lets both hold the port as long as one of them only listens.

    Raises:
        PortTaken: when somebody listens there.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, port))
    except OSError as error:
        holder.close()
        raise PortTaken(
            f"port {port} cannot be used ({error.strerror}): stop what uses it, or choose another with --port "
            "(0 takes any free one)"
        ) from error
    return holder


def number(holder: socket.socket) -> int:
    """The port of a reservation."""
    port: int = holder.getsockname()[1]
    return port
