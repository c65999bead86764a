"""Transactions on a real chain: reverts, nonces, answers and receipts that get lost."""

import asyncio
from typing import Any

import pytest

from aos_chain.client import Chain
from aos_chain.errors import ChainError, ChainUnavailable, Reverted, Unconfirmed
from aos_chain.operators import register, update_range
from aos_chain.transactions import Receipt
from aos_protocol.identity import Signer
from support.anvil import ETHER, Anvil
from support.network import Network
from support.rpc_proxy import RpcProxy

WIDTH = 10


async def _send(chain: Chain, network: Network, signer: Signer, *, value: int = WIDTH * 10**12) -> Receipt:
    registry = network.deployment.registry
    call = chain.function("OperatorRegistry", registry, "registerOperator", signer.address, 0, WIDTH)
    return await chain.send(call, signer, value)


async def _again(chain: Chain, network: Network, signer: Signer) -> Receipt:
    """A transaction that succeeds as often as it is sent."""
    registry = network.deployment.registry
    call = chain.function("OperatorRegistry", registry, "updateOperatorRange", signer.address, 0, WIDTH)
    return await chain.send(call, signer)


async def _nonces(anvil: Anvil, address: str) -> list[int]:
    blocks = [
        await anvil.rpc("eth_getBlockByNumber", hex(number), True) for number in range(await anvil.head() + 1)
    ]
    return [
        int(sent["nonce"], 16)
        for block in blocks
        for sent in block["transactions"]
        if sent["from"] == address.lower()
    ]


async def test_a_receipt_tells_what_happened(anvil: Anvil, chain: Chain, network: Network) -> None:
    operator = await anvil.signer()
    receipt = await _send(chain, network, operator)

    assert receipt.block == await anvil.head()
    assert receipt.block_hash == await chain.block_hash(receipt.block)
    assert receipt.contract is None
    assert 100_000 < receipt.gas_used < 300_000
    [event] = chain.decode("OperatorRegistry", network.deployment.registry, receipt.logs)
    assert event.name == "OperatorRegistered"
    assert event.transaction == receipt.transaction
    assert event.arguments == {
        "operator": operator.address,
        "number": 2,
        "start": 0,
        "end": WIDTH,
        "bond": WIDTH * 10**12,
    }


async def test_a_transaction_is_of_type_2_and_from_its_signer(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    receipt = await _send(chain, network, operator)
    sent = await anvil.rpc("eth_getTransactionByHash", receipt.transaction)
    assert (sent["type"], sent["from"], int(sent["value"], 16)) == (
        "0x2",
        operator.address.lower(),
        WIDTH * 10**12,
    )


async def test_what_would_revert_is_not_sent(anvil: Anvil, chain: Chain, network: Network) -> None:
    operator = await anvil.signer()
    with pytest.raises(Reverted, match=r"^the bond does not cover the range$"):
        await _send(chain, network, operator, value=1)
    assert await chain.next_nonce(operator.address) == 0
    assert await chain.balance(operator.address) == 1000 * ETHER


async def test_what_reverts_in_its_block_gives_the_reason(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    """Both are fine when their gas is estimated, and one comes first."""
    first, second = await anvil.signer(), await anvil.signer()
    await anvil.automine(False)
    sending = [asyncio.create_task(_send(chain, network, signer)) for signer in (first, second)]
    await _pending(anvil, 2)
    await anvil.mine()

    results = await asyncio.gather(*sending, return_exceptions=True)
    [reverted] = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(reverted, Reverted)
    assert str(reverted) == "the range overlaps another one"


@pytest.mark.parametrize("pruned", [False, True])
async def test_what_runs_out_of_gas_in_its_block(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network, pruned: bool
) -> None:
    operator = await anvil.signer()

    async def stingy(method: str, _params: list[Any], forward: Any) -> Any:
        if method == "eth_estimateGas":
            return {"result": hex(30_000)}
        if method == "eth_call" and pruned:
            return {"error": {"code": -32000, "message": "missing trie node"}}
        return await forward()

    proxy.hook = stingy
    says = "reverted in block .*missing trie node" if pruned else "reverted or ran out of gas"
    with pytest.raises(Reverted, match=says):
        await _send(proxied, network, operator)
    assert await _nonces(anvil, operator.address) == [0]


async def test_concurrent_sends_of_one_signer_follow_each_other(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await _send(chain, network, operator)
    receipts = await asyncio.gather(*(_again(chain, network, operator) for _ in range(12)))

    assert len({receipt.transaction for receipt in receipts}) == 12
    assert await _nonces(anvil, operator.address) == list(range(13))


async def test_concurrent_sends_before_any_is_mined(anvil: Anvil, chain: Chain, network: Network) -> None:
    operator = await anvil.signer()
    await _send(chain, network, operator)
    await anvil.automine(False)
    sending = [asyncio.create_task(_again(chain, network, operator)) for _ in range(5)]
    await _pending(anvil, 5)
    await anvil.mine()

    assert len({receipt.block for receipt in await asyncio.gather(*sending)}) == 1
    assert await _nonces(anvil, operator.address) == list(range(6))


async def test_a_refused_send_uses_no_nonce(anvil: Anvil, chain: Chain, network: Network) -> None:
    operator = await anvil.signer()
    results = await asyncio.gather(
        _send(chain, network, operator, value=1), _send(chain, network, operator), return_exceptions=True
    )
    assert [type(result) for result in results] == [Reverted, Receipt]
    assert await _nonces(anvil, operator.address) == [0]


async def test_an_endpoint_that_forgets_what_waits_makes_no_nonce_used_twice(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await _send(chain, network, operator)

    async def forgetful(method: str, params: list[Any], forward: Any) -> Any:
        if method == "eth_getTransactionCount":
            params[1] = "latest"
        return await forward()

    proxy.hook = forgetful
    await anvil.automine(False)
    sending = [asyncio.create_task(_again(proxied, network, operator)) for _ in range(3)]
    await _pending(anvil, 3)
    await anvil.mine()
    await asyncio.gather(*sending)
    assert await _nonces(anvil, operator.address) == [0, 1, 2, 3]


async def test_another_program_with_the_same_key_takes_a_nonce(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    """Between reading the nonce and sending, the other one sends: the transaction gets a new number."""
    operator = await anvil.signer()
    await _send(chain, network, operator)
    interfered = False

    async def interfering(method: str, _params: list[Any], forward: Any) -> Any:
        nonlocal interfered
        if method == "eth_sendRawTransaction" and not interfered:
            interfered = True
            await _again(chain, network, operator)
        return await forward()

    proxy.hook = interfering
    await _again(proxied, network, operator)
    assert interfered
    assert await _nonces(anvil, operator.address) == [0, 1, 2]


async def test_a_key_that_others_use_all_the_time_is_given_up(
    anvil: Anvil, chain: Chain, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await _send(chain, network, operator)

    async def interfering(method: str, _params: list[Any], forward: Any) -> Any:
        if method == "eth_sendRawTransaction":
            await _again(chain, network, operator)
        return await forward()

    proxy.hook = interfering
    with pytest.raises(ChainError, match="give each program a key of its own"):
        await _again(proxied, network, operator)


@pytest.mark.parametrize("delivered", [True, False])
async def test_an_answer_to_sending_that_is_lost_loses_and_doubles_nothing(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network, delivered: bool
) -> None:
    """Whether the node got the transaction before the connection broke, or not."""
    operator = await anvil.signer()
    broken = False

    async def breaking(method: str, _params: list[Any], forward: Any) -> Any:
        nonlocal broken
        if method == "eth_sendRawTransaction" and not broken:
            broken = True
            if delivered:
                await forward()
            return None
        return await forward()

    proxy.hook = breaking
    receipt = await _send(proxied, network, operator)
    assert broken
    assert receipt.block == await anvil.head()
    assert await _nonces(anvil, operator.address) == [0]


async def test_receipts_that_get_lost_are_asked_for_again(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    lost = 0

    async def breaking(method: str, _params: list[Any], forward: Any) -> Any:
        nonlocal lost
        if method == "eth_getTransactionReceipt" and lost < 3:
            lost += 1
            return None if lost % 2 else {"error": {"code": -32000, "message": "header not found"}}
        return await forward()

    proxy.hook = breaking
    receipt = await _send(proxied, network, operator)
    assert lost == 3
    assert receipt.block == await anvil.head()


async def test_a_transaction_that_no_block_takes_is_named(anvil: Anvil, network: Network) -> None:
    operator = await anvil.signer()
    await anvil.automine(False)
    async with Chain.connect(anvil.url, receipt_timeout=0.3) as chain:
        with pytest.raises(Unconfirmed, match=r"it is in no block yet, after 0\.3 s; look it up") as raised:
            await _send(chain, network, operator)
    found = await anvil.rpc("eth_getTransactionByHash", raised.value.transaction)
    assert found["from"] == operator.address.lower()


async def test_an_outage_while_waiting_is_named(anvil: Anvil, proxy: RpcProxy, network: Network) -> None:
    operator = await anvil.signer()

    async def breaking(method: str, _params: list[Any], forward: Any) -> Any:
        return None if method == "eth_getTransactionReceipt" else await forward()

    proxy.hook = breaking
    async with Chain.connect(proxy.url, receipt_timeout=0.3) as chain:
        with pytest.raises(Unconfirmed, match="cannot be reached"):
            await _send(chain, network, operator)


async def test_an_outage_before_sending_sends_nothing(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await proxied.chain_id()
    proxy.cut()
    with pytest.raises(ChainUnavailable):
        await _send(proxied, network, operator)
    assert proxy.count("eth_sendRawTransaction") == 0


async def test_a_cancelled_send_leaves_the_next_one_its_turn(
    anvil: Anvil, chain: Chain, network: Network
) -> None:
    operator = await anvil.signer()
    await _send(chain, network, operator)
    await anvil.automine(False)
    waiting = asyncio.create_task(_again(chain, network, operator))
    await _pending(anvil, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await anvil.automine(True)
    await anvil.mine()

    await update_range(chain, network.deployment, operator, 0, 2 * WIDTH)
    assert await _nonces(anvil, operator.address) == [0, 1, 2]


async def test_a_chain_without_base_fee_is_refused(
    anvil: Anvil, proxy: RpcProxy, proxied: Chain, network: Network
) -> None:
    operator = await anvil.signer()

    async def old(method: str, _params: list[Any], forward: Any) -> Any:
        answer = await forward()
        if method == "eth_getBlockByNumber":
            del answer["result"]["baseFeePerGas"]
        return answer

    proxy.hook = old
    with pytest.raises(ChainError, match="no base fee"):
        await register(proxied, network.deployment, operator, 0, WIDTH)


async def _pending(anvil: Anvil, count: int) -> None:
    async with asyncio.timeout(10):
        while int((await anvil.rpc("txpool_status"))["pending"], 16) < count:
            await asyncio.sleep(0.01)
