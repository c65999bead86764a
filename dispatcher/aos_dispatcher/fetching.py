"""Fetching what a request names by its address, from the public internet and from nowhere else.

Whoever may have this process connect somewhere would otherwise reach what only it can: its own machine, its neighbours, its provider's metadata.

1. The address is an http or https URL without a user, on a port that is allowed.
2. Its host is resolved once. Every address that it has must be public, or of a network that the settings name.
3. The connection goes to an address that was looked at: nobody resolves the name again. TLS still checks the name.
4. A redirect is an address like the first: all of this again, three times at most.
5. What comes is counted while it comes, and all of it together may take so long.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

import httpcore

from aos_dispatcher.errors import NotFetched
from aos_dispatcher.settings import Gateway

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; raises `OSError`."""

MOST_REDIRECTS: Final = 3
LONGEST_URL: Final = 2048
TOTAL_S: Final = 20.0
"""How long one fetch may take, from its turn to its last byte."""

_AT_ONCE: Final = 16
_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = [
    ("Accept", "image/png, image/jpeg, image/webp"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", "aos-dispatcher"),
    ("Connection", "close"),
]

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL: Final = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""Of IANA's special-purpose addresses those within global unicast: Teredo and 6to4, which carry IPv4 addresses, and examples."""


@dataclass(frozen=True)
class Target:
    """An address that was taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> httpcore.URL:
        """The same as httpcore has it."""
        return httpcore.URL(scheme=self.scheme, host=self.host, port=self.port, target=self.path)


class Fetcher:
    """Fetches as the settings allow it, at most so many bytes, and a bounded number at once."""

    def __init__(self, settings: Gateway, most_bytes: int, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._most = most_bytes
        self._resolve = resolve or _resolve
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """Return what is at this address. Raises `NotFetched`, which tells nothing of what is behind an address that is not public."""
        if not self._settings.fetch_images:
            raise NotFetched(
                "this dispatcher fetches nothing (gateway.fetch_images): send the image as multipart/form-data"
            )
        async with self._turns:
            try:
                async with asyncio.timeout(TOTAL_S):
                    return await self._follow(url)
            except TimeoutError:
                raise NotFetched(f"it was not there within {TOTAL_S:g} seconds") from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(MOST_REDIRECTS + 1):
            target = read_target(url, self._settings.fetch_ports)
            address = await self._address_of(target)
            found = await self._get(target, address)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise NotFetched(f"it is redirected more than {MOST_REDIRECTS} times")

    async def _address_of(self, target: Target) -> Address:
        try:
            found = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            found = ()  # told in the same words as a private address: names of a private DNS are nobody's business
        return check_addresses(target.host, found, self._settings.fetch_allow)

    async def _get(self, target: Target, address: Address) -> bytes | str:
        """Return what is there, or where it is redirected to."""
        context = ssl.create_default_context() if target.scheme == "https" else None
        backend = _Pinned(str(address))
        try:
            async with (
                httpcore.AsyncConnectionPool(context, max_connections=1, network_backend=backend) as pool,
                pool.stream("GET", target.url, headers=_HEADERS) as response,
            ):
                headers = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in headers:
                    return headers[b"location"].decode("latin-1")
                if response.status != 200:
                    raise NotFetched(f"{target.host} answered {response.status}")
                if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                    raise NotFetched(f"{target.host} sent it encoded, although it was asked not to")
                return await self._read(response, headers.get(b"content-length", b""))
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise NotFetched(f"{target.host} cannot be read ({type(error).__name__})") from None

    async def _read(self, response: httpcore.Response, announced: bytes) -> bytes:
        too_large = NotFetched(f"it is larger than {self._most} bytes")
        if announced.isdigit() and int(announced) > self._most:
            raise too_large
        data = bytearray()
        async for chunk in response.aiter_stream():
            data += chunk
            if len(data) > self._most:
                raise too_large
        return bytes(data)


def read_target(url: str, ports: Iterable[int]) -> Target:
    """Take an address apart. Raises `NotFetched` unless it is one that could be fetched, whatever its host turns out to be."""
    if len(url) > LONGEST_URL or not all("!" <= character <= "~" for character in url) or "\\" in url:
        raise NotFetched(
            f"an address has at most {LONGEST_URL} characters of printable ASCII, and no backslash; encode others as %XX"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotFetched("it is no URL") from None
    if parts.scheme not in _PORTS:
        raise NotFetched("an address begins with https:// or http://")
    if not parts.hostname or "@" in parts.netloc:
        raise NotFetched("an address names a host, and no user")
    port = _PORTS[parts.scheme] if port is None else port
    allowed = sorted(ports)
    if port not in allowed:
        raise NotFetched(f"port {port} is not allowed here; allowed: {', '.join(map(str, allowed))}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port, path)


def check_addresses(host: str, found: Iterable[str], allowed: Iterable[Network]) -> Address:
    """Return the first of a host's addresses. Raises `NotFetched` unless every one of them is public, or of an allowed network."""
    addresses = [ipaddress.ip_address(text) for text in found]
    networks = list(allowed)
    if not addresses or not all(
        is_public(each) or any(each in network for network in networks) for each in addresses
    ):
        raise NotFetched(f"the host {host} has no address on the public internet")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address can only be one of the public internet: not private, local, multicast or reserved, nor one with another inside.

    IANA's registries of special-purpose addresses (RFC 6890). Of IPv6, what is not global unicast is not public: mapped and translated IPv4
    (RFC 4291, RFC 6052, RFC 8215), unique local, link-local, multicast.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _SPECIAL)


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to one address, whatever host is named."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it was resolved, and looked at, before
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See `httpcore.AsyncNetworkBackend`."""
        return await self._backend.connect_tcp(self._address, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """See `httpcore.AsyncNetworkBackend`."""
        await self._backend.sleep(seconds)
