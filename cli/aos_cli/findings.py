"""What `aos doctor` finds: each probe says what is well, or raises what is not."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, NamedTuple, TypeAlias

from aos_cli.errors import CliError
from aos_inference.errors import InferenceError
from aos_operator.errors import OperatorError
from aos_protocol.errors import ProtocolError
from aos_service.errors import ServiceError


class Finding(NamedTuple):
    """One thing that was looked at."""

    status: Literal["PASS", "FAIL", "SKIP"]
    name: str
    what: str


class NotLookedAt(Exception):
    """There is nothing to look at; the message says what to give so that there is."""


Findings: TypeAlias = AsyncIterator[Finding]
_MENDABLE = (CliError, ServiceError, OperatorError, InferenceError, ProtocolError)


async def find(name: str, probe: Callable[[], Awaitable[str]]) -> Finding:
    """Run a probe: what it returns passes, `NotLookedAt` is skipped, and every error of ours fails with its message."""
    try:
        return Finding("PASS", name, await probe())
    except NotLookedAt as reason:
        return Finding("SKIP", name, str(reason))
    except _MENDABLE as error:
        return Finding("FAIL", name, str(error))
