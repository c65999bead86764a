"""JSON-RPC over HTTP: web3's provider, without what its own does with a URL (it logs it, and the URL holds the API key)."""

import json
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp

from aos_chain.errors import ChainError, ChainUnavailable
from aos_protocol.identity import recursion_limit_kept

with recursion_limit_kept():
    from web3.providers.async_base import AsyncJSONBaseProvider
    from web3.types import RPCEndpoint, RPCResponse

_BUSY: Final = {408, 425, 429}
_REFUSED: Final = {401, 403}
_LARGEST: Final = 16 << 20
"""Bytes of an answer; reading more JSON than this would hold up the event loop."""


class Endpoint(AsyncJSONBaseProvider):
    """One RPC endpoint. Its `name`, and every message, has scheme, host and port of the URL only: no user, path or query.

    `timeout` holds for each request, in seconds. Raises `ChainError` for a URL that is not http or https.
    """

    # A contract could otherwise send this process to addresses of its choice (EIP-3668).
    global_ccip_read_enabled = False

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__()
        self.name = _shown(url)
        self._url = url
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.name})"

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:  # noqa: ANN401
        """Ask, and return the answer's JSON object. Raises `ChainUnavailable`, or `ChainError` where another try is of no use."""
        status, body = await self._post(self.encode_rpc_request(method, params))
        answer = _object(body)
        if answer is not None and (status == 200 or "error" in answer):
            return cast("RPCResponse", answer)
        if status in _REFUSED:
            raise ChainError(f"{self.name} refuses access (status {status}): check the key in the RPC URL")
        if status in _BUSY or status >= 500:
            raise ChainUnavailable(f"{self.name} is busy or failing (status {status})")
        raise ChainError(f"{self.name} does not speak JSON-RPC (status {status}): check the RPC URL")

    async def disconnect(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers={"Content-Type": "application/json"},
            )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                return response.status, await self._body(response)
        except TimeoutError as error:
            raise ChainUnavailable(f"{self.name} gives no answer within {self._timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ChainUnavailable(f"{self.name} cannot be reached ({_reason(error)})") from error

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > _LARGEST:
                raise ChainError(
                    f"{self.name} answers with more than {_LARGEST >> 20} MiB: ask for less at once"
                )
        return bytes(body)


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in {"http", "https"}:
        raise ChainError("the RPC URL cannot be read: give http://host:port or https://host/path")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _reason(error: Exception) -> str:
    """Not the exception's own text, which may hold the URL."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return getattr(cause, "strerror", None) or type(error).__name__
