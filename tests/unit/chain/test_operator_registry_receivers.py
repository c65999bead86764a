"""Who withdraws or slashes may be a contract, and turn on the registry."""

from typing import Any

import pytest
from web3 import Web3
from web3.contract import Contract

from support.evm import Evm, reverts
from support.registry import DELAY, PER_SLOT, join, new_registry, read

# An account with code: called with an address and data it passes the data on (and the ether), and hands back what comes.
FORWARD = bytes.fromhex("601436038060145f375f5f915f345f3560601c5af13d5f5f3e")
# What it does with plain ether that it gets.
REFUSE = bytes.fromhex("5f5ffd")
ACCEPT = bytes.fromhex("00")


def agent(evm: Evm, on_ether: bytes) -> str:
    """Deploy an account with code that runs `on_ether` when ether comes without data."""
    start = 4 + len(on_ether)
    tail = start + 1 + len(FORWARD)
    end = bytes.fromhex(f"60{tail + 6:02x}573d5ffd5b3d5ff3")
    return evm.deploy_code(bytes.fromhex(f"3660{start:02x}57") + on_ether + b"\x5b" + FORWARD + end)


def calls_back(data: bytes) -> bytes:
    """For `on_ether`: call whoever pays, with four bytes of data, and take the ether whether that works or not."""
    return bytes.fromhex(f"63{data.hex()}5f525f5f6004601c5f335af15000")


def through(evm: Evm, account: str, call: Any, value: int = 0) -> None:
    """Let an account with code make a call."""
    data = bytes.fromhex(call.address[2:]) + bytes.fromhex(call._encode_transaction_data()[2:])
    evm.wait(
        evm.web3.eth.send_transaction(
            {"from": evm.accounts[0], "to": account, "data": data, "value": value, "gas": 1_000_000}
        )
    )


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm()


@pytest.fixture
def registry(evm: Evm) -> Contract:
    return new_registry(evm)


def test_a_receiver_that_refuses_keeps_its_bond_here(evm: Evm, registry: Contract) -> None:
    refusing = agent(evm, REFUSE)
    through(evm, refusing, registry.functions.registerOperator(refusing, 0, 100), value=1_000)
    join(evm, registry, 0, 100, 200)
    through(evm, refusing, registry.functions.leave())
    evm.travel(DELAY + 1)
    with reverts():
        through(evm, refusing, registry.functions.withdraw())
    assert read(registry, "bondOf", refusing) == 1_000
    assert read(registry, "leavesAt", refusing) > 0
    assert evm.balance(registry.address) == 2_000


def test_a_receiver_that_comes_back_is_paid_once(evm: Evm, registry: Contract) -> None:
    selector = Web3.keccak(text="withdraw()")[:4]
    greedy = agent(evm, calls_back(selector))
    through(evm, greedy, registry.functions.registerOperator(greedy, 0, 100), value=1_000)
    join(evm, registry, 0, 100, 200)
    through(evm, greedy, registry.functions.leave())
    evm.travel(DELAY + 1)
    through(evm, greedy, registry.functions.withdraw())
    assert evm.balance(greedy) == 1_000 == evm.balance(registry.address)


def test_a_receiver_may_use_more_gas_than_a_stipend(evm: Evm, registry: Contract) -> None:
    # SSTORE of the time it was paid at: 22,100 gas.
    storing = agent(evm, bytes.fromhex("425f5500"))
    through(evm, storing, registry.functions.registerOperator(storing, 0, 100), value=1_000)
    through(evm, storing, registry.functions.leave())
    evm.travel(DELAY + 1)
    through(evm, storing, registry.functions.withdraw())
    assert evm.balance(storing) == 1_000


def test_a_slasher_that_refuses_takes_nothing(evm: Evm) -> None:
    refusing, accepting = agent(evm, REFUSE), agent(evm, ACCEPT)
    operator = evm.accounts[0]
    for slasher in (refusing, accepting):
        registry = evm.deploy("OperatorRegistry", slasher, PER_SLOT, DELAY)
        join(evm, registry, 0, 100, 200)
        if slasher == refusing:
            with reverts():
                through(evm, slasher, registry.functions.slash(operator, 300))
        else:
            through(evm, slasher, registry.functions.slash(operator, 300))
        left = 1_000 if slasher == refusing else 700
        assert evm.balance(registry.address) == left == read(registry, "bondOf", operator)
        assert (read(registry, "operatorRanges", operator) == [100, 200]) == (slasher == refusing)
