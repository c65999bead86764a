"""Registry and anchor of a job's evidence, asked of a real chain."""

import copy
from pathlib import Path
from typing import Any

import httpx
import pytest

from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.documents import Contracts, Known, check_document
from aos_auditor.following import Follower
from aos_auditor.memory import Memory
from aos_auditor.monitor import look
from aos_auditor.on_chain import check_on_chain
from aos_chain.anchoring import SignedHead, prove_fork
from aos_chain.client import Chain
from aos_chain.operators import leave
from aos_protocol.evidence import Check
from aos_protocol.log_entries import operator_entry
from aos_protocol.typed_data import TreeHeadClaim
from support.anvil import Anvil
from support.audited_chain import OnChain
from support.evidence import DISPATCHER, signed_head
from support.logged_dispatcher import LoggedDispatcher, standing
from support.network import Network


async def asked(on_chain: OnChain, document: Any = None) -> dict[str, Check]:
    deployment = on_chain.network.deployment
    known = Contracts(deployment.chain_id, deployment.registry, deployment.anchor, deployment.block)
    checks = await check_on_chain(on_chain.anvil.url, document or on_chain.document, known)
    return {check.id: check for check in checks}


def bent(on_chain: OnChain, path: str, value: Any) -> Any:
    """The evidence with another value at a path."""
    document = copy.deepcopy(on_chain.document)
    where = document
    *way, last = path.split(".")
    for step in way:
        where = where[int(step) if step.isdigit() else step]
    where[last] = value
    return document


async def test_evidence_of_a_real_chain_passes_also_after_changes(on_chain: OnChain) -> None:
    deployment = on_chain.network.deployment
    known = Known(
        DISPATCHER.address, None, None, None,
        Contracts(deployment.chain_id, deployment.registry, deployment.anchor, deployment.block),
    )  # fmt: skip
    assert {check.status for check in check_document(on_chain.document, known)} == {"PASS"}
    passed = {"AOS-REGISTRY-1": "PASS", "AOS-ANCHOR-2": "PASS"}
    assert {name: check.status for name, check in (await asked(on_chain)).items()} == passed
    await leave(on_chain.chain, deployment, on_chain.crew[0].signer)
    await on_chain.anvil.mine(3)
    assert {name: check.status for name, check in (await asked(on_chain)).items()} == passed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rounds.0.registry.chain.block_hash", "0" * 64),
        ("rounds.0.registry.chain.block", 1),
        ("rounds.0.registry.chain.block", 10**6),
        ("rounds.0.registry.chain.registry", DISPATCHER.address),
        ("rounds.0.registry.operators.0.end", 100),
        ("rounds.0.registry.operators.0.number", 9),
        ("rounds.0.registry.operators.0.operator", DISPATCHER.address),
    ],
)
async def test_a_registry_that_is_not_the_contract_s_is_found(
    on_chain: OnChain, path: str, value: Any
) -> None:
    checks = await asked(on_chain, bent(on_chain, path, value))
    assert (checks["AOS-REGISTRY-1"].status, checks["AOS-ANCHOR-2"].status) == ("FAIL", "PASS")


async def test_an_operator_that_is_left_out_is_found(on_chain: OnChain) -> None:
    operators = on_chain.document["rounds"][0]["registry"]["operators"]
    check = (await asked(on_chain, bent(on_chain, "rounds.0.registry.operators", operators[1:])))[
        "AOS-REGISTRY-1"
    ]
    assert check.status == "FAIL"
    assert operators[0]["operator"] in check.what


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("log.anchor.block", 2),
        ("log.anchor.size", 10),
        ("log.anchor.root", "0" * 64),
        ("log.anchor.contract", DISPATCHER.address),
        ("dispatcher.address", "0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    ],
)
async def test_an_anchor_that_the_contract_has_not_is_found(on_chain: OnChain, path: str, value: Any) -> None:
    checks = await asked(on_chain, bent(on_chain, path, value))
    assert (checks["AOS-REGISTRY-1"].status, checks["AOS-ANCHOR-2"].status) == ("PASS", "FAIL")


async def test_a_fork_that_the_contract_was_shown_is_found(on_chain: OnChain) -> None:
    deployment = on_chain.network.deployment
    heads = []
    for text in (b"one", b"two"):
        head = signed_head([text], deployment.domain)
        claim = TreeHeadClaim(DISPATCHER.address, head["size"], head["root"], head["timestamp"])
        heads.append(SignedHead(claim, head["signature"]))
    await prove_fork(on_chain.chain, deployment, on_chain.network.deployer, heads[0], heads[1])
    check = (await asked(on_chain))["AOS-ANCHOR-2"]
    assert check.status == "FAIL"
    assert "is forked" in check.what


async def test_another_chain_or_none_skips(on_chain: OnChain) -> None:
    other = bent(on_chain, "rounds.0.registry.chain.chain_id", 1)
    other["log"]["anchor"]["chain_id"] = 1
    assert {check.status for check in (await asked(on_chain, other)).values()} == {"SKIP"}
    await on_chain.anvil.stop()
    checks = await asked(on_chain)
    assert {check.status for check in checks.values()} == {"SKIP"}
    assert all("could not be asked" in check.what for check in checks.values())


async def watched(on_chain: OnChain, shown: LoggedDispatcher, folder: Path) -> Check:
    deployment = on_chain.network.deployment
    known = Known(
        contracts=Contracts(deployment.chain_id, deployment.registry, deployment.anchor, deployment.block)
    )
    api = DispatcherApi("http://shown", transport=httpx.MockTransport(shown.handle))
    checks = await look(Follower(api, Memory(), known, folder), on_chain.anvil.url)
    assert [check.id for check in checks if check.status == "FAIL"][:-1] == []
    return checks[-1]


async def test_a_monitor_holds_the_contract_s_head_against_the_log(on_chain: OnChain, tmp_path: Path) -> None:
    shown = LoggedDispatcher(operators=2, domain=on_chain.network.deployment.domain)
    check = await watched(on_chain, shown, tmp_path)
    assert (check.id, check.status) == ("AOS-ANCHOR-3", "FAIL"), "what is anchored is another log"
    await on_chain.anvil.stop()
    assert (await watched(on_chain, shown, tmp_path)).status == "SKIP"


async def test_a_monitor_finds_its_log_on_the_chain(
    network: Network, chain: Chain, anvil: Anvil, tmp_path: Path
) -> None:
    on_chain = OnChain(anvil, chain, network, [], {}, {})
    shown = LoggedDispatcher(operators=2, domain=network.deployment.domain)
    assert (await watched(on_chain, shown, tmp_path)).what.endswith("has no head of this dispatcher yet")
    await on_chain.post([entry.encode() for entry in shown.entries], [])
    shown.entries.append(operator_entry(DISPATCHER.address, 70))
    shown.operators.append({"operator": DISPATCHER.address, "number": 70})
    shown.standings[DISPATCHER.address] = standing(shown.crew[0]) | shown.operators[-1]
    assert (await watched(on_chain, shown, tmp_path)).status == "PASS"
    shown.instead["log/consistency"] = lambda _: 404
    assert (await watched(on_chain, shown, tmp_path)).status == "FAIL"
