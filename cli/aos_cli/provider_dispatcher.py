"""Whether the right dispatcher is there: its challenge is read, and nothing is said to it."""

import asyncio
import ssl
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from aos_cli.errors import CliError
from aos_cli.provider_settings import ServerKey
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import open_frame
from aos_protocol.identity import address_of
from aos_protocol.messages import Challenge
from aos_service.tls import handshake_problem

_PATIENCE_S: Final = 15.0
_MOST: Final = 1 << 16


class DispatcherAway(CliError):
    """No dispatcher answers at serverUrl."""


class WrongServerKey(CliError):
    """Another dispatcher answers at serverUrl than the one of serverKey."""


async def meet(url: str, pin: ServerKey, tls: ssl.SSLContext | None) -> str:
    """Return the address of the dispatcher at `url`, whose first word is signed by the pinned key.

    The same is held against every later connection (`aos_operator.session`), so that a recorded challenge opens nothing.
    Raises `DispatcherAway` or `WrongServerKey`.
    """
    try:
        async with (
            asyncio.timeout(_PATIENCE_S),
            connect(url, ssl=tls, proxy=None, max_size=_MOST, close_timeout=1) as socket,
        ):
            first = await socket.recv()
    except (OSError, TimeoutError, WebSocketException) as error:
        raise DispatcherAway(_away(url, error)) from error
    try:
        return _checked(first, pin)
    except ProtocolError as error:
        raise DispatcherAway(
            f"what answers at {url} is no AOS dispatcher ({error}): correct serverUrl"
        ) from error


def _checked(first: str | bytes, pin: ServerKey) -> str:
    frame = open_frame(first, max_bytes=_MOST)
    challenge = parse_message(Challenge, frame.params[0] if frame.params else {})
    if not frame.address == challenge.dispatcher == address_of(bytes.fromhex(challenge.public_key)):
        raise WrongServerKey(
            "the dispatcher's challenge names another key than it is signed by: nothing was said to it"
        )
    if not pin.fits(frame.address):
        raise WrongServerKey(
            f"the dispatcher there is {frame.address} (key {challenge.public_key[2:]}), and serverKey is {pin}: nothing was said to it. "
            "Correct serverUrl; or serverKey, if the dispatcher's owner tells you that this is its key"
        )
    return frame.address


def _away(url: str, error: Exception) -> str:
    unbelieved = handshake_problem(error)
    if unbelieved is not None:
        return f"no dispatcher at {url} that is believed ({unbelieved}): with an authority of its own, run aos --ca FILE provider"
    said = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        said = f"nothing within {_PATIENCE_S:g} s"
    if isinstance(error, ConnectionClosed):
        said = error.rcvd.reason if error.rcvd is not None and error.rcvd.reason else "it hangs up"
    return f"no dispatcher at {url} ({said}): start one (`aos up` on this machine), or correct serverUrl"
