"""How the dispatcher serves TLS: uvicorn's part of it, and who may open `/ws` where operators must show a certificate."""

import ssl
from asyncio import BaseTransport
from typing import Any

from starlette.websockets import WebSocket

from aos_dispatcher.settings import Tls
from aos_dispatcher.websocket import OperatorProtocol
from aos_service.tls import server_context

WITHOUT_CERTIFICATE = "operators need a client certificate here: set net.tls.certificate and net.tls.key"
"""Why a connection to /ws is closed, where `listen.tls.client_ca` is set and the operator showed no certificate."""

_SHOWN = "client_certificate"


class CertifiedWebSockets(OperatorProtocol):
    """Notes for each WebSocket whether its client showed a certificate, which TLS has verified then."""

    def connection_made(self, transport: BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        connection = transport.get_extra_info("ssl_object")
        shown = isinstance(connection, ssl.SSLObject) and bool(connection.getpeercert())
        self.app_state = self.app_state | {_SHOWN: shown}
        super().connection_made(transport)


def server_options(tls: Tls | None) -> dict[str, Any]:
    """Return uvicorn's options for these settings; none without TLS. Raises as `aos_service.tls.server_context` does.

    One listener serves projects and operators, so TLS itself cannot demand a certificate of operators alone: it verifies one that is
    shown, and `may_connect` demands it.
    """
    if tls is None:
        return {}
    context = server_context(tls.certificate, tls.key, tls.client_ca)
    options: dict[str, Any] = {"ssl_context_factory": lambda _config, _default: context}
    if tls.client_ca is not None:
        options["ws"] = CertifiedWebSockets
    return options


def may_connect(websocket: WebSocket, tls: Tls | None) -> bool:
    """Tell whether an operator may open this connection: it showed a certificate, or need not."""
    if tls is None or tls.client_ca is None:
        return True
    return getattr(websocket.state, _SHOWN, False) is True
