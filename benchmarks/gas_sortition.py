"""What it costs to verify a VRF proof on chain, as a Markdown table beside a published figure for the same curve.

Usage: python benchmarks/gas_sortition.py

Every proof is verified once in a transaction on py-evm (Prague). A transaction pays 21,000, its calldata (16 a byte,
4 a zero byte) and the execution; another contract that calls `verify` pays the execution, and its own copying.
Besides the published vectors there are proofs on inputs as long as AOS tickets have them.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha512
from pathlib import Path
from typing import Any

from eth_tester import EthereumTester, PyEVMBackend
from web3 import EthereumTesterProvider, Web3
from web3.contract import Contract

from aos_chain.artifacts import artifact
from aos_chain.hints import coordinates, hints
from aos_protocol import vrf
from aos_protocol.identity import Signer

VECTORS = Path(__file__).parents[2] / "shared" / "vectors" / "vrf" / "atikayda_secp256k1_rfc9381.json"
MAX_ALPHA = 256
TICKETS = 100
INTRINSIC = 21_000
# README of witnet/vrf-solidity 0.2.3, "Benchmark": eth-gas-reporter over 94 transactions, Solc 0.6.12, 200 runs.
WITNET = (106_360, 150_715, 352_838)

Proof = tuple[bytes, bytes, bytes]


@dataclass(frozen=True)
class Used:
    """Gas of one verification: the whole transaction, and what is left without 21,000 and calldata."""

    transaction: int
    execution: int


def main() -> None:
    """Print the table."""
    measure = _measure()
    published = [_read(vector) for vector in json.loads(VECTORS.read_text("utf-8"))["vectors"]]
    fitting = [proof for proof in published if len(proof[1]) <= MAX_ALPHA]
    print("| gas | proofs | min | mean | max |\n| --- | ---: | ---: | ---: | ---: |")
    for name, proofs in (("published vectors", fitting), ("tickets, 96 bytes of input", _tickets())):
        used = [measure(proof) for proof in proofs]
        _row(f"{name}: transaction", len(used), _spread(one.transaction for one in used))
        _row(f"{name}: execution alone", len(used), _spread(one.execution for one in used))
    _row("witnet/vrf-solidity `fastVerify`, as its README has it: transaction", 94, WITNET)
    print(
        f"\n{len(published) - len(fitting)} of {len(published)} vectors is left out: its input has more than {MAX_ALPHA} bytes."
    )


def _read(vector: dict[str, Any]) -> Proof:
    key, alpha, proof = (bytes.fromhex(vector[field]) for field in ("pk", "alpha", "pi"))
    return key, alpha, proof


def _tickets() -> list[Proof]:
    """Proofs on inputs as long as a seed and a prompt's SHA-512; the same at every run, so that runs compare."""
    signers = [Signer(number.to_bytes(32, "big")) for number in range(1, TICKETS + 1)]
    alphas = [sha512(signer.public_key).digest() + signer.public_key[1:] for signer in signers]
    return [
        (signer.public_key, alpha, vrf.prove(signer, alpha))
        for signer, alpha in zip(signers, alphas, strict=True)
    ]


def _measure() -> Callable[[Proof], Used]:
    """Deploy the contracts, and return what measures one proof."""
    web3 = Web3(EthereumTesterProvider(EthereumTester(PyEVMBackend())))
    account = web3.eth.accounts[0]

    def deploy(name: str, *arguments: object) -> Contract:
        compiled = artifact(name)
        factory = web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
        sent = factory.constructor(*arguments).transact({"from": account})
        address = web3.eth.wait_for_transaction_receipt(sent)["contractAddress"]
        return web3.eth.contract(address=address, abi=compiled.abi)

    sortition = deploy("Sortition", deploy("OperatorRegistry", account, 1, 1).address)

    def measure(shown: Proof) -> Used:
        key, alpha, proof = shown
        call = sortition.functions.verify(coordinates(key), alpha, proof, hints(key, alpha, proof).abi())
        if not call.call()[0]:
            raise ValueError(f"the contract refuses the proof {proof.hex()}; is its artefact stale?")
        sent = call.transact({"from": account})
        used = web3.eth.wait_for_transaction_receipt(sent)["gasUsed"]
        calldata = web3.eth.get_transaction(sent)["input"]
        return Used(used, used - INTRINSIC - sum(16 if byte else 4 for byte in calldata))

    return measure


def _spread(numbers: Iterable[int]) -> tuple[int, int, int]:
    ordered = sorted(numbers)
    return ordered[0], round(sum(ordered) / len(ordered)), ordered[-1]


def _row(name: str, count: int, spread: tuple[int, int, int]) -> None:
    print(f"| {name} | {count} |", " | ".join(f"{number:,}" for number in spread), "|")


if __name__ == "__main__":
    main()
