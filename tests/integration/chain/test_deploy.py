"""Putting the contracts on a chain, and finding out what is on one."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from aos_chain.client import Chain
from aos_chain.deploy import check_deployment, deploy, deployment_block
from aos_chain.errors import ChainError, Reverted
from support.anvil import Anvil
from support.network import TERMS, Network
from support.rpc_proxy import RpcProxy


async def test_the_contracts_know_each_other_and_their_terms(anvil: Anvil, chain: Chain) -> None:
    signer = await anvil.signer()
    await anvil.mine(2)
    deployment = await deploy(chain, signer, TERMS)

    assert (deployment.chain_id, deployment.block) == (31337, 3)
    where = {
        "OperatorRegistry": deployment.registry,
        "Sortition": deployment.sortition,
        "Anchor": deployment.anchor,
        "Challenge": deployment.challenge,
    }
    expected: dict[tuple[str, str], Any] = {
        ("OperatorRegistry", "slasher"): deployment.challenge,
        ("OperatorRegistry", "bondPerSlot"): TERMS.bond_per_slot,
        ("OperatorRegistry", "leaveDelay"): TERMS.leave_delay,
        ("Sortition", "REGISTRY"): deployment.registry,
        ("Anchor", "registry"): deployment.registry,
        ("Challenge", "registry"): deployment.registry,
        ("Challenge", "sortition"): deployment.sortition,
        ("Challenge", "bond"): TERMS.challenge_bond,
        ("Challenge", "answerWindow"): TERMS.answer_window,
        ("Challenge", "voteWindow"): TERMS.vote_window,
        ("Challenge", "maxAge"): TERMS.max_age,
    }
    for (contract, getter), value in expected.items():
        assert await chain.call(chain.function(contract, where[contract], getter)) == value, (
            contract,
            getter,
        )
    await check_deployment(chain, deployment)


async def test_a_key_deploys_more_than_once(anvil: Anvil, chain: Chain, network: Network) -> None:
    again = await deploy(chain, network.deployer, TERMS)
    await check_deployment(chain, again)
    assert again.registry != network.deployment.registry


async def test_terms_that_a_contract_refuses(anvil: Anvil, chain: Chain) -> None:
    with pytest.raises(Reverted, match="a bond is needed"):
        await deploy(chain, await anvil.signer(), replace(TERMS, bond_per_slot=0))


async def test_another_transaction_of_the_deployer_in_between(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    interfered = False

    async def interfering(method: str, _params: list[Any], forward: Any) -> Any:
        nonlocal interfered
        answer = await forward()
        if method == "eth_getTransactionReceipt" and answer["result"] and not interfered:
            interfered = True
            await chain.send(chain.creation("Sortition", network.deployment.registry), network.deployer)
        return answer

    proxy.hook = interfering
    with pytest.raises(ChainError, match=r"came in between, so Sortition is not where .* deploy again"):
        await deploy(proxied, network.deployer, TERMS)


async def test_a_deployment_of_another_chain_is_refused(chain: Chain, network: Network) -> None:
    with pytest.raises(ChainError, match="serves chain 31337, and the contracts are on chain 8453"):
        await check_deployment(chain, replace(network.deployment, chain_id=8453))


@pytest.mark.parametrize("contract", ["registry", "sortition", "anchor", "challenge"])
async def test_an_address_of_a_deployment_without_a_contract(
    anvil: Anvil, chain: Chain, network: Network, contract: str
) -> None:
    nobody = (await anvil.signer()).address
    with pytest.raises(ChainError, match=f"no contract is at {nobody}"):
        await check_deployment(chain, replace(network.deployment, **{contract: nobody}))


async def test_contracts_of_two_networks_do_not_go_together(chain: Chain, network: Network) -> None:
    other = await deploy(chain, network.deployer, TERMS)
    mixed = replace(network.deployment, challenge=other.challenge)
    with pytest.raises(ChainError, match=f"the registry obeys {network.deployment.challenge}"):
        await check_deployment(chain, mixed)


async def test_a_registry_that_is_none(chain: Chain, network: Network) -> None:
    mixed = replace(network.deployment, registry=network.deployment.anchor)
    with pytest.raises(ChainError, match=f"{network.deployment.anchor} is no registry of AOS"):
        await check_deployment(chain, mixed)


async def test_the_block_of_a_contract_is_found(anvil: Anvil, chain: Chain) -> None:
    signer = await anvil.signer()
    await anvil.mine(7)
    deployment = await deploy(chain, signer, TERMS)
    await anvil.mine(20)
    assert await deployment_block(chain, deployment.registry) == 8 == deployment.block
    assert await deployment_block(chain, deployment.challenge) == 11


async def test_the_block_of_no_contract_is_not_found(anvil: Anvil, chain: Chain) -> None:
    with pytest.raises(ChainError, match="no contract is at"):
        await deployment_block(chain, (await anvil.signer()).address)


async def test_an_endpoint_that_keeps_no_old_states_cannot_tell_the_block(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    await anvil.mine(10)

    async def pruned(method: str, params: list[Any], forward: Any) -> Any:
        if method == "eth_getCode" and params[1] != "latest":
            return {"error": {"code": -32000, "message": "missing trie node"}}
        return await forward()

    proxy.hook = pruned
    with pytest.raises(ChainError, match=r"missing trie node.* give the block of the deployment file"):
        await deployment_block(proxied, network.deployment.registry)


async def test_two_keys_deploy_at_the_same_time(anvil: Anvil, chain: Chain) -> None:
    signers = [await anvil.signer() for _ in range(2)]
    made = await asyncio.gather(*(deploy(chain, signer, TERMS) for signer in signers))
    for deployment in made:
        await check_deployment(chain, deployment)
