"""The dispatcher's log on the chain: what is posted when, by whom, and what becomes of it when something goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, insert, select, update
from structlog.testing import capture_logs

from aos_chain.anchoring import heads, latest_head
from aos_chain.client import Chain
from aos_chain.errors import ChainError, Reverted
from aos_dispatcher.errors import LogDamaged
from aos_dispatcher.log_pending import record
from aos_dispatcher.tables import LogAnchor, LogHead
from aos_protocol.log_entries import operator_entry
from integration.chain.dispatching import ChainNetwork
from support.anvil import Anvil
from support.network import Network

NewDatabase = Callable[[str], Awaitable[str]]


@pytest_asyncio.fixture
async def net(
    new_database: NewDatabase, anvil: Anvil, chain: Chain, network: Network
) -> AsyncIterator[ChainNetwork]:
    """A dispatcher that anchors when the test says so."""
    signer = await anvil.signer()
    running = ChainNetwork(await new_database("dispatcher"), anvil, chain, network.deployment, signer)
    await running.start()
    yield running
    await running.stop()


async def happen(net: ChainNetwork, events: int = 1) -> None:
    """Let the log grow by so many entries."""
    async with net.dispatcher.database.begin() as connection:
        for number in range(events):
            record(connection, operator_entry(net.signer.address, number + 2))


async def stored(net: ChainNetwork) -> list[dict[str, Any]]:
    """What the dispatcher shows of its anchors."""
    answer = await net.client.get("/api/log/anchors")
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["result"]
    return found


async def on_chain(net: ChainNetwork) -> list[tuple[int, str, int]]:
    return [
        (head.size, head.root, head.block)
        for head in await heads(net.chain, net.deployment, net.signer.address)
    ]


async def agree(net: ChainNetwork) -> None:
    """What is stored is what the chain has."""
    rows = await stored(net)
    assert [(row["size"], row["root"], row["block"]) for row in rows] == await on_chain(net)
    for row in rows:
        [event] = await net.chain.logs("Anchor", net.deployment.anchor, row["block"], row["block"])
        assert event.transaction == row["transaction"]


async def test_an_empty_log_is_not_anchored(net: ChainNetwork) -> None:
    assert await net.anchor() is None
    assert await on_chain(net) == []


async def test_it_is_anchored_when_it_has_grown_and_only_then(net: ChainNetwork) -> None:
    sizes = []
    for events in (3, 1, 0, 4, 300):
        await happen(net, events)
        head = await net.anchor()
        assert (head is None) == (events == 0)
        sizes += [head.size] if head else []
    assert sizes == [3, 4, 8, 308]
    assert [size for size, _, _ in await on_chain(net)] == sizes
    await agree(net)


async def test_two_dispatchers_of_one_key_anchor_each_head_once(net: ChainNetwork) -> None:
    twin = ChainNetwork(
        net.settings.database.url.get_secret_value(), net.anvil, net.chain, net.deployment, net.signer
    )
    await twin.start()
    try:
        for _ in range(5):
            await happen(net)
            await net.dispatcher.sequencer.step()
            said = await asyncio.gather(*(one.anchoring().step() for one in (net, twin, net, twin)))
            assert len([head for head in said if head is not None]) == 1
    finally:
        await twin.stop()
    assert [size for size, _, _ in await on_chain(net)] == [1, 2, 3, 4, 5]
    await agree(net)


async def test_an_anchor_whose_receipt_was_lost_is_taken_up_from_the_chain(net: ChainNetwork) -> None:
    """As after a kill between posting and storing."""
    await happen(net)
    await net.anchor()
    async with net.dispatcher.database.begin() as connection:
        await connection.execute(delete(LogAnchor))
    assert await stored(net) == []
    assert await net.anchor() is None
    await agree(net)
    await happen(net)
    assert await net.anchor() is not None
    await agree(net)


async def test_one_that_a_reorganisation_undid_is_posted_again(net: ChainNetwork) -> None:
    await happen(net)
    await net.anchor()
    await happen(net)
    await net.anchor()
    await net.anvil.reorganise(1)
    last = await latest_head(net.chain, net.deployment, net.signer.address)
    assert last is not None
    assert last.size == 1
    with capture_logs() as logs:
        head = await net.anchor()
    assert head is not None
    assert head.size == 2
    assert [entry["log_level"] for entry in logs if "other anchors" in entry["event"]] == ["warning"]
    await agree(net)


async def test_a_chain_that_begins_anew_is_anchored_anew(net: ChainNetwork) -> None:
    """Rows of a chain that is gone do not keep the first head of another from being posted."""
    row = {"size": 9, "root": "ab" * 32, "block": 7, "transaction": "0x" + "cd" * 32}
    async with net.dispatcher.database.begin() as connection:
        await connection.execute(insert(LogAnchor).values(**row))
    await happen(net)
    assert await net.anchor() is not None
    await agree(net)


async def test_a_database_that_was_put_back_is_seen(net: ChainNetwork) -> None:
    """The log would go on in another way than the chain has it: this must not pass in silence."""
    await happen(net, 2)
    await net.anchor()
    async with net.dispatcher.database.begin() as connection:
        await connection.execute(update(LogHead).values(size=1))
    with pytest.raises(LogDamaged, match="put back to an older state"):
        await net.anchoring().step()


async def test_a_log_that_was_rewritten_cannot_be_anchored(net: ChainNetwork) -> None:
    """Its new head does not continue the one on the chain, whatever proof comes with it."""
    await happen(net, 2)
    await net.anchor()
    await happen(net, 2)
    await net.dispatcher.sequencer.step()
    async with net.dispatcher.database.begin() as connection:
        size = (await connection.execute(select(LogHead.size))).scalar_one()
        await connection.execute(update(LogHead).values(root="ab" * 32))
    assert size == 4
    with pytest.raises(Reverted):
        await net.anchoring().step()
    assert [size for size, _, _ in await on_chain(net)] == [2]


async def test_it_goes_on_by_itself_once_the_key_has_ether(
    new_database: NewDatabase, anvil: Anvil, chain: Chain, network: Network
) -> None:
    signer = await anvil.signer(ether=0)
    net = ChainNetwork(
        await new_database("dispatcher"), anvil, chain, network.deployment, signer, anchor_interval=0.05
    )
    await net.start()
    try:
        with capture_logs() as logs:
            await happen(net)
            async with asyncio.timeout(20):
                while not (failed := [entry for entry in logs if "is not anchored" in entry["event"]]):
                    await asyncio.sleep(0.02)
        assert "send it ether" in failed[0]["why"]
        assert (await net.client.get("/readyz")).status_code == 200
        await anvil.rpc("anvil_setBalance", signer.address, hex(10**18))
        async with asyncio.timeout(20):
            while not await stored(net):
                await asyncio.sleep(0.02)
        await agree(net)
        async with asyncio.timeout(20):  # it is counted once the row is there
            while 'aos_anchors_total{outcome="posted"}' not in (await net.client.get("/metrics")).text:
                await asyncio.sleep(0.02)
    finally:
        await net.stop()


async def test_an_event_that_is_missing_is_an_error_of_the_endpoint(
    net: ChainNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    await happen(net)
    await net.anchor()
    async with net.dispatcher.database.begin() as connection:
        await connection.execute(delete(LogAnchor))
    anchoring = net.anchoring()

    async def none(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(net.link.registry.chain, "logs", none)
    with pytest.raises(ChainError, match="has no event of the head of 1 entries"):
        await anchoring.step()
