"""How a sealed prompt reaches its operator: straight to its address, if it has one that answers; else by way of the dispatcher. Both carry ciphertext only."""

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from aos_cli.client import DispatcherClient
from aos_cli.errors import CliError
from aos_protocol.direct import Unpacker
from aos_protocol.messages import DirectChunk

_CONNECT_S: Final = 2.0
_HEAD_S: Final = 5.0
RELAYED: Final = "relayed by the dispatcher, which can read neither prompt nor answer"


async def pieces(
    client: DispatcherClient, url: str | None, job_id: str, relay: str, box: str
) -> AsyncGenerator[tuple[str, DirectChunk], None]:
    """Send a sealed prompt (base64) and return the pieces that come, each with the way by which they do.

    Raises `NotSealed` for what is no such stream, `CliError` when neither way leads to the operator, or the one that did breaks off.
    """
    content, unpacker = base64.b64decode(box), Unpacker()
    if url is not None:
        async with _straight(f"{url}/direct/{job_id}", content) as response:
            if response is not None:
                async for data in _read(response):
                    for chunk in unpacker.feed(data):
                        yield f"straight to {url}", chunk
                return
    async with client.stream(relay, content=content) as response:
        async for data in _read(response):
            for chunk in unpacker.feed(data):
                yield RELAYED, chunk


@asynccontextmanager
async def _straight(url: str, content: bytes) -> AsyncIterator[httpx.Response | None]:
    """Give the operator's own answer; None when it cannot be reached, or does not take the prompt here."""
    timeout = httpx.Timeout(None, connect=_CONNECT_S)
    # To load the authorities takes longer than to ask an operator that has no certificate.
    verify = True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with httpx.AsyncClient(timeout=timeout, trust_env=False, verify=verify) as client:
        try:
            async with asyncio.timeout(_HEAD_S):
                response = await client.send(client.build_request("POST", url, content=content), stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            yield None
            return
        try:
            yield None if response.status_code != httpx.codes.OK else response
        finally:
            await response.aclose()


async def _read(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for data in response.aiter_raw():
            yield data
    except httpx.TransportError as error:
        raise CliError(
            "the connection broke off before the answer was complete: the session is void"
        ) from error
