"""JSON-RPC's values, read strictly: web3 takes much for a number, and an endpoint may answer anything."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from aos_chain.translation import translated
from aos_protocol.identity import recursion_limit_kept

with recursion_limit_kept():
    from web3 import AsyncWeb3
    from web3.types import RPCEndpoint

T = TypeVar("T")

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")


class Asking:
    """Asks a node for one thing at a time."""

    def __init__(self, web3: AsyncWeb3[Any]) -> None:
        self._request = web3.manager.coro_request

    async def __call__(self, what: str, method: str, *params: Any, read: Callable[[Any], T]) -> T:  # noqa: ANN401
        """Return what `read` makes of the answer; raises `ChainError` and its kinds, which say `what` was asked for."""
        with translated(what):
            return read(await self._request(RPCEndpoint(method), list(params)))


def quantity(value: Any) -> int:  # noqa: ANN401 - JSON of somebody else
    """Read a number, which JSON-RPC writes in hex with 0x. Raises `ValueError`."""
    return int(_matched(_QUANTITY, value), 16)


def data(value: Any) -> bytes:  # noqa: ANN401
    """Read bytes in hex with 0x. Raises `ValueError`."""
    return bytes.fromhex(_matched(_DATA, value)[2:])


def hash32(value: Any) -> str:  # noqa: ANN401
    """Read a hash: 0x and 64 digits, in lower case. Raises `ValueError`."""
    return _matched(_HASH, value).lower()


def _matched(pattern: re.Pattern[str], value: Any) -> str:  # noqa: ANN401
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{value!r:.80} is not what JSON-RPC calls for")
    return value
