"""Clients that are slow, endless or too many, over raw sockets: each is answered and cut off, and the others are served."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from aos_dispatcher.http_bounds import allow_connections
from aos_dispatcher.settings import Limits

Network: TypeAlias = Any  # of conftest.py, which is no module to import

PATIENCE_S = 45
READY_S = 1.0
"""For a head that is on its way: only a machine that does nothing else for as long is late with it."""
GET = b"GET /healthz HTTP/1.1\r\nHost: dispatcher\r\n"
SUBMIT = b"POST /api/job/submit HTTP/1.1\r\nHost: dispatcher\r\n"


@pytest_asyncio.fixture
async def limited(unstarted: Network) -> AsyncIterator[Callable[..., Any]]:
    """Starts the dispatcher with these limits."""

    async def start(**limits: float) -> Network:
        update = {"limits": Limits.model_validate(limits)}
        unstarted.settings = unstarted.settings.model_copy(update=update)
        await unstarted.start()
        await unstarted.calibrate()
        await unstarted.project()
        return unstarted

    yield start
    for operator in unstarted.operators:
        await operator.close()
    await unstarted.stop()


@pytest_asyncio.fixture
async def bounded(limited: Callable[..., Any]) -> Network:
    """A dispatcher that waits for the head of a request for a moment only: hardly any request of a test's is sure to be in time."""
    return await limited(head_timeout=0.3)


@pytest_asyncio.fixture
async def small(limited: Callable[..., Any]) -> Network:
    """A dispatcher that takes little."""
    return await limited(head_bytes=2048, body_bytes=4096)


@pytest_asyncio.fixture
async def crowded(limited: Callable[..., Any]) -> Network:
    """A dispatcher with room for few."""
    return await limited(connections=6, requests=2, head_timeout=60, body_timeout=60)


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Everything that comes until the server ends the connection: status, header fields and body of each answer."""
        rest = b""
        # Who still writes when the server has closed is told so; what came before counts.
        with suppress(ConnectionResetError):
            async with asyncio.timeout(PATIENCE_S):
                while part := await self.reader.read(1 << 16):
                    rest += part
        self.writer.close()
        found = []
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines)
            size = int(fields["content-length"])
            found.append((int(first.split()[1]), fields, rest[:size]))
            rest = rest[size:]
        return found

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The only answer, after which the server ends the connection."""
        (only,) = await self.answers()
        return only


async def connect(network: Network) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", network.client.base_url.port))


def refused(why: str) -> float:
    return REGISTRY.get_sample_value("aos_http_refused_total", {"why": why}) or 0


@pytest.mark.parametrize("sent", [b"", b"G", GET, GET + b"x-slow: 1"])
async def test_a_head_that_is_never_complete(bounded: Network, sent: bytes) -> None:
    before = refused("slow")
    client = await connect(bounded)
    await client.send(sent)
    status, fields, body = await client.answer()
    assert (status, fields["connection"]) == (408, "close")
    message = "the request's head was not complete within 0.3 seconds"
    assert json.loads(body) == {"code": 408, "message": message}
    assert refused("slow") == before + 1


async def test_a_head_that_is_dribbled_gains_no_time_by_each_byte(bounded: Network) -> None:
    client = await connect(bounded)
    answered = asyncio.create_task(client.answer())
    for byte in GET + b"x-slow: " + b"1" * 10_000:
        if answered.done():
            break
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert (await answered)[0] == 408


async def test_the_second_request_of_a_connection_is_bounded_like_the_first(
    limited: Callable[..., Any],
) -> None:
    client = await connect(await limited(head_timeout=READY_S))
    await client.send(GET + b"\r\n" + GET)
    answers = await client.answers()
    assert [status for status, _, _ in answers] == [200, 408]


async def test_a_connection_may_be_idle_between_requests_for_longer_than_a_head_may_take(
    bounded: Network,
) -> None:
    client = await connect(bounded)
    for _ in range(2):
        await client.send(GET + b"\r\n")
        assert (await client.reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 OK")
        await asyncio.sleep(2 * 0.3)  # nothing happens then: that is what is shown
    await client.send(GET)
    assert (await client.answer())[0] == 408


@pytest.mark.parametrize(
    "endless", [b"GET /" + b"a" * 5000, GET + b"x-long: " + b"1" * 5000, GET + b"x: y\r\n" * 800]
)
async def test_a_head_without_an_end(small: Network, endless: bytes) -> None:
    client = await connect(small)
    await client.send(endless)
    status, _, body = await client.answer()
    assert status == 431
    assert json.loads(body)["message"] == "the request's head is larger than 2048 bytes"


async def test_a_body_that_is_never_complete(limited: Callable[..., Any]) -> None:
    client = await connect(await limited(body_timeout=0.3))
    await client.send(SUBMIT + b"Content-Length: 100\r\n\r\n{")
    status, fields, body = await client.answer()
    assert (status, fields["connection"]) == (408, "close")
    assert json.loads(body) == {"code": 408, "message": "the body was not complete within 0.3 seconds"}


async def test_a_body_that_nobody_reads_any_more_ends_the_connection(limited: Callable[..., Any]) -> None:
    client = await connect(await limited(body_bytes=4096, head_timeout=READY_S))
    await client.send(SUBMIT + b"Content-Length: 10000000\r\n\r\n" + b" " * 5000)
    await client.send(b" " * 50_000)
    status, _, body = await client.answer()
    assert status == 413
    assert json.loads(body)["message"] == "the body is larger than 4096 bytes"


async def test_who_leaves_in_the_middle_of_a_body_is_no_error_of_ours(small: Network) -> None:
    with capture_logs() as logs:
        client = await connect(small)
        await client.send(SUBMIT + b"Content-Length: 100\r\n\r\n{")
        client.writer.transport.abort()
        assert (await small.client.get("/readyz")).status_code == 200
    assert [line for line in logs if line["log_level"] in {"error", "critical"}] == []


async def test_one_connection_too_many_is_told_so_and_others_are_served(crowded: Network) -> None:
    held = [await connect(crowded) for _ in range(6)]
    await asyncio.gather(*(client.send(GET) for client in held))
    late = await connect(crowded)
    status, fields, body = await late.answer()
    assert (status, fields["retry-after"], json.loads(body)["code"]) == (503, "1", 503)
    await asyncio.gather(*(client.send(b"Connection: close\r\n\r\n") for client in held))
    assert [(await client.answer())[0] for client in held] == [200] * 6
    assert (await crowded.client.get("/healthz")).status_code == 200


async def test_one_request_too_many_is_told_to_come_again(crowded: Network) -> None:
    held = [await connect(crowded) for _ in range(2)]
    for client in held:
        await client.send(SUBMIT + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    refusal = await crowded.post("/api/job/submit", crowded.body())
    assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
    assert refusal.json() == {"code": 503, "message": "too many requests are being served; try again"}
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await crowded.client.get(path)).status_code == 200
    for client in held:
        await client.send(b"{}")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 422 ")
        client.writer.close()
    assert (await crowded.post("/api/job/submit", crowded.body())).status_code == 200


async def test_operators_stay_connected_longer_than_a_head_may_take(limited: Callable[..., Any]) -> None:
    operator = await (network := await limited(head_timeout=READY_S)).operator()
    slow = await connect(network)
    assert (await slow.answer())[0] == 408
    network._server.config.http_protocol_class.limits = Limits()  # for the requests that follow
    assert (await network.finished(await network.submit()))["status"] == "completed"
    assert operator.dispatched


def test_as_many_files_may_be_open_as_there_may_be_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: allowed.append(limits))
    hard, infinite = 4096, resource.RLIM_INFINITY
    for soft, ceiling in ((1024, hard), (1024, infinite), (infinite, infinite), (4096, hard)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, limits=(soft, ceiling): limits)
        with capture_logs() as logs:
            allow_connections(Limits(connections=10_000))
        assert bool(logs) == (ceiling == hard)
    assert allowed == [(4096, hard), (10_256, infinite)]
