"""How often one address may present tokens that nobody has: brute force costs it time, and the database nothing.

In memory and of this process alone: it guards against guessing, whose odds a few more attempts at other processes do not change.
"""

import math
from collections.abc import Callable
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address
from time import monotonic

from aos_dispatcher.errors import TooManyGuesses

caller_address: ContextVar[str] = ContextVar("caller_address", default="")
"""The address that the request at work came from, as `edge` found it; empty where there is none, as on a unix socket."""

WINDOW_S = 60.0
_ADDRESSES = 4096
_IPV6_NETWORK = 64  # what one subscriber has; it may use any address of it


class Attempts:
    """Failed attempts by address: after `most` within a minute of the first, an address is not heard until that minute is over.

    At most 4,096 addresses are remembered. When there are more, the one whose minute began first is forgotten.
    """

    def __init__(self, most: int, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._failed: dict[str, tuple[float, int]] = {}

    def check(self, address: str) -> None:
        """Raise `TooManyGuesses` when no token from this address is to be looked at now."""
        until, count = self._failed.get(network_of(address), (0.0, 0))
        left = until - self._clock()
        if count >= self._most and left > 0:
            raise TooManyGuesses(math.ceil(left))

    def failed(self, address: str) -> None:
        """Count an attempt."""
        key, now = network_of(address), self._clock()
        until, count = self._failed.get(key, (0.0, 0))
        if until <= now:
            self._failed.pop(key, None)  # so that dicts' order is the order in which the minutes end
            until, count = now + WINDOW_S, 0
            while len(self._failed) >= _ADDRESSES:
                del self._failed[next(iter(self._failed))]
        self._failed[key] = (until, count + 1)

    def __len__(self) -> int:
        return len(self._failed)


def network_of(address: str) -> str:
    """Return what stands for an address where addresses are counted: its /64 of IPv6, and anything else itself."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a unix socket's, or what a proxy says
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(int(parsed) >> (128 - _IPV6_NETWORK))
