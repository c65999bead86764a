"""The port on which an operator takes direct prompts itself: `POST /direct/{job_id}` with a sealed prompt, answered by the sealed pieces of the answer.

What it is sent and sends is ciphertext. It is reached by strangers, so whatever they can cost is bounded, and a job that waits for nobody is refused before a
byte of the body is read.
"""

import asyncio
import base64
import json
import re
from contextlib import aclosing
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from aos_operator.direct import DirectDesk, Visit
from aos_operator.errors import Refused, StartError
from aos_protocol.direct import pack
from aos_protocol.messages import MAX_PROMPT_BOX

MAX_BODY: Final = MAX_PROMPT_BOX // 4 * 3
"""How many bytes a sealed prompt has at most."""

_HEAD_S: Final = 10.0
_BODY_S: Final = 10.0
_MOST_AT_ONCE: Final = 64
_MOST_CONNECTIONS: Final = 256
_PATH: Final = re.compile(r"/direct/([0-9a-f]{64})")

_log = structlog.get_logger(__name__)


class DirectApp:
    """The ASGI application."""

    def __init__(self, desk: DirectDesk) -> None:
        self._desk = desk
        self._inside = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types are as loose
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            job_id = self._checked(scope)
            self._inside += 1
            try:
                visit = self._desk.come(job_id, base64.b64encode(await _body(receive)).decode())
                await _answer(visit, receive, send)
            finally:
                self._inside -= 1
        except Refused as error:
            await _refuse(send, error)

    def _checked(self, scope: Any) -> str:  # noqa: ANN401
        """Return the job that a prompt is brought for. Raises `Refused` when none can be."""
        found = _PATH.fullmatch(scope["path"])
        if found is None or scope["method"] != "POST":
            raise Refused(404, "here is POST /direct/JOB_ID, for the client of a session, and nothing else")
        if self._inside >= _MOST_AT_ONCE:
            raise Refused(503, "too many clients are here at once: try again, or by way of the dispatcher")
        if not self._desk.waits_for(found[1]):
            raise Refused(404, "no such job waits for its prompt here")
        return found[1]


async def serve(desk: DirectDesk, host: str, port: int) -> None:
    """Listen until cancelled. Raises `StartError` when the address cannot be used."""
    config = uvicorn.Config(
        DirectApp(desk), ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    # Not uvicorn's own server, which would take the operator's signals for itself.
    try:
        server = await loop.create_server(lambda: _Impatient(config, state, app_state={}), host, port)
    except OSError as error:
        raise StartError(
            f"net.rest_url: cannot listen on {host}:{port} ({error.strerror or error}): choose another"
        ) from error
    _log.info("takes direct prompts", host=host, port=port)
    try:
        await server.serve_forever()
    finally:
        for connection in list(state.connections):
            connection.transport.abort()


class _Impatient(H11Protocol):
    """uvicorn's protocol, for peers who are slow to say what they want, or say nothing."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.close()
        else:
            self._late = self.loop.call_later(_HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is not None:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


async def _body(receive: Any) -> bytes:  # noqa: ANN401
    """Return a request's body. Raises `Refused` for one that is too large, too slow or broken off."""
    received = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the connection ended before the prompt was here")
                received += message.get("body", b"")
                if len(received) > MAX_BODY:
                    raise Refused(413, f"a sealed prompt has {MAX_BODY} bytes at most")
                if not message.get("more_body", False):
                    return bytes(received)
    except TimeoutError:
        raise Refused(408, f"the prompt was not here within {_BODY_S:g} seconds") from None


async def _answer(visit: Visit, receive: Any, send: Any) -> None:  # noqa: ANN401
    """Send the pieces of the answer as they come, unless the client leaves."""
    await send(_start(200, b"application/octet-stream"))
    gone = asyncio.ensure_future(_disconnected(receive))
    sending = asyncio.ensure_future(_send_pieces(visit, send))
    try:
        await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (gone, sending):
            task.cancel()
        await asyncio.gather(gone, sending, return_exceptions=True)


async def _send_pieces(visit: Visit, send: Any) -> None:  # noqa: ANN401
    async with aclosing(visit.chunks()) as pieces:
        async for chunks in pieces:
            await send({"type": "http.response.body", "body": b"".join(map(pack, chunks)), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Any) -> None:  # noqa: ANN401
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Any, error: Refused) -> None:  # noqa: ANN401
    await send(_start(error.code, b"application/json"))
    said = json.dumps({"code": error.code, "message": str(error)}).encode()
    await send({"type": "http.response.body", "body": said, "more_body": False})


def _start(status: int, kind: bytes) -> dict[str, Any]:
    headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"connection", b"close")]
    return {"type": "http.response.start", "status": status, "headers": headers}
