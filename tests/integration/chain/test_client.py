"""The chain's client on a real chain: reads, logs in ranges, and what it says when something is wrong."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from aos_chain.client import Chain
from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_chain.operators import register
from aos_protocol.identity import Signer
from support.anvil import CHAIN_ID, ETHER, Anvil
from support.network import Network
from support.rpc_proxy import RpcProxy

NOWHERE = "0x00000000000000000000000000000000000000AA"


async def test_reads_of_a_fresh_chain(anvil: Anvil, chain: Chain) -> None:
    signer = await anvil.signer(ether=7)
    await anvil.mine(3)

    assert await chain.chain_id() == CHAIN_ID
    assert await chain.block_number() == 3
    assert await chain.balance(signer.address) == 7 * ETHER
    assert await chain.next_nonce(signer.address) == 0
    assert await chain.block_hash(2) == (await anvil.rpc("eth_getBlockByNumber", "0x2", False))["hash"]
    assert await chain.timestamp(3) == int(
        (await anvil.rpc("eth_getBlockByNumber", "0x3", False))["timestamp"], 16
    )


async def test_a_block_that_is_not_there_has_no_hash(chain: Chain) -> None:
    assert await chain.block_hash(10**9) is None


async def test_another_chain_is_refused_by_its_id(chain: Chain) -> None:
    with pytest.raises(
        ChainError, match="serves chain 31337, and the contracts are on chain 1: name an RPC URL"
    ):
        await chain.require_chain(1)


async def test_an_address_without_a_contract_is_named(chain: Chain) -> None:
    with pytest.raises(ChainError, match=f"no contract is at {NOWHERE} on chain 31337"):
        await chain.require_contract(NOWHERE)


async def test_a_call_to_an_address_without_a_contract(chain: Chain) -> None:
    function = chain.function("OperatorRegistry", NOWHERE, "MAX_RANGE")
    with pytest.raises(ChainError, match="no contract of ours answers there: check its address"):
        await chain.call(function)


async def test_a_call_that_reverts_gives_the_contracts_reason(chain: Chain, network: Network) -> None:
    function = chain.function("OperatorRegistry", network.deployment.registry, "getOperatorsInRange", 600_000)
    with pytest.raises(Reverted, match=r"^the value is not below MAX_RANGE$"):
        await chain.call(function)


async def test_calls_read_earlier_blocks(anvil: Anvil, chain: Chain, network: Network) -> None:
    before = await chain.block_number()
    operator = await anvil.signer()
    await register(chain, network.deployment, operator, 0, 10)
    function = chain.function("OperatorRegistry", network.deployment.registry, "getNumOperators")

    assert await chain.call(function, before) == 0
    assert await chain.call(function) == 1


async def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(chain: Chain) -> None:
    with pytest.raises(ChainError, match="the arguments do not fit the contract"):
        chain.function("OperatorRegistry", NOWHERE, "updateOperatorRange", NOWHERE, -1, "x")


async def test_logs_are_read_in_ranges_and_in_order(
    anvil: Anvil,
    chain: Chain,
    proxy: RpcProxy,
    proxied: Chain,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aos_chain.client.LOGS_AT_ONCE", 50)  # anvil takes seconds to mine thousands
    registry = network.deployment.registry
    first, second = await anvil.signer(), await anvil.signer()
    await register(chain, network.deployment, first, 0, 10)
    await anvil.mine(60)
    await register(chain, network.deployment, second, 10, 20)

    head = await chain.block_number()
    found = await proxied.logs("OperatorRegistry", registry, network.deployment.block, head)

    assert [(event.name, event.arguments["operator"]) for event in found] == [
        ("OperatorRegistered", first.address),
        ("OperatorRegistered", second.address),
    ]
    assert found[1].block == head
    assert found[1].block_hash == await chain.block_hash(head)
    spans = [
        int(p[0]["toBlock"], 16) - int(p[0]["fromBlock"], 16) for m, p in proxy.asked if m == "eth_getLogs"
    ]
    assert len(spans) == 2
    assert max(spans) == 49


async def test_logs_of_other_events_are_not_asked_for(anvil: Anvil, chain: Chain, network: Network) -> None:
    operator = await anvil.signer()
    await register(chain, network.deployment, operator, 0, 10)
    read = chain.logs(
        "OperatorRegistry", network.deployment.registry, 0, await anvil.head(), ["OperatorLeft"]
    )
    assert await read == []


async def test_an_endpoint_that_grants_few_blocks_is_asked_for_fewer(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await register(chain, network.deployment, operator, 0, 10)
    await anvil.mine(100)

    async def strict(method: str, params: list[Any], forward: Any) -> Any:
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) > 9:
            return {"error": {"code": -32602, "message": "query exceeds max block range 10"}}
        return await forward()

    proxy.hook = strict
    found = await proxied.logs("OperatorRegistry", network.deployment.registry, 0, 106)
    assert [event.arguments["operator"] for event in found] == [operator.address]


async def test_an_endpoint_that_grants_no_logs_at_all_is_given_up(
    proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    async def refusing(method: str, _params: list[Any], forward: Any) -> Any:
        if method == "eth_getLogs":
            return {"error": {"code": -32601, "message": "eth_getLogs is not in your plan"}}
        return await forward()

    proxy.hook = refusing
    with pytest.raises(ChainError, match="does not offer this method"):
        await proxied.logs("OperatorRegistry", network.deployment.registry, 0, 10)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (401, ChainError, "refuses access .*check the key"),
        (403, ChainError, "refuses access .*check the key"),
        (429, ChainUnavailable, "busy or failing"),
        (502, ChainUnavailable, "busy or failing"),
        (404, ChainError, "does not speak JSON-RPC .*check the RPC URL"),
        (301, ChainError, "does not speak JSON-RPC .*check the RPC URL"),
        (200, ChainError, "does not speak JSON-RPC .*check the RPC URL"),
    ],
)
async def test_what_an_endpoint_answers_instead_of_json_rpc(
    proxy: RpcProxy, proxied: Chain, status: int, kind: type[ChainError], says: str
) -> None:
    async def page(*_: Any) -> web.Response:
        return web.Response(status=status, text="<html>", headers={"Location": "http://127.0.0.1:1/"})

    proxy.hook = page
    with pytest.raises(kind, match=says) as raised:
        await proxied.block_number()
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"code": -32005, "message": "limit exceeded"}, ChainUnavailable, "too busy"),
        ({"code": -32000, "message": "odd"}, ChainError, "the RPC endpoint refuses: odd"),
        ({"code": -32601, "message": "no such method"}, ChainError, "does not offer this method"),
    ],
)
async def test_errors_of_the_endpoint(
    proxy: RpcProxy, proxied: Chain, error: dict[str, Any], kind: type[ChainError], says: str
) -> None:
    async def failing(*_: Any) -> Any:
        return {"error": error}

    proxy.hook = failing
    with pytest.raises(kind, match=says) as raised:
        await proxied.block_number()
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    "result", ["banana", {}, [1], 7, True, None, {"hash": 5}, "0x", "0x" + "f" * 65, "-0x1"], ids=repr
)
async def test_results_that_are_none(proxy: RpcProxy, proxied: Chain, result: Any) -> None:
    async def odd(*_: Any) -> Any:
        return {"result": result}

    function = proxied.function("OperatorRegistry", NOWHERE, "operatorRanges", NOWHERE)
    proxy.hook = odd
    for reading in (
        proxied.block_number,
        proxied.timestamp,
        lambda: proxied.balance(NOWHERE),
        lambda: proxied.next_nonce(NOWHERE),
        lambda: proxied.logs("OperatorRegistry", NOWHERE, 0, 1),
        lambda: proxied.call(function),
    ):
        with pytest.raises(ChainError):
            await reading()
    if result is not None:
        with pytest.raises(ChainError, match="cannot be read: use another endpoint"):
            await proxied.block_hash(1)


async def test_an_answer_without_a_result_is_no_json_rpc(proxy: RpcProxy, proxied: Chain) -> None:
    async def empty(*_: Any) -> Any:
        return {}

    proxy.hook = empty
    with pytest.raises(ChainError, match="no JSON-RPC"):
        await proxied.block_number()


async def test_deeply_nested_json_is_no_answer(proxy: RpcProxy, proxied: Chain) -> None:
    async def nested(*_: Any) -> web.Response:
        return web.Response(text="[" * 5_000)

    proxy.hook = nested
    with pytest.raises(ChainError, match="does not speak JSON-RPC"):
        await proxied.block_number()


async def test_an_answer_without_end_is_cut_off(proxy: RpcProxy, proxied: Chain) -> None:
    async def endless(*_: Any) -> web.Response:
        return web.Response(body=b"[" + b" " * (16 << 20))

    proxy.hook = endless
    with pytest.raises(ChainError, match="more than 16 MiB: ask for less at once"):
        await proxied.block_number()


async def test_a_node_that_hangs_is_not_waited_for(anvil: Anvil) -> None:
    async with Chain.connect(anvil.url, timeout=0.2) as chain:
        anvil.pause()
        try:
            with pytest.raises(ChainUnavailable, match=r"gives no answer within 0\.2 s"):
                await chain.block_number()
        finally:
            anvil.resume()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await chain.block_number() == 0
                except ChainUnavailable:
                    continue
                break


async def test_a_node_that_is_gone_is_unavailable(anvil: Anvil, chain: Chain) -> None:
    await anvil.stop()
    with pytest.raises(ChainUnavailable, match="cannot be reached"):
        await chain.block_number()


async def test_a_cut_connection_is_unavailable_and_mends(proxy: RpcProxy, proxied: Chain) -> None:
    proxy.cut()
    with pytest.raises(ChainUnavailable, match="cannot be reached"):
        await proxied.block_number()
    proxy.mend()
    assert await proxied.block_number() == 0


async def test_no_message_shows_the_urls_secrets(proxy: RpcProxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    host = proxy.url.removeprefix("http://")
    async with Chain.connect(f"http://user:hunter2@{host}/v3/KEYKEYKEY?apikey=KEYKEYKEY") as chain:
        said = [repr(chain), chain.name]
        assert await chain.block_number() == 0
        proxy.cut()
        with pytest.raises(ChainUnavailable) as raised:
            await chain.block_number()
    # What the client says; the proxy of this test logs whatever it is asked.
    said += [str(raised.value), repr(raised.value), str(raised.value.__cause__)]
    said += [record.getMessage() for record in caplog.records if not record.name.startswith("aiohttp.")]
    assert not [text for text in said if "hunter2" in text or "KEYKEYKEY" in text]
    assert chain.name == proxy.url


async def test_no_message_shows_a_key(chain: Chain, network: Network) -> None:
    poor = Signer.generate()
    with pytest.raises(ChainError, match="send it ether") as raised:
        await register(chain, network.deployment, poor, 0, 1)
    assert poor.secret.hex() not in f"{raised.value}{raised.value!r}{raised.value.__cause__!r}"


async def test_a_closed_chain_opens_again(chain: Chain) -> None:
    await chain.block_number()
    await chain.close()
    assert await chain.block_number() == 0
