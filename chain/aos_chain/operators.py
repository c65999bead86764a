"""What an operator does with the registry contract: join, move, leave, and take its bond back."""

from typing import Any

from aos_chain.client import Chain, ContractFunction
from aos_chain.deployment import Deployment
from aos_chain.errors import ChainError
from aos_chain.registry import RegistryState
from aos_chain.transactions import Receipt
from aos_protocol.identity import Signer
from aos_protocol.sortition import MAX_RANGE


async def register(chain: Chain, deployment: Deployment, signer: Signer, start: int, end: int) -> Receipt:
    """Take the range `[start, end)` for the signer, and pay what its bond lacks for that width.

    Raises `Reverted` for a range that overlaps another, and as `Chain.send`.
    """
    return await _place(chain, deployment, signer, "registerOperator", (start, end))


async def update_range(chain: Chain, deployment: Deployment, signer: Signer, start: int, end: int) -> Receipt:
    """Move the signer to the range `[start, end)`, and pay what its bond lacks. Raises as `register`."""
    return await _place(chain, deployment, signer, "updateOperatorRange", (start, end))


async def leave(chain: Chain, deployment: Deployment, signer: Signer) -> Receipt:
    """Give up the range at once; the bond can be withdrawn after the registry's delay. Raises as `Chain.send`."""
    await chain.require_chain(deployment.chain_id)
    return await chain.send(_function(chain, deployment, "leave"), signer)


async def withdraw(chain: Chain, deployment: Deployment, signer: Signer) -> Receipt:
    """Take back the bond that was left behind. Raises `Reverted` before the delay is over or while a challenge holds it."""
    await chain.require_chain(deployment.chain_id)
    return await chain.send(_function(chain, deployment, "withdraw"), signer)


async def bond_lacking(chain: Chain, deployment: Deployment, operator: str, width: int) -> int:
    """Return the wei that an operator must add to its bond to hold a range of this width."""
    wanted = width * int(await chain.call(_function(chain, deployment, "bondPerSlot")))
    return max(wanted - int(await chain.call(_function(chain, deployment, "bondOf", operator))), 0)


def free_share(state: RegistryState, width: int) -> tuple[int, int]:
    """Return the first range of this width that nobody holds. Raises `ChainError` where there is none."""
    if not 0 < width <= MAX_RANGE:
        raise ChainError(f"a range is 1 to {MAX_RANGE} slots wide, not {width}")
    start = 0
    for entry in sorted(state.entries, key=lambda entry: entry.start):
        if entry.start - start >= width:
            break
        start = entry.end
    if start + width > MAX_RANGE:
        raise ChainError(
            f"the registry has no {width} free slots in a row: ask for fewer, or wait until somebody leaves"
        )
    return start, start + width


async def _place(
    chain: Chain, deployment: Deployment, signer: Signer, function: str, share: tuple[int, int]
) -> Receipt:
    start, end = share
    if not 0 <= start < end <= MAX_RANGE:
        raise ChainError(f"[{start}, {end}) is no range: start is below end, and end at most {MAX_RANGE}")
    await chain.require_chain(deployment.chain_id)
    lacking = await bond_lacking(chain, deployment, signer.address, end - start)
    call = _function(chain, deployment, function, signer.address, start, end)
    return await chain.send(call, signer, value=lacking)


def _function(chain: Chain, deployment: Deployment, name: str, *arguments: Any) -> ContractFunction:  # noqa: ANN401
    return chain.function("OperatorRegistry", deployment.registry, name, *arguments)
