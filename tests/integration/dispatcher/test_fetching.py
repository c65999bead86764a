"""Fetching from a real server on this machine, which only the settings of a test allow."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from aos_dispatcher import fetching
from aos_dispatcher.errors import NotFetched
from aos_dispatcher.fetching import Fetcher
from aos_dispatcher.settings import Gateway
from support.certificates import Authority

MOST = 10_000
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server of HTTP written by hand: `pages` are whole responses by path, `heads` the requests that came."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.heads: list[str] = []
        self.pour: Serve | None = None
        self.left = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Site"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            page = self.pages.get(head.split(" ")[1])
            if page is not None:
                writer.write(page)
                await writer.drain()
            elif self.pour is not None:
                await self.pour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            self.left.set()
            writer.close()

    def url(self, path: str = "/", host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def fetcher(self, names: dict[str, list[str]] | None = None, **settings: object) -> Fetcher:
        """A fetcher that may come here, and resolves names as a test has them; each answer is used once, the last one for ever."""
        known = {"pictures.test": ["127.0.0.1"]} | (names or {})

        async def resolve(host: str, _port: int) -> Sequence[str]:
            if host not in known:
                raise OSError("no such host")
            return [known[host].pop(0) if len(known[host]) > 1 else known[host][0]]

        given = {"fetch_allow": ["127.0.0.0/8"], "fetch_ports": [self.port]} | settings
        return Fetcher(Gateway.model_validate(given), MOST, resolve)


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().serving() as serving:
        yield serving


def page(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return page(b"", f"Location: {to}", status=status)


async def test_what_is_there_is_fetched_with_the_host_s_name_and_nothing_of_ours(site: Site) -> None:
    site.pages["/a?b=c"] = page(b"x" * MOST)
    assert await site.fetcher().fetch(site.url("/a?b=c#d")) == b"x" * MOST
    [head] = site.heads
    assert head.startswith("GET /a?b=c HTTP/1.1\r\n")
    assert f"Host: pictures.test:{site.port}\r\n" in head
    assert "Accept-Encoding: identity" in head
    assert not {"cookie", "authorization", "referer"} & {
        line.split(":")[0].lower() for line in head.split("\r\n")
    }


async def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_looked_at(site: Site) -> None:
    """A name server that gives another address the second time changes nothing: there is no second time."""
    site.pages["/"] = page(b"one")
    changing = {"pictures.test": ["127.0.0.1", "169.254.169.254"]}
    assert await site.fetcher(changing).fetch(site.url()) == b"one"


async def test_a_host_that_is_not_public_is_not_connected_to(site: Site) -> None:
    site.pages["/"] = page(b"secret")
    with pytest.raises(NotFetched, match="no address on the public internet"):
        await site.fetcher(fetch_allow=[]).fetch(site.url())
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "localhost"):  # as the system's own resolver reads them
        strict = Fetcher(Gateway.model_validate({"fetch_ports": [site.port]}), MOST)
        with pytest.raises(NotFetched, match="no address on the public internet"):
            await strict.fetch(site.url(host=host))
    assert site.heads == []


async def test_redirects_are_followed_three_times_each_looked_at_anew(site: Site) -> None:
    site.pages |= {f"/{number}": redirect(f"/{number + 1}") for number in range(4)} | {"/4": page(b"end")}
    assert await site.fetcher().fetch(site.url("/1")) == b"end"
    with pytest.raises(NotFetched, match="redirected more than 3 times"):
        await site.fetcher().fetch(site.url("/0"))
    inside = {"inside.test": ["10.0.0.1"]}
    for to, why in (
        (f"http://inside.test:{site.port}/", "inside.test has no address on the public internet"),
        ("http://169.254.169.254/latest/meta-data", "port 80 is not allowed"),
        (f"http://169.254.169.254:{site.port}/", "no address"),
        ("file:///etc/passwd", "begins with https:// or http://"),
        ("//user@pictures.test/", "no user"),
        (f"http://pictures.test:{site.port}/\x7f", "printable ASCII"),
    ):
        site.pages["/away"] = redirect(to, "307 Temporary Redirect")
        with pytest.raises(NotFetched, match=why):
            await site.fetcher(inside).fetch(site.url("/away"))


async def test_a_name_that_changes_between_two_redirects_is_looked_at_again(site: Site) -> None:
    site.pages["/"] = redirect("/again")
    changing = {"pictures.test": ["127.0.0.1", "169.254.169.254"]}
    with pytest.raises(NotFetched, match="no address on the public internet"):
        await site.fetcher(changing).fetch(site.url())
    assert len(site.heads) == 1


async def test_more_than_is_taken_is_not_read(site: Site) -> None:
    site.pages["/announced"] = page(b"x" * (MOST + 1))
    with pytest.raises(NotFetched, match="larger than 10000 bytes"):
        await site.fetcher().fetch(site.url("/announced"))
    site.left.clear()

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + bytes(1024) + b"\r\n")
            await writer.drain()

    site.pour = pour
    with pytest.raises(NotFetched, match="larger than 10000 bytes"):
        await site.fetcher().fetch(site.url("/endless"))
    await asyncio.wait_for(site.left.wait(), 10)


async def test_what_does_not_come_in_time_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "TOTAL_S", 0.2)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        await writer.drain()
        await reader.read()

    site.pour = drip
    with pytest.raises(NotFetched, match="not there within"):
        await site.fetcher().fetch(site.url("/slow"))
    await asyncio.wait_for(site.left.wait(), 10)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (page(b"no", status="404 Not Found"), "answered 404"),
        (page(b"", status="302 Found"), "answered 302"),
        (page(b"\x1f\x8b", "Content-Encoding: gzip"), "encoded"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
async def test_what_is_no_good_answer_is_refused(site: Site, response: bytes, why: str) -> None:
    site.pages["/"] = response
    with pytest.raises(NotFetched, match=why):
        await site.fetcher().fetch(site.url())


async def test_a_server_that_speaks_no_tls_is_not_read(site: Site) -> None:
    def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as mail:
        port = mail.sockets[0].getsockname()[1]
        with pytest.raises(NotFetched, match="cannot be read"):
            await site.fetcher(fetch_ports=[port]).fetch(f"https://pictures.test:{port}/")


async def test_a_certificate_must_be_the_host_s_and_of_somebody_who_is_believed(
    site: Site, tmp_path: Path
) -> None:
    pair = Authority(tmp_path).certify("pictures.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NotFetched, match="cannot be read"):
            await site.fetcher(fetch_ports=[port]).fetch(f"https://pictures.test:{port}/")
    assert asked == []


async def test_nothing_is_fetched_where_the_settings_say_so(site: Site) -> None:
    with pytest.raises(NotFetched, match="fetch_images"):
        await site.fetcher(fetch_images=False).fetch(site.url())
    assert site.heads == []


async def test_unknown_hosts_have_no_address(site: Site) -> None:
    with pytest.raises(NotFetched, match="no address on the public internet"):
        await site.fetcher().fetch(site.url(host="nobody.test"))
