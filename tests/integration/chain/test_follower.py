"""The registry's follower on a real chain: confirmations, changes, outages, endpoints that lag, reorganisations."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_chain.client import Chain
from aos_chain.errors import ChainError, ChainUnavailable
from aos_chain.follower import RegistryFollower
from aos_chain.operators import leave, register, update_range
from aos_chain.registry import RegistryState
from aos_protocol.identity import Signer
from integration.chain.conftest import Clock
from support.anvil import Anvil
from support.network import Network
from support.rpc_proxy import RpcProxy

CONFIRMATIONS = 3


def _follower(chain: Chain, network: Network, *, confirmations: int = CONFIRMATIONS) -> RegistryFollower:
    deployed = network.deployment
    return RegistryFollower(
        chain,
        deployed.registry,
        deployed.block,
        confirmations=confirmations,
        poll_interval=0.01,
        maximum_age=60.0,
    )


@asynccontextmanager
async def _running(follower: RegistryFollower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def _polls(proxy: RpcProxy, count: int = 3) -> None:
    """Wait until the follower has begun, and so also ended, some polls from now on."""
    before = proxy.count("eth_blockNumber")
    await _until(lambda: proxy.count("eth_blockNumber") > before + count)


async def _operators(anvil: Anvil, chain: Chain, network: Network, count: int) -> list[Signer]:
    """As many operators with ranges of 100 slots."""
    signers = [await anvil.signer() for _ in range(count)]
    for index, signer in enumerate(signers):
        await register(chain, network.deployment, signer, index * 100, (index + 1) * 100)
    return signers


def _ranges(state: RegistryState) -> dict[str, tuple[int, int]]:
    return {entry.operator: (entry.start, entry.end) for entry in state.entries}


# Reading


async def test_the_first_reading_counts_what_is_confirmed(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    confirmed, late = await _operators(anvil, chain, network, 2)
    await anvil.mine(CONFIRMATIONS - 1)
    follower = _follower(chain, network)

    state = await follower.start()

    assert _ranges(state) == {confirmed.address: (0, 100)}
    assert state.block == await anvil.head() - CONFIRMATIONS
    assert state.block_hash == await chain.block_hash(state.block)
    assert (state.chain_id, state.registry) == (31337, network.deployment.registry)
    assert state.range_of(late.address) == (0, 0)
    assert follower.state is state is follower.check()
    assert 0 <= follower.age < 20


async def test_before_the_first_reading_there_is_no_state(chain: Chain, network: Network) -> None:
    follower = _follower(chain, network)
    assert follower.age == float("inf")
    with pytest.raises(ChainUnavailable, match="start"):
        follower.check()


async def test_a_registry_that_is_not_confirmed_yet_is_empty(chain: Chain, network: Network) -> None:
    state = await _follower(chain, network, confirmations=50).start()
    assert (state.block, state.entries) == (0, ())


async def test_an_address_without_a_contract(chain: Chain) -> None:
    follower = RegistryFollower(
        chain, "0x" + "00" * 19 + "aa", 0, confirmations=0, poll_interval=1, maximum_age=1
    )
    with pytest.raises(ChainError, match="no contract is at 0x00000000000000000000000000000000000000AA"):
        await follower.start()


async def test_an_address_of_another_contract(chain: Chain, network: Network) -> None:
    follower = RegistryFollower(
        chain, network.deployment.anchor, 0, confirmations=0, poll_interval=1, maximum_age=1
    )
    with pytest.raises(
        ChainError, match=f"{network.deployment.anchor} is no OperatorRegistry: correct its address"
    ):
        await follower.start()


async def test_a_first_reading_without_a_chain_fails(
    proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    proxy.cut()
    with pytest.raises(ChainUnavailable, match="cannot be reached"):
        await _follower(proxied, network).start()


async def test_a_long_history_is_read_in_ranges(
    anvil: Anvil,
    chain: Chain,
    proxy: RpcProxy,
    proxied: Chain,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aos_chain.client.LOGS_AT_ONCE", 50)
    [early] = await _operators(anvil, chain, network, 1)
    await anvil.mine(100)
    late = await anvil.signer()
    await register(chain, network.deployment, late, 500, 600)

    state = await _follower(proxied, network, confirmations=0).start()

    assert _ranges(state) == {early.address: (0, 100), late.address: (500, 600)}
    assert proxy.count("eth_getLogs") == 3


# Following


async def test_changes_are_followed_and_told(anvil: Anvil, chain: Chain, network: Network) -> None:
    first, second = await _operators(anvil, chain, network, 2)
    follower = _follower(chain, network, confirmations=0)
    told: list[RegistryState] = []
    follower.on_change(told.append)
    await follower.start()
    async with _running(follower):
        await update_range(chain, network.deployment, first, 1000, 1200)
        await _until(lambda: follower.state.range_of(first.address) == (1000, 1200))
        await leave(chain, network.deployment, second)
        await _until(lambda: follower.state.number_of(second.address) is None)
        await register(chain, network.deployment, second, 0, 7)
        await _until(lambda: follower.state.range_of(second.address) == (0, 7))
        await anvil.mine(2)
        block = await anvil.head()
        await _until(lambda: follower.state.block == block)

    assert [_ranges(state) for state in told] == [
        {first.address: (0, 100), second.address: (100, 200)},
        {first.address: (1000, 1200), second.address: (100, 200)},
        {first.address: (1000, 1200)},
        {first.address: (1000, 1200), second.address: (0, 7)},
    ]
    assert [entry.number for entry in told[-1].entries] == [2, 3]


async def test_a_change_counts_with_its_confirmations_only(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, chain: Chain, network: Network
) -> None:
    follower = _follower(proxied, network)
    await follower.start()
    async with _running(follower):
        [operator] = await _operators(anvil, chain, network, 1)
        await anvil.mine(CONFIRMATIONS - 1)
        await _polls(proxy)
        assert follower.state.entries == ()
        await anvil.mine()
        await _until(lambda: follower.state.number_of(operator.address) == 2)


async def test_every_state_is_what_the_contract_remembers(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    """Some operators join, move and leave at random: after each block the fold gives the contract's own ranges."""
    chance = random.Random(5)
    signers = [await anvil.signer() for _ in range(4)]
    lanes = {signer.address: index * 1000 for index, signer in enumerate(signers)}
    placed: set[str] = set()
    for _ in range(40):
        signer = chance.choice(signers)
        start = lanes[signer.address] + chance.randrange(500)
        end = start + chance.randrange(1, 500)
        if signer.address not in placed:
            await register(chain, network.deployment, signer, start, end)
            placed.add(signer.address)
        elif chance.random() < 0.4:
            await leave(chain, network.deployment, signer)
            placed.remove(signer.address)
        else:
            await update_range(chain, network.deployment, signer, start, end)
    follower = _follower(chain, network, confirmations=0)
    await follower.start()

    for block in range(network.deployment.block, await anvil.head() + 1):
        state = await follower.state_at(block)
        for signer in signers:
            asked = chain.function(
                "OperatorRegistry", network.deployment.registry, "rangeAt", signer.address, block
            )
            assert state.range_of(signer.address) == tuple(await chain.call(asked)), block


# Earlier and later blocks


async def test_states_of_earlier_blocks(anvil: Anvil, chain: Chain, network: Network) -> None:
    first, second = await _operators(anvil, chain, network, 2)
    head = await anvil.head()
    follower = _follower(chain, network, confirmations=0)
    await follower.start()

    before = await follower.state_at(head - 1)
    assert _ranges(before) == {first.address: (0, 100)}
    assert (before.block, before.block_hash) == (head - 1, await chain.block_hash(head - 1))
    assert (await follower.state_at(network.deployment.block)).entries == ()
    assert second.address in _ranges(await follower.state_at(head))
    assert follower.state.block == head


async def test_the_state_of_a_newer_block_is_read_at_once(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    follower = _follower(chain, network, confirmations=0)
    await follower.start()
    [operator] = await _operators(anvil, chain, network, 1)
    assert _ranges(await follower.state_at(await anvil.head())) == {operator.address: (0, 100)}


async def test_a_block_without_its_confirmations_has_no_state_yet(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    follower = _follower(chain, network)
    await follower.start()
    head = await anvil.head()
    with pytest.raises(ChainUnavailable, match=f"block {head} has not 3 confirmations yet .*try again"):
        await follower.state_at(head)


async def test_known_states_need_no_chain(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    follower = _follower(proxied, network, confirmations=0)
    await follower.start()
    known = follower.state
    await _operators(anvil, chain, network, 1)
    await follower.state_at(await anvil.head())
    proxy.cut()

    assert await follower.state_at(known.block) == known
    with pytest.raises(ChainUnavailable):
        await follower.state_at(known.block - 1)


# Outages


async def test_an_outage_leaves_the_last_state_with_its_age(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    [first] = await _operators(anvil, chain, network, 1)
    follower = _follower(proxied, network, confirmations=0)
    known = await follower.start()
    with capture_logs() as logs:
        async with _running(follower):
            proxy.cut()
            await _polls(proxy)
            age = follower.age
            second = await anvil.signer()
            await register(chain, network.deployment, second, 300, 400)
            await _polls(proxy)
            assert follower.state is known is follower.check()
            assert follower.age > age > 0

            proxy.mend()
            await _until(lambda: follower.state.range_of(second.address) == (300, 400))
            assert follower.state.range_of(first.address) == (0, 100)
            assert follower.age < age + 5

    said = [(entry["log_level"], entry["event"]) for entry in logs]
    assert said[0] == (
        "warning",
        "the registry cannot be read: the last known state stays in use until it is too old",
    )
    assert "cannot be reached" in logs[0]["reason"]
    assert said.count(said[0]) == 1, "one line for one outage"
    assert ("info", "the registry is read again") in said


async def test_a_node_that_hangs_is_an_outage(anvil: Anvil, network: Network) -> None:
    async with Chain.connect(anvil.url, timeout=0.2) as impatient:
        follower = _follower(impatient, network, confirmations=0)
        while True:  # on a busy machine it may take too long even where it does not hang
            with suppress(ChainUnavailable):
                known = await follower.start()
                break
        with capture_logs() as logs:
            async with _running(follower):
                anvil.pause()
                try:
                    await _until(lambda: bool(logs) and logs[-1]["log_level"] == "warning")
                    assert follower.check() is known
                finally:
                    anvil.resume()
                age = follower.age
                await _until(lambda: follower.age < age)
        assert "gives no answer within 0.2 s" in logs[0]["reason"]


async def test_a_state_that_is_too_old_is_refused(
    proxy: RpcProxy, proxied: Chain, network: Network, clock: Clock
) -> None:
    follower = _follower(proxied, network)
    await follower.start()
    async with _running(follower):
        proxy.cut()
        await _polls(proxy)
        follower.check()
        clock.forward(60)
        with pytest.raises(
            ChainUnavailable, match=r"s old, more than the 60 s allowed: see that http"
        ) as raised:
            follower.check()
        assert "cannot be reached" in str(raised.value)
        assert follower.state.block >= 0, "it can be looked at all the same"
        proxy.mend()
        await _until(lambda: follower.age < 60)
        follower.check()


async def test_an_endpoint_that_refuses_is_an_outage_too(
    proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    follower = _follower(proxied, network)
    known = await follower.start()

    async def refusing(*_: Any) -> Any:
        return {"error": {"code": -32000, "message": "project suspended"}}

    async with _running(follower):
        proxy.hook = refusing
        await _polls(proxy)
        assert follower.state is known
        proxy.mend()
        age = follower.age
        await _until(lambda: follower.age < age)


# Endpoints that lag


async def test_an_older_head_moves_nothing_backwards(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    [operator] = await _operators(anvil, chain, network, 1)
    follower = _follower(proxied, network, confirmations=0)
    known = await follower.start()

    async def older(method: str, _params: list[Any], forward: Any) -> Any:
        return {"result": hex(known.block - 1)} if method == "eth_blockNumber" else await forward()

    async with _running(follower):
        proxy.hook = older
        await _polls(proxy)
        assert follower.state is known
        assert follower.state.number_of(operator.address) == 2


async def test_a_node_without_the_last_block_grows_old(
    proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    follower = _follower(proxied, network, confirmations=0)
    known = await follower.start()

    async def behind(method: str, params: list[Any], forward: Any) -> Any:
        if method == "eth_blockNumber":
            return {"result": hex(known.block - 1)}
        if method == "eth_getBlockByNumber" and int(params[0], 16) >= known.block:
            return {"result": None}
        return await forward()

    proxy.hook = behind
    with capture_logs() as logs:
        async with _running(follower):
            age = follower.age
            await _polls(proxy)
            assert follower.state is known
            assert follower.age > age
    assert "lags behind" in logs[0]["reason"]


async def test_an_answer_that_leaves_out_known_events_is_not_used(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    [operator] = await _operators(anvil, chain, network, 1)
    follower = _follower(proxied, network, confirmations=0)
    known = await follower.start()

    async def forgetful(method: str, _params: list[Any], forward: Any) -> Any:
        return {"result": []} if method == "eth_getLogs" else await forward()

    proxy.hook = forgetful
    async with _running(follower):
        await anvil.mine()
        await _polls(proxy)
        assert follower.state is known
        proxy.mend()
        await _until(lambda: follower.state.block > known.block)
        assert follower.state.number_of(operator.address) == 2


async def test_events_that_an_earlier_answer_left_out_are_taken(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    [operator] = await _operators(anvil, chain, network, 1)

    async def forgetful(method: str, _params: list[Any], forward: Any) -> Any:
        return {"result": []} if method == "eth_getLogs" else await forward()

    proxy.hook = forgetful
    follower = _follower(proxied, network, confirmations=0)
    wrong = await follower.start()
    assert wrong.entries == ()
    proxy.mend()
    with capture_logs() as logs:
        async with _running(follower):
            await anvil.mine()
            await _until(lambda: follower.state.number_of(operator.address) == 2)
    assert "left out events" in logs[0]["event"]
    assert (await follower.state_at(wrong.block)).number_of(operator.address) == 2


async def test_events_that_contradict_each_other_are_not_used(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    [operator] = await _operators(anvil, chain, network, 1)
    await leave(chain, network.deployment, operator)

    async def half(method: str, _params: list[Any], forward: Any) -> Any:
        answer = await forward()
        return {"result": answer["result"][1:]} if method == "eth_getLogs" else answer

    proxy.hook = half
    with pytest.raises(ChainError, match=r"OperatorLeft .* comes without a range: events are missing"):
        await _follower(proxied, network, confirmations=0).start()


async def test_a_block_that_is_replaced_while_it_is_read_is_read_again(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    await _operators(anvil, chain, network, 1)

    async def replacing(method: str, _params: list[Any], forward: Any) -> Any:
        answer = await forward()
        if method == "eth_getLogs":
            proxy.mend()
            await anvil.reorganise(1)
        return answer

    proxy.hook = replacing
    follower = _follower(proxied, network, confirmations=0)
    with pytest.raises(ChainUnavailable, match="was replaced while the registry was read"):
        await follower.start()
    assert (await follower.start()).entries == ()


# Reorganisations


@pytest.mark.parametrize("depth", [1, CONFIRMATIONS])
async def test_a_reorganisation_within_the_confirmations_changes_nothing(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network, depth: int
) -> None:
    [operator] = await _operators(anvil, chain, network, 1)
    await anvil.mine(CONFIRMATIONS)
    follower = _follower(proxied, network)
    known = await follower.start()
    with capture_logs() as logs:
        async with _running(follower):
            await anvil.reorganise(depth)
            await _polls(proxy)
            assert follower.state is known
            await anvil.mine(5)
            await _until(lambda: follower.state.block == known.block + 5)
    assert follower.state.number_of(operator.address) == 2
    assert logs == []


@pytest.mark.parametrize("shorter", [False, True], ids=["as long", "shorter for a while"])
async def test_a_deeper_reorganisation_is_read_again(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network, shorter: bool
) -> None:
    [kept] = await _operators(anvil, chain, network, 1)
    snapshot = await anvil.rpc("evm_snapshot")
    undone = await anvil.signer()
    await register(chain, network.deployment, undone, 300, 400)
    await update_range(chain, network.deployment, kept, 0, 50)
    await anvil.mine(CONFIRMATIONS)
    follower = _follower(proxied, network)
    told: list[RegistryState] = []
    await follower.start()
    follower.on_change(told.append)
    wrong = follower.state
    assert _ranges(wrong) == {kept.address: (0, 50), undone.address: (300, 400)}

    with capture_logs() as logs:
        async with _running(follower):
            if shorter:
                await anvil.rpc("evm_revert", snapshot)
                await _polls(proxy)
                assert follower.state is wrong, "nothing contradicts it yet"
                await anvil.mine(CONFIRMATIONS + 4)
            else:
                await anvil.reorganise(CONFIRMATIONS + 2)
            confirmed = await anvil.head() - CONFIRMATIONS
            await _until(lambda: follower.state is not wrong and follower.state.block == confirmed)

    assert _ranges(follower.state) == {kept.address: (0, 100)}
    assert told[-1].entries == follower.state.entries
    assert wrong not in told
    warning = next(entry for entry in logs if "reorganised" in entry["event"])
    assert warning["log_level"] == "warning"
    assert (warning["block"], warning["confirmations"]) == (wrong.block, CONFIRMATIONS)
    again = await follower.state_at(wrong.block)
    assert again.block_hash == await chain.block_hash(wrong.block) != wrong.block_hash


async def test_a_registry_that_a_reorganisation_removed_is_named(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, chain: Chain, network: Network, clock: Clock
) -> None:
    await _operators(anvil, chain, network, 1)
    follower = _follower(proxied, network, confirmations=0)
    known = await follower.start()
    async with _running(follower):
        await anvil.reorganise(await anvil.head())
        await _polls(proxy)
        clock.forward(61)
        with pytest.raises(ChainUnavailable, match="no contract is at"):
            follower.check()
        assert follower.state is known


async def test_many_askers_of_earlier_states_do_not_disturb_the_polls(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    await _operators(anvil, chain, network, 3)
    head = await anvil.head()
    follower = _follower(chain, network, confirmations=0)
    await follower.start()
    async with _running(follower):
        states = await asyncio.gather(*(follower.state_at(block) for block in range(head + 1)))
    assert [state.block for state in states] == list(range(head + 1))
    assert [len(state.entries) for state in states] == sorted(len(state.entries) for state in states)
