"""Heads of dispatchers' logs on the chain: posting them, and reading what was posted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aos_chain.client import Chain
from aos_chain.deployment import Deployment
from aos_chain.transactions import Receipt
from aos_protocol.identity import Signer, parse_signature
from aos_protocol.typed_data import TreeHeadClaim


@dataclass(frozen=True)
class AnchoredHead:
    """A log head on the chain: the log's first `size` entries have this root (64 hex digits).

    `timestamp` is the dispatcher's, in Unix seconds; `block` is where the head was posted.
    """

    size: int
    root: str
    timestamp: int
    block: int


async def post_head(
    chain: Chain,
    deployment: Deployment,
    signer: Signer,
    head: TreeHeadClaim,
    *,
    signature: str,
    proof: Sequence[bytes],
) -> Receipt:
    """Post a signed head; `signer` pays the gas and may be anybody.

    `signature` is the dispatcher's (130 hex digits), `proof` the RFC 9162 consistency proof (32 bytes each) from the last
    anchored head, empty for the first. Raises `Reverted` for a head that does not continue the last one.
    """
    await chain.require_chain(deployment.chain_id)
    call = _anchor(chain, deployment).functions.post(
        head.dispatcher,
        head.size,
        bytes.fromhex(head.root),
        head.timestamp,
        parse_signature(signature),
        list(proof),
    )
    return await chain.send(call, signer)


async def latest_head(chain: Chain, deployment: Deployment, dispatcher: str) -> AnchoredHead | None:
    """Return a dispatcher's last anchored head, `None` where there is none."""
    size, root, timestamp, block = await chain.call(_anchor(chain, deployment).functions.latest(dispatcher))
    return AnchoredHead(size, root.hex(), timestamp, block) if block else None


async def heads(chain: Chain, deployment: Deployment, dispatcher: str) -> list[AnchoredHead]:
    """Return all anchored heads of a dispatcher, oldest first."""
    functions = _anchor(chain, deployment).functions
    count = await chain.call(functions.count(dispatcher))
    found = [await chain.call(functions.heads(dispatcher, index)) for index in range(count)]
    return [AnchoredHead(size, root.hex(), timestamp, block) for size, root, timestamp, block in found]


async def is_forked(chain: Chain, deployment: Deployment, dispatcher: str) -> bool:
    """Return whether two signed heads of one size and different roots were shown to the chain."""
    return bool(await chain.call(_anchor(chain, deployment).functions.forked(dispatcher)))


def _anchor(chain: Chain, deployment: Deployment) -> Any:  # noqa: ANN401 - web3 makes its functions from the ABI
    return chain.contract("Anchor", deployment.anchor)
