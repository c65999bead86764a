"""Putting a network's contracts on a chain, and finding what is there.

Registry and Challenge know each other, and neither can be changed later. So Challenge's address, which follows from the
deployer's nonce, is computed before the registry is created.
"""

from dataclasses import dataclass
from typing import Any

from aos_chain.client import Chain, ContractFunction
from aos_chain.deployment import Deployment
from aos_chain.errors import ChainError, Reverted
from aos_chain.transactions import Receipt
from aos_protocol.identity import Signer, checksum_address, recursion_limit_kept
from aos_protocol.sortition import MAX_RANGE

with recursion_limit_kept():
    from eth_typing import HexAddress, HexStr
    from web3.types import Nonce
    from web3.utils.address import get_create_address


@dataclass(frozen=True)
class Terms:
    """What a network's contracts are fixed to: bonds in wei, times in seconds, `max_age` in blocks.

    `bond_per_slot` is an operator's bond for each slot of its range, `challenge_bond` what a challenger stakes;
    `leave_delay` should be longer than a result can be challenged, or cheats leave in time.
    """

    bond_per_slot: int
    leave_delay: int
    challenge_bond: int
    answer_window: int
    vote_window: int
    max_age: int


async def deploy(chain: Chain, signer: Signer, terms: Terms) -> Deployment:
    """Create the four contracts in four transactions of the signer's, and return where they are.

    Raises as `Chain.send`, and `ChainError` when another transaction of the signer comes in between.
    """
    first = await chain.next_nonce(signer.address)
    registry, sortition, anchor, challenge = (_created(signer.address, first + index) for index in range(4))
    receipts = [
        await _create(
            chain, signer, registry, "OperatorRegistry", challenge, terms.bond_per_slot, terms.leave_delay
        ),
        await _create(chain, signer, sortition, "Sortition", registry),
        await _create(chain, signer, anchor, "Anchor", registry),
        await _create(
            chain,
            signer,
            challenge,
            "Challenge",
            registry,
            sortition,
            terms.challenge_bond,
            terms.answer_window,
            terms.vote_window,
            terms.max_age,
        ),
    ]
    return Deployment(await chain.chain_id(), registry, sortition, anchor, challenge, receipts[0].block)


async def check_deployment(chain: Chain, deployment: Deployment) -> None:
    """Raise `ChainError` unless this chain is the deployment's and its contracts are there."""
    await chain.require_chain(deployment.chain_id)
    for address in (deployment.registry, deployment.sortition, deployment.anchor, deployment.challenge):
        await chain.require_contract(address)
    max_range, slasher_of = (
        chain.function("OperatorRegistry", deployment.registry, name) for name in ("MAX_RANGE", "slasher")
    )
    if await _value(chain, max_range) != MAX_RANGE:
        raise ChainError(f"{deployment.registry} is no registry of AOS: check the deployment file")
    if (slasher := await chain.call(slasher_of)) != deployment.challenge:
        raise ChainError(
            f"the registry obeys {slasher}, not the deployment's Challenge {deployment.challenge}: check the deployment file"
        )


async def deployment_block(chain: Chain, address: str) -> int:
    """Find the block that a contract was created in, by bisection over its code.

    Raises `ChainError` where there is no such contract, or where the endpoint does not keep old states.
    """
    await chain.require_contract(address)
    low, high = 0, await chain.block_number()
    while low < high:
        middle = (low + high) // 2
        try:
            present = bool(await chain.code(address, middle))
        except ChainError as error:
            raise ChainError(
                f"{chain.name} cannot tell when {address} was created ({error}): give the block of the deployment file"
            ) from error
        low, high = (low, middle) if present else (middle + 1, high)
    return low


async def _value(chain: Chain, function: ContractFunction) -> int | None:
    try:
        return int(await chain.call(function))
    except Reverted:
        return None


async def _create(chain: Chain, signer: Signer, expected: str, name: str, *arguments: Any) -> Receipt:  # noqa: ANN401
    receipt = await chain.send(chain.creation(name, *arguments), signer)
    if receipt.contract != expected:
        raise ChainError(
            f"another transaction of {signer.address} came in between, so {name} is not where the others expect it: deploy "
            "again, with a key that nothing else uses"
        )
    return receipt


def _created(deployer: str, nonce: int) -> str:
    return checksum_address(get_create_address(HexAddress(HexStr(deployer)), Nonce(nonce)))
