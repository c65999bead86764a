"""This operator's own range in the registry contract, against which it holds what a dispatcher says of it.

1. A range is held against the contract's state after the block that the dispatcher names, never against a newer one: whoever moves its range
   keeps the old one in draws that were made before.
2. While the chain does not answer, the last known state decides, with a warning that says its age, until it is too old: then draws are declined.
3. A difference is refused only where the chain has shown it. What cannot be told is declined for now.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import structlog

from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_chain.registry import RegistryState
from aos_operator.errors import Refused, RegistryUnavailable, StartError
from aos_operator.settings import Chain as ChainSettings
from aos_operator.tasks import Request
from aos_protocol.messages import Draw, ScoreCall
from aos_protocol.typed_data import Domain

if TYPE_CHECKING:  # importing web3 takes 0.7 s, and only an operator with a chain has it
    from aos_chain.client import Chain
    from aos_chain.follower import RegistryFollower

MAXIMUM_AGE_S: Final = 300.0
"""How old the last known state of the registry may be when a draw is answered by it."""

_POLL_S: Final = 2.0
_REQUEST_S: Final = 5.0
# Below the time that a dispatcher waits for a ticket, so that one is drawn also while the endpoint hangs.
_ANSWER_S: Final = 1.0
_WARN_AGAIN_S: Final = 10.0

Range = tuple[int, int]

_log: Any = structlog.get_logger(__name__)


class Registry:
    """Follows the registry contract; await `start`, then keep `run` running. `maximum_age` is in seconds."""

    def __init__(
        self,
        chain: "Chain",
        follower: "RegistryFollower",
        operator: str,
        maximum_age: float,
    ) -> None:
        self._chain = chain
        self._follower = follower
        self._operator = operator
        self._maximum_age = maximum_age
        self._own: Range = (0, 0)
        self._one_at_a_time = asyncio.Lock()
        self._warned_at = float("-inf")

    async def start(self) -> None:
        """Read the registry. Raises `StartError` when this operator has no range there, and `RegistryUnavailable`."""
        try:
            state = await self._follower.start()
        except ChainUnavailable as error:
            raise RegistryUnavailable(f"the registry cannot be read: {error}") from error
        except Reverted as error:
            raise StartError(
                f"the contract at chain.vrf_range_contract is no OperatorRegistry: correct its address ({error})"
            ) from error
        except ChainError as error:
            raise StartError(f"the registry cannot be read: {error}") from error
        self._own = state.range_of(self._operator)
        if self._own == (0, 0):
            raise StartError(
                f"operator {self._operator} has no range in the registry {state.registry} on chain {state.chain_id} "
                f"(block {state.block}): register it with: aos chain register"
            )
        _log.info("registered on chain", start=self._own[0], end=self._own[1], block=state.block)
        self._follower.on_change(self._changed)

    async def run(self) -> None:
        """Follow the contract's events for ever."""
        await self._follower.run()

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain that a dispatcher of this network signs in."""
        state = self._follower.state
        return Domain(state.chain_id, state.registry)

    async def check(self, call: Draw | Request) -> None:
        """Hold the range that a dispatcher names against the chain's.

        A call for a score names no block: its range has no meaning beyond the draw's. Raises `Refused`: 400 when the range is another,
        503 when that cannot be told now, or when the registry was last read too long ago for a draw.
        """
        if isinstance(call, ScoreCall):
            return
        if isinstance(call, Draw):
            self._require_young()
        given = (call.range_start, call.range_end)
        block = call.registry_block
        found, known = await self._range_at(block)
        if found == given:
            return
        if not known:
            raise Refused(
                503, f"whether {_shown(given)} is this operator's range at block {block} cannot be told now"
            )
        raise Refused(
            400,
            f"this operator's range at block {block} of the registry is {_shown(found)}, not {_shown(given)} as the dispatcher says",
        )

    async def _range_at(self, block: int) -> tuple[Range, bool]:
        """The range after this block, and whether the chain says so; else it is that of the last known state."""
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._read(block), True
        except (TimeoutError, ChainUnavailable) as error:
            problem = str(error) or f"no answer within {_ANSWER_S:g} s"
        except ChainError as error:
            raise Refused(503, f"the registry cannot be read: {error}") from error
        if self._follower.age <= time.monotonic() - asked_at:
            raise Refused(503, problem)  # the chain answers, and has no such block yet
        self._require_young()
        self._warn(problem)
        return self._follower.state.range_of(self._operator), False

    async def _read(self, block: int) -> Range:
        """The range after a block. One that has no confirmations yet is asked of the contract: its hash may change, its answer is today's."""
        try:
            # The first of many draws reads the chain, the others find what it read.
            async with self._one_at_a_time:
                return (await self._follower.state_at(block)).range_of(self._operator)
        except ChainUnavailable:
            if block > await self._chain.block_number():
                raise
        registry = self._follower.state.registry
        asked = self._chain.function("OperatorRegistry", registry, "rangeAt", self._operator, block)
        start, end = await self._chain.call(asked)
        return start, end

    def _require_young(self) -> None:
        age = self._follower.age
        if age > self._maximum_age:
            raise Refused(
                503,
                f"what this operator knows of the registry is {age:.0f} s old, more than {self._maximum_age:g} s: its RPC endpoint "
                "does not answer",
            )

    def _warn(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._warned_at < _WARN_AGAIN_S:
            return
        self._warned_at = now
        _log.warning(
            "the chain does not answer: ranges are held against the last known state of the registry",
            age_s=round(self._follower.age, 1),
            block=self._follower.state.block,
            problem=problem,
        )

    def _changed(self, state: RegistryState) -> None:
        before, self._own = self._own, state.range_of(self._operator)
        if self._own == before:
            return
        if self._own == (0, 0):
            _log.error(
                "this operator has no range in the registry any more: it gets no jobs; register it with: aos chain register",
                block=state.block,
            )
        else:
            _log.info(
                "the range in the registry changed", start=self._own[0], end=self._own[1], block=state.block
            )


async def open_registry(settings: ChainSettings, operator: str, stack: AsyncExitStack) -> Registry | None:
    """Connect to the configured chain, and read the registry; None when none is configured.

    The connection is closed with the stack. Raises `StartError` and `RegistryUnavailable`.
    """
    if settings.chain_rpc_url is None or settings.vrf_range_contract is None:
        return None
    try:
        from aos_chain.client import Chain
        from aos_chain.follower import RegistryFollower
    except ImportError as error:
        raise StartError(
            f"chain.chain_rpc_url needs {error.name}, which is not installed: install aos with the extra `chain`"
        ) from error
    try:
        chain = Chain.connect(settings.chain_rpc_url.get_secret_value(), _REQUEST_S)
    except ChainError as error:
        raise StartError(f"chain.chain_rpc_url: {error}") from error
    stack.push_async_callback(chain.close)
    follower = RegistryFollower(
        chain,
        settings.vrf_range_contract,
        settings.deployed_at,
        confirmations=settings.confirmations,
        poll_interval=_POLL_S,
        maximum_age=MAXIMUM_AGE_S,
    )
    registry = Registry(chain, follower, operator, MAXIMUM_AGE_S)
    await registry.start()
    return registry


def _shown(range_: Range) -> str:
    return f"[{range_[0]}, {range_[1]})"
