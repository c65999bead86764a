"""`aos chain` on a real chain: what each command does there, and what it says when it cannot."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import pytest_asyncio

from aos_chain.client import Chain
from aos_chain.deployment import Deployment, read_deployment, write_deployment
from aos_cli import chain_anchor
from aos_protocol.identity import Signer
from aos_protocol.log import TreeHead
from support.anvil import ETHER, Anvil
from support.chain_commands import ChainCommands
from support.evidence import DISPATCHER, signed_head
from support.network import Network
from unit.cli.fake import FakeLog


@pytest_asyncio.fixture
async def commands(tmp_path: Path, anvil: Anvil, network: Network) -> ChainCommands:
    """Commands that know where the network's contracts are."""
    made = ChainCommands(tmp_path, anvil.url)
    write_deployment(made.deployment, network.deployment)
    return made


async def test_a_network_is_deployed_and_described(tmp_path: Path, anvil: Anvil) -> None:
    commands, signer = ChainCommands(tmp_path, anvil.url), await anvil.signer()
    terms = [
        "--bond-per-slot",
        "0.00002",
        "--challenge-bond",
        "0.5",
        "--leave-delay",
        "2d",
        "--answer-window",
        "90",
    ]
    shown = json.loads(await commands.aos("deploy", *terms, key=signer))
    assert shown == asdict(read_deployment(commands.deployment))
    assert (shown["chain_id"], shown["block"]) == (31337, 1)
    found = await commands.json()
    assert found["terms"] == {
        "bond_per_slot": 2 * 10**13,
        "leave_delay": 2 * 86_400,
        "challenge_bond": ETHER // 2,
        "answer_window": 90,
        "vote_window": 86_400,
        "max_age": 50_400,
    }
    assert (found["operators"], found["free"], found["anchors"], found["challenges"]) == (
        [],
        [[0, 600_000]],
        [],
        [],
    )
    assert "is not overwritten" in await commands.fails("deploy", key=signer)


async def test_an_operator_joins_moves_leaves_and_is_paid(commands: ChainCommands, anvil: Anvil) -> None:
    operator = await anvil.signer()
    joined = await commands.aos("register", "--width", "60000", key=operator)
    assert joined == f"{operator.address} has [0, 60000), 10.00% of the range; 0.06 ETH of bond paid\n"
    moved = await commands.aos("update", "--start", "500000", "--end", "600000", key=operator)
    assert moved == f"{operator.address} has [500000, 600000), 16.67% of the range; 0.04 ETH of bond paid\n"
    [row] = (await commands.json())["operators"]
    assert row == {
        "operator": operator.address, "number": 2, "start": 500_000, "end": 600_000, "bond": ETHER // 10, "locks": 0,
    }  # fmt: skip
    assert "leave first; aos chain leave gives up" in await commands.fails("withdraw", key=operator)
    left = await commands.aos("leave", key=operator)
    assert re.fullmatch(
        rf"{operator.address} has no range any more; its bond can be withdrawn in (1 h|5\d min \d+ s)\n", left
    )
    early = await commands.fails("withdraw", key=operator)
    assert (
        early
        == "the contract refuses: the leave delay is not over; aos chain status ADDRESS shows when it is"
    )
    await anvil.travel(3600)
    assert ", to be withdrawn now: aos chain withdraw" in await commands.aos("status", operator.address)
    assert await commands.aos("withdraw", key=operator) == f"0.1 ETH paid to {operator.address}\n"
    found = await commands.json(operator.address)
    assert (found["bond"], found["end"], found["withdrawable_in"]) == (0, 0, None)


async def test_ranges_that_cannot_be_had(commands: ChainCommands, anvil: Anvil) -> None:
    first, second = await anvil.signer(), await anvil.signer()
    await commands.aos("register", "--start", "100000", "--end", "300000", key=first)
    taken = await commands.fails("register", "--start", "250000", "--end", "350000", key=second)
    assert taken == (
        f"[250000, 350000) is taken: [100000, 300000) is that of {first.address}; free: [0, 100000), [300000, 600000)"
    )
    wide = await commands.fails("register", "--width", "300001", key=second)
    assert wide.startswith("no gap has 300001 slots: free: [0, 100000), [300000, 600000)")
    twice = await commands.fails("register", "--width", "1", key=first)
    assert twice == f"{first.address} is registered, with [100000, 300000): aos chain update moves it"
    unknown = await commands.fails("update", "--width", "1", key=second)
    assert unknown == f"{second.address} is not registered: aos chain register does that"
    unheard = await commands.fails("leave", key=second)
    assert unheard == "the contract refuses: not registered; register first: aos chain register --width SLOTS"
    assert "was never registered" in await commands.fails("status", second.address)
    assert "there is no challenge 7" in await commands.fails("status", "7")
    # Its own range is not in its way.
    assert "[0, 300000)" in await commands.aos("update", "--start", "0", "--end", "300000", key=first)


async def test_who_cannot_pay_is_told_what_is_missing(commands: ChainCommands, anvil: Anvil) -> None:
    poor = await anvil.signer(ether=0)
    said = await commands.fails("register", "--width", "600000", key=poor)
    assert (
        said
        == f"{poor.address} has 0 ETH on chain 31337, and needs 0.6 ETH of bond, and gas: send it ether first"
    )
    assert "and needs gas: send it ether first" in await commands.fails("leave", key=poor)


async def test_a_chain_that_is_another_or_none(
    commands: ChainCommands, anvil: Anvil, network: Network
) -> None:
    known = network.deployment
    empty = Deployment(known.chain_id, *["0x" + "12" * 20] * 4, known.block)  # type: ignore[arg-type]
    write_deployment(commands.deployment, empty)
    assert "no contract is at 0x1212121212121212121212121212121212121212" in await commands.fails("status")
    write_deployment(commands.deployment, Deployment(**(asdict(known) | {"chain_id": 1})))
    assert "serves chain 31337, and the contracts are on chain 1" in await commands.fails("status")
    write_deployment(commands.deployment, known)
    await anvil.stop()
    away = await commands.fails("status")
    assert "cannot be reached" in away
    assert away.endswith("start the node, or name another with --rpc URL")


def head_of(leaves: int, network: Network) -> TreeHead:
    return TreeHead(**signed_head([b"%d" % n for n in range(leaves)], network.deployment.domain))


async def test_anybody_anchors_a_dispatcher_s_log(
    commands: ChainCommands, anvil: Anvil, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, log = await anvil.signer(), FakeLog(head_of(5, network))
    monkeypatch.setattr(chain_anchor, "DispatcherClient", log.client)
    where = ["--dispatcher", "http://127.0.0.1:9", "--dispatcher-address", DISPATCHER.address]
    said = await commands.aos("anchor", *where, key=monitor)
    assert said.startswith(f"5 entries of the log of {DISPATCHER.address} are anchored in block ")
    assert "are anchored already" in await commands.aos("anchor", *where, key=monitor)
    log.head = head_of(9, network)
    log.leaves = [b"%d" % n for n in range(9)]
    assert "9 entries" in await commands.aos("anchor", *where, key=monitor)
    [anchor] = (await commands.json())["anchors"]
    assert (anchor["dispatcher"], anchor["size"], anchor["root"]) == (DISPATCHER.address, 9, log.head.root)
    assert f"log of {DISPATCHER.address}: 9 entries anchored in block" in await commands.aos("status")
    log.head = head_of(3, network)
    assert "the chain knows of 9: the dispatcher hides entries, or lost them" in await commands.fails(
        "anchor", *where, key=monitor
    )
    other = ["--dispatcher", "http://127.0.0.1:9", "--dispatcher-address", monitor.address]
    assert "is not to be anchored: the log's head is signed by" in await commands.fails(
        "anchor", *other, key=monitor
    )


async def test_the_contract_has_the_last_word(
    commands: ChainCommands, anvil: Anvil, chain: Chain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another one does between our look and our transaction is refused by the contract, and told."""
    first, second = await anvil.signer(), Signer(b"\x77" * 32)
    await anvil.rpc("anvil_setBalance", second.address, hex(ETHER))
    await commands.aos("register", "--width", "1000", key=first)
    from aos_chain.registry import RegistryState
    from aos_cli import chain_registry

    async def stale(_chain: Chain, deployment: Deployment) -> RegistryState:
        return RegistryState(31337, deployment.registry, 1, "0x" + "0" * 64, ())

    monkeypatch.setattr(chain_registry, "registry_state", stale)
    said = await commands.fails("register", "--width", "1000", key=second)
    assert (
        said
        == "the contract refuses: the range overlaps another one; aos chain status shows which gaps are free"
    )
