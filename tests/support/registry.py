"""An OperatorRegistry on a chain of the tests, and short ways to use it."""

from typing import Any

from web3 import Web3
from web3.contract import Contract
from web3.types import TxReceipt

from support.evm import Evm

MAX_RANGE = 600_000
PER_SLOT = 10
DELAY = 3_600
NOBODY = "0x" + "00" * 20
# Which account of the tests may slash; the others are operators.
SLASHER = 9


def new_registry(evm: Evm) -> Contract:
    return evm.deploy("OperatorRegistry", evm.accounts[SLASHER], PER_SLOT, DELAY)


def join(
    evm: Evm, registry: Contract, number: int, start: int, end: int, bond: int | None = None
) -> TxReceipt:
    """Register account `number`, with just the bond that the range needs unless told."""
    value = (end - start) * PER_SLOT if bond is None else bond
    call = registry.functions.registerOperator(evm.accounts[number], start, end)
    return evm.send(call, sender=number, value=value)


def move(evm: Evm, registry: Contract, number: int, start: int, end: int, pay: int = 0) -> TxReceipt:
    call = registry.functions.updateOperatorRange(evm.accounts[number], start, end)
    return evm.send(call, sender=number, value=pay)


def read(registry: Contract, name: str, *arguments: Any) -> Any:
    return registry.functions[name](*arguments).call()


def events(registry: Contract, receipt: TxReceipt) -> list[tuple[str, dict[str, Any]]]:
    """The events of a transaction in order, by name and arguments."""
    known = [registry.events[entry["name"]]() for entry in registry.abi if entry["type"] == "event"]
    found = []
    for entry in receipt["logs"]:
        event = next(each for each in known if each.topic == Web3.to_hex(entry["topics"][0]))
        found.append((event.event_name, dict(event.process_log(entry)["args"])))
    return found
