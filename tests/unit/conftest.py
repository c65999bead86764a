"""Unit tests do no I/O: here the network is out of reach."""

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> NoReturn:
        raise RuntimeError(
            "a unit test uses no network: move it to tests/integration, or hand it a message instead"
        )

    for call in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, call, refuse)
    for call in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, call, refuse)
