"""Who asks and does not read the answer is cut off, be it an operator or a project; others notice nothing of it."""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest_asyncio
import websockets
from structlog.testing import capture_logs

from aos_protocol.fields import parse_message
from aos_protocol.frames import open_frame, seal_object, seal_request
from aos_protocol.messages import Challenge
from integration.dispatcher.conftest import Network
from support.operators import MODEL

STALLED_S = 0.5
CUT_OFF = "a peer that reads nothing is cut off"


@pytest_asyncio.fixture
async def impatient(new_database: Any) -> AsyncIterator[Network]:
    network = Network(await new_database("dispatcher"), draw_timeout=0.3)
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


async def test_a_slow_reader_that_goes_on_reading_is_served(impatient: Network) -> None:
    """Slow is not stalled: a few bytes at a time, for several times as long as nothing may be read."""
    await impatient.operator()
    job_id = await impatient.submit(user="u" * 200)
    await impatient.finished(job_id)
    port = int(impatient.ws.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection(sock=narrow_socket(port), limit=1024)
    request = f"GET /api/job/evidence/{job_id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with capture_logs() as logs:
        writer.write(request.encode())
        body = b""
        while part := await reader.read(512):
            body += part
            await asyncio.sleep(0.01)
    assert json.loads(body.partition(b"\r\n\r\n")[2])["job"]["job_id"] == job_id
    assert not [entry for entry in logs if entry["event"] == CUT_OFF]
    await closed(writer)
