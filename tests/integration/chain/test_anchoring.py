"""Heads of a dispatcher's log on a real chain: the first, the next, what does not continue, forks."""

from dataclasses import replace

import pytest

from aos_chain.anchoring import AnchoredHead, SignedHead, heads, is_forked, latest_head, post_head, prove_fork
from aos_chain.client import Chain
from aos_chain.errors import ChainError, Reverted
from aos_protocol import merkle
from aos_protocol.identity import Signer
from aos_protocol.typed_data import TreeHeadClaim, sign_typed
from support.anvil import Anvil
from support.network import Network

DISPATCHER = Signer(b"\x11" * 32)
LEAVES = [f"entry {index}".encode() for index in range(40)]


def _head(size: int, *, leaves: list[bytes] = LEAVES) -> TreeHeadClaim:
    return TreeHeadClaim(DISPATCHER.address, size, merkle.root(leaves[:size]).hex(), 1_700_000_000 + size)


def _signed(network: Network, head: TreeHeadClaim, signer: Signer = DISPATCHER) -> SignedHead:
    return SignedHead(head, sign_typed(signer, network.deployment.domain, head))


async def _post(chain: Chain, network: Network, size: int, first: int | None) -> int:
    """Post the head of that size, with the proof from the head of size `first`; the block."""
    head = _head(size)
    proof = merkle.consistency_proof(LEAVES[:size], first) if first else []
    signature = _signed(network, head).signature
    sent = post_head(chain, network.deployment, network.deployer, head, signature=signature, proof=proof)
    return (await sent).block


async def test_without_heads(chain: Chain, network: Network) -> None:
    assert await latest_head(chain, network.deployment, DISPATCHER.address) is None
    assert await heads(chain, network.deployment, DISPATCHER.address) == []
    assert not await is_forked(chain, network.deployment, DISPATCHER.address)


async def test_a_log_that_grows(chain: Chain, network: Network) -> None:
    expected, before = [], None
    for size in (1, 6, 7, 40):
        block = await _post(chain, network, size, before)
        head = _head(size)
        expected.append(AnchoredHead(size, head.root, head.timestamp, block))
        before = size
        assert await latest_head(chain, network.deployment, DISPATCHER.address) == expected[-1]
    assert await heads(chain, network.deployment, DISPATCHER.address) == expected


async def test_each_head_is_an_event(anvil: Anvil, chain: Chain, network: Network) -> None:
    await _post(chain, network, 3, None)
    await _post(chain, network, 9, 3)
    found = await chain.logs("Anchor", network.deployment.anchor, 0, await anvil.head(), ["Anchored"])
    assert [(event.arguments["size"], event.arguments["index"]) for event in found] == [(3, 0), (9, 1)]
    assert found[1].arguments["root"].hex() == _head(9).root


async def test_a_head_that_does_not_continue_the_last_one(chain: Chain, network: Network) -> None:
    await _post(chain, network, 6, None)
    rewritten = [b"another", *LEAVES[1:]]
    head = _head(9, leaves=rewritten)
    sent = post_head(
        chain,
        network.deployment,
        network.deployer,
        head,
        signature=_signed(network, head).signature,
        proof=merkle.consistency_proof(rewritten[:9], 6),
    )
    with pytest.raises(Reverted):
        await sent
    with pytest.raises(Reverted):
        await _post(chain, network, 5, None)


async def test_a_head_that_another_key_signed(chain: Chain, network: Network) -> None:
    head = _head(6)
    signature = _signed(network, head, Signer(b"\x22" * 32)).signature
    with pytest.raises(Reverted, match="the signature is another key's"):
        await post_head(chain, network.deployment, network.deployer, head, signature=signature, proof=[])


async def test_a_fork_ends_the_anchoring(chain: Chain, network: Network) -> None:
    await _post(chain, network, 6, None)
    honest, other = _signed(network, _head(7)), _signed(network, _head(7, leaves=[b"x", *LEAVES]))
    await prove_fork(chain, network.deployment, network.deployer, honest, other)

    assert await is_forked(chain, network.deployment, DISPATCHER.address)
    with pytest.raises(Reverted):
        await _post(chain, network, 7, 6)


async def test_one_head_is_no_fork(chain: Chain, network: Network) -> None:
    head = _signed(network, _head(7))
    with pytest.raises(Reverted):
        await prove_fork(chain, network.deployment, network.deployer, head, head)
    assert not await is_forked(chain, network.deployment, DISPATCHER.address)


async def test_nothing_is_posted_to_another_chain(chain: Chain, network: Network) -> None:
    elsewhere = replace(network.deployment, chain_id=1)
    head = _signed(network, _head(1))
    with pytest.raises(ChainError, match="on chain 1"):
        await post_head(chain, elsewhere, network.deployer, head.head, signature=head.signature, proof=[])
    with pytest.raises(ChainError, match="on chain 1"):
        await prove_fork(chain, elsewhere, network.deployer, head, head)
