"""Reading a request's body: bounded in size and time while it arrives, and strict about JSON."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from aos_dispatcher.errors import Malformed, TooLarge, TooSlow
from aos_dispatcher.tables import JsonObject
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical


async def raw_body(request: Request) -> bytes:
    """Return the body. Raises `TooLarge`, `TooSlow` or `Malformed`; nothing larger than the limit is kept."""
    limits = request.app.state.dispatcher.settings.limits
    received = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limits.body_bytes:
                    raise TooLarge(f"the body is larger than {limits.body_bytes} bytes")
    except TimeoutError:
        raise TooSlow(f"the body was not complete within {limits.body_timeout:g} seconds") from None
    except ClientDisconnect:
        raise Malformed("the connection ended before the body did") from None
    return bytes(received)


async def json_body(request: Request) -> JsonObject:
    """Return the body's JSON object. Raises as `raw_body` does."""
    try:
        value = parse(await raw_body(request))
    except NotCanonical as error:
        raise Malformed(str(error)) from None
    if not isinstance(value, dict):
        raise Malformed("the body must be a JSON object")
    return value
