"""A job's evidence whose registry and anchor are on a chain of the tests."""

from dataclasses import dataclass
from typing import Any

from aos_chain.anchoring import post_head
from aos_chain.client import Chain
from aos_protocol.typed_data import TreeHeadClaim
from support.actors import Actor
from support.anvil import Anvil
from support.evidence import DISPATCHER, signed_head
from support.network import Network


@dataclass
class OnChain:
    """A job's evidence, and the chain that it speaks of."""

    anvil: Anvil
    chain: Chain
    network: Network
    crew: list[Actor]
    place: dict[str, Any]
    document: dict[str, Any]

    async def post(self, leaves: list[bytes], proof: list[bytes]) -> int:
        """Anchor the dispatcher's head of a log with these entries; the block that took it."""
        head = signed_head(leaves, self.network.deployment.domain)
        claim = TreeHeadClaim(DISPATCHER.address, head["size"], head["root"], head["timestamp"])
        receipt = await post_head(
            self.chain,
            self.network.deployment,
            self.network.deployer,
            claim,
            signature=head["signature"],
            proof=proof,
        )
        return receipt.block
