"""The contracts of a one-machine network on its local chain: deployed once, every operator with an equal share and its bond.

The dispatcher's key deploys, first thing on a fresh chain: so the contracts' addresses follow from that key, and are the same again
should the chain's state be lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aos_chain.client import Chain
from aos_chain.deploy import Terms, check_deployment, deploy
from aos_chain.deployment import Deployment, read_deployment, write_deployment
from aos_chain.operators import leave, register
from aos_cli.chain_amounts import WEI
from aos_cli.chain_reading import registry_state
from aos_cli.chain_target import told
from aos_cli.embedded_chain import EmbeddedChain
from aos_protocol.identity import Signer
from aos_protocol.sortition import equal_shares

TERMS: Final = Terms(
    bond_per_slot=WEI // 100_000,
    leave_delay=900,
    challenge_bond=WEI // 10,
    answer_window=120,
    vote_window=600,
    max_age=100_000,
)
"""Short windows, so that one can see a challenge to its end."""

FUNDS: Final = 20 * WEI
"""What each key has for gas, bonds and challenges; all 600,000 slots are 6 ETH of bond."""


@dataclass(frozen=True)
class LocalNetwork:
    """Who is on the local chain: the dispatcher's key, the operators that run (in order), and those that ran before."""

    dispatcher: Signer
    operators: Sequence[Signer]
    others: Sequence[Signer]


async def prepare(chain: EmbeddedChain, file: Path, network: LocalNetwork) -> Deployment:
    """Fund everybody, deploy what is not there, and register the operators with equal shares; returns where the contracts are.

    Operators that no longer run, or whose share changes, leave first.

    Raises:
        EmbeddedError, CliError: when the chain or a contract refuses.
    """
    for signer in (network.dispatcher, *network.operators):
        await chain.fund(signer.address, FUNDS)
    with told():
        async with Chain.connect(chain.url) as connected:
            deployment = await _deployed(connected, file, network.dispatcher)
            await _share(connected, deployment, network)
    return deployment


async def _deployed(chain: Chain, file: Path, signer: Signer) -> Deployment:
    known = read_deployment(file) if file.exists() else None  # noqa: ASYNC240 (once, at the start)
    if known is not None and await chain.code(known.registry):
        await check_deployment(chain, known)
        return known
    # There is no chain yet, or it begins anew: its state was lost, or removed.
    made = await deploy(chain, signer, TERMS)
    write_deployment(file, made)
    return made


async def _share(chain: Chain, deployment: Deployment, network: LocalNetwork) -> None:
    """Give every operator its equal share. Who is in another's way leaves first; numbers and bonds stay."""
    state = await registry_state(chain, deployment)
    signers: Mapping[str, Signer] = {
        signer.address: signer for signer in (*network.others, *network.operators)
    }
    wanted = {
        address: (start, end) for address, start, end in equal_shares([s.address for s in network.operators])
    }
    placed = set()
    for entry in state.entries:
        if wanted.get(entry.operator) == (entry.start, entry.end):
            placed.add(entry.operator)
        elif entry.operator in signers:
            await leave(chain, deployment, signers[entry.operator])
    for address, (start, end) in wanted.items():
        if address not in placed:
            await register(chain, deployment, signers[address], start, end)
