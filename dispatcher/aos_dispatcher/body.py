"""Reading a request's body: bounded while it arrives, and strict about JSON."""

from fastapi import Request

from aos_dispatcher.errors import Malformed, TooLarge
from aos_dispatcher.tables import JsonObject
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical


async def json_body(request: Request) -> JsonObject:
    """Return the body's JSON object. Raises `TooLarge` or `Malformed`; nothing larger than the limit is kept."""
    limit = request.app.state.dispatcher.settings.limits.body_bytes
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
    try:
        value = parse(bytes(received))
    except NotCanonical as error:
        raise Malformed(str(error)) from None
    if not isinstance(value, dict):
        raise Malformed("the body must be a JSON object")
    return value
