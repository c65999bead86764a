"""Heads of dispatchers' logs on the chain: posting them, and reading what was posted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aos_chain.client import Chain, ContractFunction
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


@dataclass(frozen=True)
class SignedHead:
    """A head of a log as its dispatcher signed it: 130 hex digits of EIP-712 signature."""

    head: TreeHeadClaim
    signature: str


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
    signed = head.dispatcher, head.size, bytes.fromhex(head.root), head.timestamp, parse_signature(signature)
    return await chain.send(_function(chain, deployment, "post", *signed, list(proof)), signer)


async def latest_head(chain: Chain, deployment: Deployment, dispatcher: str) -> AnchoredHead | None:
    """Return a dispatcher's last anchored head, `None` where there is none."""
    size, root, timestamp, block = await chain.call(_function(chain, deployment, "latest", dispatcher))
    return AnchoredHead(size, root.hex(), timestamp, block) if block else None


async def heads(chain: Chain, deployment: Deployment, dispatcher: str) -> list[AnchoredHead]:
    """Return all anchored heads of a dispatcher, oldest first."""
    count = await chain.call(_function(chain, deployment, "count", dispatcher))
    asked = (_function(chain, deployment, "heads", dispatcher, index) for index in range(count))
    found = [await chain.call(function) for function in asked]
    return [AnchoredHead(size, root.hex(), timestamp, block) for size, root, timestamp, block in found]


async def is_forked(chain: Chain, deployment: Deployment, dispatcher: str) -> bool:
    """Return whether two signed heads of one size and different roots were shown to the chain."""
    return bool(await chain.call(_function(chain, deployment, "forked", dispatcher)))


async def prove_fork(
    chain: Chain, deployment: Deployment, signer: Signer, first: SignedHead, second: SignedHead
) -> Receipt:
    """Show two heads of one dispatcher, of one size and with different roots: it can anchor nothing more.

    `signer` may be anybody. Raises `Reverted` for heads that show no fork.
    """
    await chain.require_chain(deployment.chain_id)
    shown = (
        part
        for signed in (first, second)
        for part in (
            bytes.fromhex(signed.head.root),
            signed.head.timestamp,
            parse_signature(signed.signature),
        )
    )
    call = _function(chain, deployment, "proveFork", first.head.dispatcher, first.head.size, *shown)
    return await chain.send(call, signer)


def _function(chain: Chain, deployment: Deployment, name: str, *arguments: Any) -> ContractFunction:  # noqa: ANN401
    return chain.function("Anchor", deployment.anchor, name, *arguments)
