"""A monitor's look at the chain: what the contract has of a dispatcher's log must be a state of the log that is followed."""

from aos_auditor.errors import BadAnswer
from aos_auditor.following import Follower
from aos_chain.client import Chain
from aos_chain.errors import ChainError
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import Check

_ID = "AOS-ANCHOR-3"


async def look_at_anchor(follower: Follower, rpc: str, contract: str) -> Check:
    """Compare the contract's newest head with the log. Raises `Unreachable`; a chain that does not answer skips the check."""
    dispatcher, domain = follower.identity()
    try:
        async with Chain.connect(rpc) as chain:
            await chain.require_chain(domain.chain_id)
            await chain.require_contract(contract)
            newest = chain.function("Anchor", contract, "latest", dispatcher)
            size, root, _, block = await chain.call(newest)
            forked = await chain.call(chain.function("Anchor", contract, "forked", dispatcher))
    except ChainError as error:
        return Check(_ID, "SKIP", f"the chain could not be asked: {error}")
    what = f"contract {contract} has the head of {size} entries, since block {block}"
    if forked:
        return Check(_ID, "FAIL", f"{what}, and was shown two heads of one size: this log is forked")
    if not size:
        return Check(_ID, "SKIP", f"contract {contract} has no head of this dispatcher yet")
    try:
        await follower.continues(size, bytes(root).hex())
    except (ProtocolError, BadAnswer) as error:
        return Check(_ID, "FAIL", f"{what}, which is none of this log: {error}")
    return Check(_ID, "PASS", what)
