"""Who asks and does not read the answer is cut off, be it an operator or a project; others notice nothing of it."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import websockets
from structlog.testing import capture_logs

from aos_dispatcher import server
from aos_protocol.fields import parse_message
from aos_protocol.frames import open_frame, seal_object, seal_request
from aos_protocol.messages import Challenge
from integration.dispatcher.conftest import Network
from support.operators import MODEL

STALLED_S = 0.5
CUT_OFF = "a peer that reads nothing is cut off"


@pytest_asyncio.fixture
async def impatient(new_database: Any) -> AsyncIterator[Network]:
    network = Network(await new_database("dispatcher"))
    network.stalled = STALLED_S
    await network.start()
    await network.calibrate()
    await network.project()
    yield network
    for operator in network.operators:
        await operator.close()
    await network.stop()


def narrow_socket(port: int) -> socket.socket:
    """A connection whose end takes little more than nothing before it is read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.connect(("127.0.0.1", port))
    made.setblocking(False)
    return made


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other end has done to it."""
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def until_said(logs: list[Any], event: str) -> None:
    async with asyncio.timeout(20):
        while not [entry for entry in logs if entry["event"] == event]:
            await asyncio.sleep(0.02)


async def test_an_operator_that_reads_nothing_is_cut_off_and_others_do_its_work(impatient: Network) -> None:
    honest = await impatient.operator()
    deaf = await impatient.operator(connect=False)
    port = int(impatient.ws.split(":")[2].split("/")[0])
    client = await websockets.connect(
        impatient.ws, sock=narrow_socket(port), max_queue=1, max_size=None, ping_interval=None
    )
    challenge = parse_message(Challenge, open_frame(await client.recv()).params[0])
    said = {
        "operator": deaf.signer.address,
        "workers": ["opml"],
        "models": [MODEL.to_json()],
        "nonce": challenge.nonce,
    }
    await client.send(seal_request(deaf.signer, "1", "connect", [seal_object(deaf.signer, said)]).text)
    await client.recv()
    client.transport.pause_reading()
    with capture_logs() as logs:
        # Until all buffers on the way are full.
        hub = impatient.dispatcher.hub
        while (peer := hub.get(deaf.signer.address)) is not None:
            await asyncio.gather(
                *(peer.request("draw", {"padding": secrets.token_hex(500_000)}, 0.05) for _ in range(4)),
                return_exceptions=True,
            )
        await until_said(logs, CUT_OFF)
    job_id = await impatient.submit()
    assert (await impatient.finished(job_id))["status"] == "completed"
    assert honest.dispatched or honest.called
    client.transport.abort()
    await client.wait_closed()


async def test_a_project_that_does_not_read_its_answers_is_cut_off(impatient: Network) -> None:
    port = int(impatient.ws.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection(sock=narrow_socket(port), limit=1024)
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.transport.pause_reading()
    with capture_logs() as logs:
        writer.write(request * 400)
        await until_said(logs, CUT_OFF)
    await closed(writer)
    assert reader is not None
    assert (await impatient.client.get("/readyz")).status_code == 200


async def test_a_slow_reader_that_goes_on_reading_is_served(
    impatient: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow is not stalled: looks are as far apart as nothing may be read, and before each a little is read."""
    now = 0.0
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now))
    serving = impatient._server
    assert serving is not None
    client = narrow_socket(int(impatient.ws.split(":")[2].split("/")[0]))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    while not (served := serving.server_state.connections):
        await asyncio.sleep(0.01)
    (transport,) = [connection.transport for connection in served]
    # The system would keep all of the answer otherwise.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer, looks = await reader.readuntil(b"\r\n\r\n"), 0
    with capture_logs() as logs:
        while unread := transport.get_write_buffer_size():
            while transport.get_write_buffer_size() == unread:
                answer += await reader.read(512)
            now += STALLED_S
            serving._cut_off()
            looks += 1
    answer += await reader.read()
    assert looks > 3
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["openapi"]
    assert not [entry for entry in logs if entry["event"] == CUT_OFF]
    await closed(writer)
