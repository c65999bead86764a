"""`WorkerTransport` over real TCP, TLS and unix sockets, and over vsock up to the socket: this kernel has none to connect to."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aos_service.transport import WorkerTransport, connect_socket

Reply: TypeAlias = Callable[["Connection"], Awaitable[None]]


class Connection:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = ""
        self.body = b""

    async def request(self) -> bool:
        """Read a request; False when there is none any more."""
        try:
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return False
        lengths = [line for line in self.head.lower().split("\r\n") if line.startswith("content-length: ")]
        self.body = await self.reader.readexactly(int(lengths[0].split(": ")[1]) if lengths else 0)
        return True

    async def say(self, body: bytes) -> None:
        """Answer 200 with this body."""
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await self.writer.drain()


async def echo(connection: Connection) -> None:
    """Say what was asked for, and how."""
    await connection.say(connection.head.split("\r\n")[0].encode() + b"|" + connection.body)


class Server:
    """Serves one connection after the other; `reply` answers a request, `left` is set when a client goes."""

    def __init__(self) -> None:
        self.reply: Reply = echo
        self.connections = 0
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.vsock: list[tuple[int, tuple[int, int]]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(reader, writer)
        try:
            while await connection.request():
                self.asked.set()
                await self.reply(connection)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self.left.set()
            writer.close()

    async def connect(self, family: int, address: tuple[int, int]) -> socket.socket:
        """Stand in for vsock: note what is wanted, and give one end of a pair whose other end is served here."""
        self.vsock.append((family, address))
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        self.tasks.append(asyncio.create_task(self.serve(reader, writer)))
        ours.setblocking(False)
        return ours


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    serving = Server()
    yield serving
    for task in serving.tasks:
        task.cancel()
    await asyncio.gather(*serving.tasks, return_exceptions=True)


@asynccontextmanager
async def listening(server: Server, kind: str, folder: Path) -> AsyncIterator[WorkerTransport]:
    """A transport to this server over one kind of socket."""
    async with AsyncExitStack() as stack:
        if kind == "vsock":
            transport = WorkerTransport("vsock://15:5005", connect=server.connect)
        elif kind == "unix":
            await stack.enter_async_context(await asyncio.start_unix_server(server.serve, folder / "w.sock"))
            transport = WorkerTransport(f"unix://{folder}/w.sock")
        else:
            tcp = await stack.enter_async_context(await asyncio.start_server(server.serve, "127.0.0.1", 0))
            transport = WorkerTransport(f"http://127.0.0.1:{tcp.sockets[0].getsockname()[1]}")
        await stack.enter_async_context(transport)
        yield transport


@pytest_asyncio.fixture(params=["tcp", "unix", "vsock"])
async def client(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        listening(server, request.param, tmp_path) as transport,
        httpx.AsyncClient(transport=transport, base_url=transport.base_url, timeout=30) as client,
    ):
        yield client


async def test_a_request_is_answered(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models?a=b")).content == b"GET /v1/models?a=b HTTP/1.1|"
    large = b"x" * 3_000_000
    answer = await client.post("/v1/generate", content=large)
    assert answer.content == b"POST /v1/generate HTTP/1.1|" + large
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


async def test_a_connection_serves_one_request_after_the_other(
    client: httpx.AsyncClient, server: Server
) -> None:
    for _ in range(3):
        await client.get("/")
    assert server.connections == 1
    await asyncio.gather(*(client.get("/") for _ in range(3)))
    assert 1 < server.connections <= 3


async def test_a_connection_that_the_worker_has_ended_is_not_used_again(
    client: httpx.AsyncClient, server: Server
) -> None:
    async def once(connection: Connection) -> None:
        await connection.say(b"once")
        connection.writer.close()

    server.reply = once
    for _ in range(3):
        assert (await client.get("/")).content == b"once"
        await server.left.wait()
        server.left.clear()
    assert server.connections == 3


async def test_a_stream_comes_piece_by_piece(client: httpx.AsyncClient, server: Server) -> None:
    more = asyncio.Event()

    async def pieces(connection: Connection) -> None:
        connection.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        connection.writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    server.reply = pieces
    heard = []
    async with client.stream("POST", "/", content=b"") as answer:
        async for piece in answer.aiter_raw():
            heard.append(piece)
            more.set()
    assert heard == [b"one", b"two"]


async def test_a_silent_worker_is_a_read_that_takes_too_long(
    client: httpx.AsyncClient, server: Server
) -> None:
    async def silence(connection: Connection) -> None:
        await connection.reader.read(1)

    server.reply = silence
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/", timeout=httpx.Timeout(5, read=0.05))
    await server.left.wait()


async def test_a_worker_that_reads_nothing_takes_too_long(client: httpx.AsyncClient, server: Server) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    async def deaf(_: Connection) -> None:
        await asyncio.Event().wait()

    server.reply = deaf
    with pytest.raises(httpx.TimeoutException):
        await client.post("/", content=body(), timeout=httpx.Timeout(0.05))


async def test_a_worker_that_breaks_off_in_its_answer_is_an_error(
    client: httpx.AsyncClient, server: Server
) -> None:
    async def half(connection: Connection) -> None:
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.writer.close()

    server.reply = half
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/")


async def test_what_is_no_http_is_an_error(client: httpx.AsyncClient, server: Server) -> None:
    async def babble(connection: Connection) -> None:
        connection.writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        connection.writer.close()

    server.reply = babble
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/")


async def test_who_cancels_leaves_the_worker_and_may_ask_again(
    client: httpx.AsyncClient, server: Server
) -> None:
    async def silence(connection: Connection) -> None:
        await connection.reader.read(1)

    server.reply = silence
    asking = asyncio.create_task(client.get("/"))
    await server.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await server.left.wait()
    server.reply = echo
    assert (await client.get("/")).status_code == 200


class TestVsock:
    """The seam: which family and address are asked for, and what becomes of a socket that cannot be had."""

    async def get(self, transport: WorkerTransport, connect: float = 5) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=transport.base_url) as client:
            return await client.get("/", timeout=httpx.Timeout(5, connect=connect))

    async def test_the_enclave_s_cid_and_port_are_connected_to(self, server: Server) -> None:
        answer = await self.get(WorkerTransport("vsock://16:70000", connect=server.connect))
        assert answer.status_code == 200
        assert server.vsock == [(socket.AF_VSOCK, (16, 70000))]

    async def test_an_enclave_that_is_not_there_cannot_be_connected_to(self) -> None:
        async def refuse(family: int, address: tuple[int, int]) -> socket.socket:
            raise ConnectionResetError(104, "Connection reset by peer")

        with pytest.raises(httpx.ConnectError, match="vsock 15:5005: Connection reset by peer"):
            await self.get(WorkerTransport("vsock://15:5005", connect=refuse))

    async def test_one_that_does_not_answer_is_a_connection_that_takes_too_long(self) -> None:
        async def hang(family: int, address: tuple[int, int]) -> socket.socket:
            await asyncio.Event().wait()
            raise AssertionError

        with pytest.raises(httpx.ConnectTimeout, match="vsock 15:5005"):
            await self.get(WorkerTransport("vsock://15:5005", connect=hang), 0.05)

    async def test_a_socket_is_connected_whatever_its_family(self, tmp_path: Path) -> None:
        """What connects vsock in earnest, on a family that every kernel has."""
        server = Server()
        async with await asyncio.start_unix_server(server.serve, tmp_path / "w.sock"):
            connected = await connect_socket(socket.AF_UNIX, str(tmp_path / "w.sock"))  # type: ignore[arg-type]
            with connected:
                assert connected.getpeername() == str(tmp_path / "w.sock")
                assert not connected.getblocking()
        with pytest.raises(OSError, match="No such file"):
            await connect_socket(socket.AF_UNIX, str(tmp_path / "none.sock"))  # type: ignore[arg-type]

    async def test_without_an_enclave_on_this_machine_the_error_says_so(self) -> None:
        with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout), match="vsock 4000000000:1"):
            await self.get(WorkerTransport("vsock://4000000000:1"), 0.05)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:///nowhere/worker.sock"])
async def test_a_worker_that_is_not_there_cannot_be_connected_to(url: str) -> None:
    async with WorkerTransport(url) as transport:
        request = httpx.Request("GET", f"{transport.base_url}/")
        with pytest.raises(httpx.ConnectError):
            await transport.handle_async_request(request)


class TestTls:
    """https is checked against the system's roots, to which the environment adds this test's."""

    async def test_a_certificate_of_a_trusted_root_is_accepted(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = _certified(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context) as tls:
            answer = await self._get(tls)
        assert answer.content == b"GET / HTTP/1.1|"

    async def test_any_other_is_refused(self, server: Server, tmp_path: Path) -> None:
        async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=_certified(tmp_path)) as tls:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await self._get(tls)
        assert not server.asked.is_set()

    async def _get(self, tls: asyncio.Server) -> httpx.Response:
        transport = WorkerTransport(f"https://localhost:{tls.sockets[0].getsockname()[1]}")
        async with httpx.AsyncClient(transport=transport, base_url=transport.base_url) as client:
            return await client.get("/")


def _certified(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate for localhost, which is its own root in `cert.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AOS test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
