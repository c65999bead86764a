"""A real chain (anvil) with a network's contracts, and a job whose registry and anchor are on it."""

import json
from collections.abc import AsyncIterator

import pytest_asyncio

from aos_chain.client import Chain
from aos_chain.deploy import deploy
from aos_chain.operators import register
from aos_protocol import sortition
from aos_protocol.log_entries import job_entries
from support.actors import Actor, honest
from support.anvil import Anvil, running_anvil
from support.audited_chain import OnChain
from support.evidence import Story
from support.network import TERMS, Network

OPERATORS = 3


@pytest_asyncio.fixture
async def anvil() -> AsyncIterator[Anvil]:
    async with running_anvil() as node:
        yield node


@pytest_asyncio.fixture
async def chain(anvil: Anvil) -> AsyncIterator[Chain]:
    async with Chain.connect(anvil.url) as connected:
        yield connected


@pytest_asyncio.fixture
async def network(anvil: Anvil, chain: Chain) -> Network:
    deployer = await anvil.signer()
    return Network(await deploy(chain, deployer, TERMS), deployer)


@pytest_asyncio.fixture
async def on_chain(anvil: Anvil, chain: Chain, network: Network) -> OnChain:
    """Three operators with equal shares; a job that was drawn on them; the log of that job, anchored."""
    deployment = network.deployment
    crew = [Actor(number, honest, False, deployment.domain) for number in range(2, OPERATORS + 2)]
    shares = sortition.equal_shares([actor.address for actor in crew])
    for actor, (_, start, end) in zip(crew, shares, strict=True):
        await anvil.rpc("anvil_setBalance", actor.address, hex(10**20))
        await register(chain, deployment, actor.signer, start, end)
    block = await chain.block_number()
    place = {
        "chain_id": deployment.chain_id,
        "registry": deployment.registry,
        "block": block,
        "block_hash": str(await chain.block_hash(block))[2:],
    }
    story = Story(crew=crew, chain=place)
    story.own()
    document = json.loads(json.dumps(story.document()))
    made = OnChain(anvil, chain, network, crew, place, document)
    leaves = [f"another entry {number}".encode() for number in range(5)]
    leaves += [entry.encode() for entry in job_entries(document)]
    taken = await made.post(leaves, [])
    document["log"]["anchor"] |= {"contract": deployment.anchor, "block": taken}
    return made
