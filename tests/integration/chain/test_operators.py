"""Joining, moving and leaving, as an operator's program does it."""

from dataclasses import replace

import pytest

from aos_chain.client import Chain
from aos_chain.errors import ChainError, Reverted
from aos_chain.follower import RegistryFollower
from aos_chain.operators import bond_lacking, free_share, leave, register, update_range, withdraw
from aos_protocol.identity import Signer
from support.anvil import ETHER, Anvil
from support.network import TERMS, Network


async def _range(chain: Chain, network: Network, address: str) -> tuple[int, int]:
    asked = chain.function("OperatorRegistry", network.deployment.registry, "operatorRanges", address)
    start, end = await chain.call(asked)
    return start, end


async def _bond(chain: Chain, network: Network, address: str) -> int:
    asked = chain.function("OperatorRegistry", network.deployment.registry, "bondOf", address)
    return int(await chain.call(asked))


async def test_an_operators_life(anvil: Anvil, chain: Chain, network: Network) -> None:
    """Each step pays just what the bond lacks, and in the end it all comes back."""
    signer, deployment = await anvil.signer(), network.deployment
    per_slot = TERMS.bond_per_slot
    assert await bond_lacking(chain, deployment, signer.address, 100) == 100 * per_slot

    await register(chain, deployment, signer, 0, 100)
    assert await _range(chain, network, signer.address) == (0, 100)
    assert await _bond(chain, network, signer.address) == 100 * per_slot

    await update_range(chain, deployment, signer, 50, 300)
    assert await _bond(chain, network, signer.address) == 250 * per_slot
    await update_range(chain, deployment, signer, 0, 10)
    assert await _bond(chain, network, signer.address) == 250 * per_slot
    assert await bond_lacking(chain, deployment, signer.address, 250) == 0

    await leave(chain, deployment, signer)
    assert await _range(chain, network, signer.address) == (0, 0)
    with pytest.raises(Reverted, match="the leave delay is not over"):
        await withdraw(chain, deployment, signer)
    await anvil.travel(TERMS.leave_delay)
    before = await chain.balance(signer.address)
    await withdraw(chain, deployment, signer)
    assert await chain.balance(signer.address) - before > 250 * per_slot - ETHER // 1000
    assert await _bond(chain, network, signer.address) == 0


async def test_who_comes_back_pays_what_is_lacking_only(anvil: Anvil, chain: Chain, network: Network) -> None:
    signer = await anvil.signer()
    await register(chain, network.deployment, signer, 0, 100)
    await leave(chain, network.deployment, signer)
    await register(chain, network.deployment, signer, 200, 350)
    assert await _bond(chain, network, signer.address) == 150 * TERMS.bond_per_slot


async def test_what_the_registry_refuses(anvil: Anvil, chain: Chain, network: Network) -> None:
    first, second = await anvil.signer(), await anvil.signer()
    await register(chain, network.deployment, first, 100, 200)
    with pytest.raises(Reverted, match="the range overlaps another one"):
        await register(chain, network.deployment, second, 150, 160)
    with pytest.raises(Reverted, match="registered: update the range"):
        await register(chain, network.deployment, first, 300, 400)
    with pytest.raises(Reverted, match="not registered"):
        await update_range(chain, network.deployment, second, 300, 400)
    with pytest.raises(Reverted, match="not registered"):
        await leave(chain, network.deployment, second)
    with pytest.raises(Reverted, match="leave first"):
        await withdraw(chain, network.deployment, first)


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (-1, 5), (0, 600_001)])
async def test_what_is_no_range_is_not_even_asked(
    chain: Chain, network: Network, start: int, end: int
) -> None:
    with pytest.raises(ChainError, match="is no range"):
        await register(chain, network.deployment, network.deployer, start, end)


async def test_nothing_is_sent_to_another_chain(anvil: Anvil, chain: Chain, network: Network) -> None:
    elsewhere = replace(network.deployment, chain_id=1)
    signer = await anvil.signer()
    for attempt in (
        register(chain, elsewhere, signer, 0, 10),
        update_range(chain, elsewhere, signer, 0, 10),
        leave(chain, elsewhere, signer),
        withdraw(chain, elsewhere, signer),
    ):
        with pytest.raises(ChainError, match="on chain 1: name an RPC URL of that chain"):
            await attempt
    assert await chain.next_nonce(signer.address) == 0


async def test_who_has_no_ether_is_told(chain: Chain, network: Network) -> None:
    with pytest.raises(ChainError, match="send it ether"):
        await register(chain, network.deployment, Signer.generate(), 0, 10)


async def test_free_shares_follow_each_other(anvil: Anvil, chain: Chain, network: Network) -> None:
    follower = RegistryFollower(
        chain,
        network.deployment.registry,
        network.deployment.block,
        confirmations=0,
        poll_interval=1,
        maximum_age=10,
    )
    await follower.start()
    for expected in ((0, 500), (500, 1000), (1000, 1500)):
        signer = await anvil.signer()
        share = free_share(await follower.state_at(await anvil.head()), 500)
        assert share == expected
        await register(chain, network.deployment, signer, *share)
