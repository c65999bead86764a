"""What the registry and the anchors cost in gas, as Markdown tables, beside a look-up that walks through all operators.

Usage: PYTHONPATH=tests python benchmarks/gas_registry.py

Transactions on py-evm (Prague). `transaction` is all that is paid, refunds taken off; `execution` is that without the 21,000 and
the calldata (16 a byte, 4 a zero byte): what a look-up costs a contract that makes it, whose storage is cold in each of them.

Operators hold every second piece of the range, so that half of all values are nobody's. The other contract is
`contracts/LinearRanges.vy`, which has the shape of the original's OperatorRangeManager: it keeps no bonds, no history and no
numbers, and lets ranges overlap, so only its look-up can be compared.
"""

import json
import random
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from web3.contract import Contract
from web3.contract.contract import ContractFunction

from aos_protocol import merkle
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain
from support.anchor import Dispatcher, post
from support.evm import Evm
from support.registry import DELAY, MAX_RANGE, PER_SLOT

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (10, 100, 1_000)
LOOK_UPS = 40
# Sizes that logs reach.
SIZES = (2**10, 2**15, 2**20)
INTRINSIC = 21_000


@dataclass(frozen=True)
class Used:
    """Gas of one transaction: all of it, and what the code used."""

    transaction: int
    execution: int


class Network:
    """A registry and its linear neighbour, each with `count` operators."""

    def __init__(self, evm: Evm, linear_code: tuple[Any, str], count: int) -> None:
        self.evm, self.count = evm, count
        self.step = MAX_RANGE // (count + 1)
        self.registry = evm.deploy("OperatorRegistry", evm.accounts[-1], PER_SLOT, DELAY)
        abi, bytecode = linear_code
        created = evm.wait(evm.web3.eth.contract(abi=abi, bytecode=bytecode).constructor().transact())
        self.linear = evm.web3.eth.contract(address=created["contractAddress"], abi=abi)
        for number in range(count):
            start, end = self.piece(number)
            self.register(number)
            call = self.linear.functions.registerOperator(evm.accounts[number], start, end)
            evm.send(call)

    def piece(self, number: int) -> tuple[int, int]:
        """The first half of an operator's step."""
        return number * self.step, number * self.step + self.step // 2

    def register(self, number: int) -> Used:
        """Let an operator take its piece."""
        start, end = self.piece(number)
        call = self.registry.functions.registerOperator(self.evm.accounts[number], start, end)
        return used(self.evm, call, sender=number, value=(end - start) * PER_SLOT)

    def look_ups(self, contract: Contract) -> list[Used]:
        """The same values every time, over all of the range."""
        values = random.Random(self.count).sample(range(MAX_RANGE), LOOK_UPS)
        return [used(self.evm, contract.functions.getOperatorsInRange(value)) for value in values]

    def changes(self) -> Iterable[tuple[str, Used]]:
        """One of each, in an order in which they can be done, by an operator amid the others."""
        number = self.count // 2
        account = self.evm.accounts[number]
        _, end = self.piece(number)
        calls = self.registry.functions
        yield "registerOperator", self.register(self.count)
        yield (
            "updateOperatorRange, to the free piece beside",
            used(
                self.evm,
                calls.updateOperatorRange(account, end, end + self.step // 2),
                sender=number,
            ),
        )
        yield (
            "updateOperatorRange, one value less",
            used(
                self.evm,
                calls.updateOperatorRange(account, end, end + self.step // 2 - 1),
                sender=number,
            ),
        )
        yield "operatorRanges", used(self.evm, calls.operatorRanges(account))
        yield "leave", used(self.evm, calls.leave(), sender=number)
        self.evm.travel(DELAY + 1)
        yield "withdraw", used(self.evm, calls.withdraw(), sender=number)
        yield "registerOperator, of one who was there before", self.register(number)


def main() -> None:
    """Print the tables."""
    evm = Evm(max(COUNTS) + 2)
    code = linear_code()
    networks = [Network(evm, code, count) for count in COUNTS]
    print_look_ups(networks)
    print_changes(networks)
    print_anchors(evm)


def print_look_ups(networks: Sequence[Network]) -> None:
    """Look-ups by value, ours beside the linear one."""
    head = " | ".join(f"{network.count:,} operators" for network in networks)
    print(f"| getOperatorsInRange, execution gas, mean (max) of {LOOK_UPS} | {head} |")
    print("| --- |" + " ---: |" * len(networks))
    for name, of in (("OperatorRegistry", "registry"), ("LinearRanges", "linear")):
        cells = []
        for network in networks:
            gas = [each.execution for each in network.look_ups(getattr(network, of))]
            cells.append(f"{mean(gas):,.0f} ({max(gas):,})")
        print(f"| {name} | {' | '.join(cells)} |")


def print_changes(networks: Sequence[Network]) -> None:
    """What an operator does, by how many there are."""
    head = " | ".join(f"at {network.count:,}" for network in networks)
    print(f"\n| OperatorRegistry, transaction (execution) gas | {head} |")
    print("| --- |" + " ---: |" * len(networks))
    for row in zip(*(network.changes() for network in networks), strict=True):
        cells = " | ".join(f"{gas.transaction:,} ({gas.execution:,})" for _, gas in row)
        print(f"| {row[0][0]} | {cells} |")


def print_anchors(evm: Evm) -> None:
    """Heads posted one after the other: the first, one much later, and one that is one entry later."""
    registry = "0x" + "00" * 19 + "01"
    anchor = evm.deploy("Anchor", registry)
    dispatcher = Dispatcher(Signer(b"\x0c" * 32), Domain(int(evm.web3.eth.chain_id), registry))
    levels = [merkle.leaf_hash(b"an entry")]
    for _ in range(max(SIZES).bit_length()):
        levels.append(merkle.node_hash(levels[-1], levels[-1]))
    print(
        "\n| Anchor.post | nodes of proof | transaction gas | execution gas |\n| --- | ---: | ---: | ---: |"
    )
    # The one before a power of two is the size whose proof to the next is the longest.
    sizes = [0, *(size for power in SIZES for size in (power - 1_000, power - 1, power))]
    for first, size in pairwise(sizes):
        nodes = merkle.consistency_nodes(first, size) if first else []
        proof = [merkle.fold([levels[level] for level, _ in part]) for part in nodes]
        root = merkle.fold([levels[level] for level, _ in merkle.root_nodes(size)])
        gas = used(evm, post(anchor, dispatcher, size, root, 1_795_000_000 + size, proof))
        name = f"from {first:,} to {size:,} entries" if first else f"the first head, {size:,} entries"
        print(f"| {name} | {len(proof)} | {gas.transaction:,} | {gas.execution:,} |")
    gas = used(evm, fork(anchor, dispatcher))
    print(f"| proveFork | | {gas.transaction:,} | {gas.execution:,} |")


def fork(anchor: Contract, dispatcher: Dispatcher) -> ContractFunction:
    """The call that shows two heads of one size."""
    one, other = b"\x01" * 32, b"\x02" * 32
    return anchor.functions.proveFork(
        dispatcher.address, 5, one, 1, dispatcher.sign(5, one, 1), other, 1, dispatcher.sign(5, other, 1)
    )


def used(evm: Evm, call: ContractFunction, *, sender: int = 0, value: int = 0) -> Used:
    """Send a call, views too, and take its gas apart."""
    gas = evm.send(call, sender=sender, value=value)["gasUsed"]
    data = bytes.fromhex(call._encode_transaction_data()[2:])
    return Used(gas, gas - INTRINSIC - sum(16 if byte else 4 for byte in data))


def linear_code() -> tuple[Any, str]:
    """ABI and bytecode of the neighbour, by the compiler that `scripts/compile_contracts.sh` made."""
    compiler = ROOT / ".aos" / "vyper" / "bin" / "vyper"
    if not compiler.is_file():
        raise SystemExit(
            "No compiler for the neighbour's contract: run scripts/compile_contracts.sh --check once, which makes it."
        )
    source = ROOT / "benchmarks" / "contracts" / "LinearRanges.vy"
    command = [
        ROOT / ".aos" / "vyper" / "bin" / "vyper",
        "-f",
        "abi,bytecode",
        "--evm-version",
        "cancun",
        source,
    ]
    abi, bytecode = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[:2]
    return json.loads(abi), bytecode


if __name__ == "__main__":
    main()
