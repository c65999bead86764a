"""A network of ours on a chain of the tests."""

from dataclasses import dataclass

from aos_chain.deploy import Terms
from aos_chain.deployment import Deployment
from aos_protocol.identity import Signer

TERMS = Terms(
    bond_per_slot=10**12,
    leave_delay=3600,
    challenge_bond=10**16,
    answer_window=600,
    vote_window=600,
    max_age=1000,
)


@dataclass(frozen=True)
class Network:
    """Where its contracts are, and the key that deployed them."""

    deployment: Deployment
    deployer: Signer
