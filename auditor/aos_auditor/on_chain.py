"""The checks that ask a chain: the registry at the block of a draw, and the anchor of the log.

| id | what holds when it passes |
| --- | --- |
| AOS-REGISTRY-1 | the registry that a round was drawn on is what the contract's events had made of it by that block, whose hash is the chain's |
| AOS-ANCHOR-2 | the contract took this head of this dispatcher's log in that block, and has seen no fork of it |

An endpoint that does not answer, or is of another chain, skips them: could not check is no failure.
"""

from collections.abc import Iterable

from aos_auditor.documents import Contracts
from aos_auditor.http import JsonObject
from aos_chain.client import Chain
from aos_chain.errors import ChainError
from aos_chain.follower import RegistryFollower
from aos_chain.registry import RegistryState
from aos_protocol.errors import InvalidEvidence
from aos_protocol.evidence import Check
from aos_protocol.evidence_document import Evidence, RegistryDocument
from aos_protocol.fields import parse_message
from aos_protocol.log import AnchorDocument


async def check_on_chain(rpc_url: str, document: JsonObject, known: Contracts | None) -> list[Check]:
    """Make the checks of whatever an evidence document says of a chain, at this RPC endpoint. Raises `ChainError` for a bad URL."""
    evidence = parse_message(Evidence, document)
    registries, anchor = _registries(evidence), evidence.log.anchor if evidence.log else None
    checks: list[Check] = []
    async with Chain.connect(rpc_url) as chain:
        if registries:
            checks.append(await _check_registries(chain, registries, known.block if known else 0))
        elif evidence.domain.chain_id or known:
            checks.append(Check("AOS-REGISTRY-1", "SKIP", "no round was drawn on a registry of the chain"))
        if anchor is not None:
            checks.append(await _check_anchor(chain, evidence.dispatcher.address, anchor))
        elif evidence.domain.chain_id or known:
            checks.append(Check("AOS-ANCHOR-2", "SKIP", "nothing of this log is anchored yet"))
    return checks


def _registries(evidence: Evidence) -> list[RegistryDocument]:
    """The registries of a chain that rounds were drawn on, each once."""
    found: list[RegistryDocument] = []
    for round_ in evidence.rounds:
        registry = round_.registry
        if registry is not None and registry.chain is not None and registry not in found:
            found.append(registry)
    return found


async def _check_registries(chain: Chain, registries: Iterable[RegistryDocument], deployed_at: int) -> Check:
    blocks = ", ".join(str(registry.chain.block) for registry in registries if registry.chain)
    what = f"the registry is the contract's after block {blocks}"
    try:
        for registry in registries:
            await _compare_registry(chain, registry, deployed_at)
    except InvalidEvidence as error:
        return Check("AOS-REGISTRY-1", "FAIL", f"{what}: {error}")
    except ChainError as error:
        return Check("AOS-REGISTRY-1", "SKIP", f"{what}: that could not be asked: {error}")
    return Check("AOS-REGISTRY-1", "PASS", f"{what}, on chain {await chain.chain_id()}")


async def _compare_registry(chain: Chain, document: RegistryDocument, deployed_at: int) -> None:
    where = document.chain
    if where is None:
        return
    await chain.require_chain(where.chain_id)
    if not await chain.code(where.registry):
        raise InvalidEvidence(f"no contract is at {where.registry}")
    found = await chain.block_hash(where.block)
    if found != f"0x{where.block_hash}":
        raise InvalidEvidence(
            f"block {where.block} of the chain has the hash {found}, not 0x{where.block_hash}"
        )
    state = await _state_after(chain, where.registry, where.block, deployed_at)
    ours = [(entry.operator, entry.number, entry.start, entry.end) for entry in state.entries]
    theirs = [(entry.operator, entry.number, entry.start, entry.end) for entry in document.operators]
    if ours != theirs:
        different = sorted({row[0] for row in set(ours) ^ set(theirs)})
        raise InvalidEvidence(f"after block {where.block} it has other entries for {', '.join(different)}")


async def _state_after(chain: Chain, registry: str, block: int, deployed_at: int) -> RegistryState:
    follower = RegistryFollower(
        chain, registry, deployed_at, confirmations=0, poll_interval=1.0, maximum_age=60.0
    )
    await follower.start()
    return await follower.state_at(block)


async def _check_anchor(chain: Chain, dispatcher: str, anchor: AnchorDocument) -> Check:
    what = f"contract {anchor.contract} took the head of {anchor.size} entries in block {anchor.block}"
    try:
        await compare_anchor(chain, dispatcher, anchor)
    except InvalidEvidence as error:
        return Check("AOS-ANCHOR-2", "FAIL", f"{what}: {error}")
    except ChainError as error:
        return Check("AOS-ANCHOR-2", "SKIP", f"{what}: that could not be asked: {error}")
    return Check("AOS-ANCHOR-2", "PASS", what)


async def compare_anchor(chain: Chain, dispatcher: str, anchor: AnchorDocument) -> None:
    """Raise `InvalidEvidence` unless the contract took this head in that block and knows of no fork. Raises `ChainError`."""
    await chain.require_chain(anchor.chain_id)
    if not await chain.code(anchor.contract):
        raise InvalidEvidence(f"no contract is at {anchor.contract}")
    posted = await chain.logs("Anchor", anchor.contract, anchor.block, anchor.block, ["Anchored"])
    heads = {
        (event.arguments["dispatcher"], event.arguments["size"], bytes(event.arguments["root"]).hex())
        for event in posted
    }
    if (dispatcher, anchor.size, anchor.root) not in heads:
        raise InvalidEvidence("that block has no such head of this dispatcher")
    if await chain.call(chain.function("Anchor", anchor.contract, "forked", dispatcher)):
        raise InvalidEvidence("the contract was shown two heads of one size: this dispatcher's log is forked")
