"""A chain in this process (py-evm) with our contracts on it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import TransactionFailed
from web3 import EthereumTesterProvider, Web3
from web3.contract import Contract
from web3.exceptions import ContractLogicError
from web3.types import TxReceipt

from aos_chain.artifacts import artifact

ETHER = 10**18
# For any call; three of them fit in a block.
GAS = 9_000_000


class Evm:
    """A fresh chain; `accounts` have ether, and transactions are sent from them by name of the address."""

    def __init__(self, accounts: int = 10) -> None:
        self.tester = EthereumTester(PyEVMBackend.from_mnemonic("test " * 11 + "junk", num_accounts=accounts))
        self.web3 = Web3(EthereumTesterProvider(self.tester))
        self.accounts: list[str] = list(self.web3.eth.accounts)

    def deploy(self, name: str, *arguments: Any, sender: int = 0) -> Contract:
        """Deploy a contract of ours from account number `sender`."""
        compiled = artifact(name)
        factory = self.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
        receipt = self.wait(factory.constructor(*arguments).transact({"from": self.accounts[sender]}))
        return self.web3.eth.contract(address=receipt["contractAddress"], abi=compiled.abi)

    def deploy_code(self, runtime: bytes) -> str:
        """Deploy code that no compiler made, and return its address."""
        # PUSH2 length, DUP1, PUSH1 offset of what follows, PUSH0, CODECOPY, PUSH0, RETURN.
        creation = bytes.fromhex(f"61{len(runtime):04x}80600a5f395ff3") + runtime
        sent = self.web3.eth.send_transaction({"from": self.accounts[0], "data": creation})
        return str(self.wait(sent)["contractAddress"])

    def send(self, call: Any, *, sender: int = 0, value: int = 0) -> TxReceipt:
        """Send a contract's call as a transaction, and return its receipt (`gasUsed`, `logs`).

        Past web3, which takes five times as long; a dry run gives the reason when it reverts.
        """
        terms = self._terms(call, self.accounts[sender], value)
        self.tester.call(terms, "pending")
        return self.wait(self.tester.send_transaction(terms))

    def words(self, call: Any) -> list[int]:
        """What a contract's call answers, as the 32-byte words that it comes in: quicker than to decode it."""
        answer = bytes.fromhex(self.tester.call(self._terms(call, self.accounts[0], 0))[2:])
        return [int.from_bytes(answer[at : at + 32], "big") for at in range(0, len(answer), 32)]

    def _terms(self, call: Any, sender: str, value: int) -> dict[str, Any]:
        data = call._encode_transaction_data()
        return {"from": sender, "to": call.address, "data": data, "value": value, "gas": GAS}

    def send_together(self, calls: Iterable[Any], *, sender: int = 0) -> list[TxReceipt]:
        """Send calls in this order in one block."""
        account = Web3.to_checksum_address(self.accounts[sender])
        nonce = self.web3.eth.get_transaction_count(account)
        # eth-tester's own way of putting off the mining takes one transaction of a sender only.
        sent = [
            self.tester._add_transaction_to_pending_block(
                {**self._terms(call, account, 0), "nonce": nonce + place}
            )
            for place, call in enumerate(calls)
        ]
        self.mine()
        return [self.wait(each) for each in sent]

    def wait(self, transaction: Any) -> TxReceipt:
        """Return a transaction's receipt; one that was mined but reverted raises TransactionFailed, as one that is refused."""
        receipt = self.web3.eth.wait_for_transaction_receipt(transaction)
        if receipt["status"] == 0:
            raise TransactionFailed("reverted")
        return receipt

    def mine(self, blocks: int = 1) -> None:
        self.tester.mine_blocks(blocks)

    def travel(self, seconds: int) -> None:
        """Let the next block be this much later."""
        self.tester.time_travel(self.now() + seconds)

    def now(self) -> int:
        """The time of the latest block, in seconds."""
        return int(self.web3.eth.get_block("latest")["timestamp"])

    def balance(self, address: str) -> int:
        return int(self.web3.eth.get_balance(Web3.to_checksum_address(address)))

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Take back on leaving whatever the block does."""
        snapshot = self.tester.take_snapshot()
        try:
            yield
        finally:
            self.tester.revert_to_snapshot(snapshot)


@contextmanager
def reverts(reason: str | None = None) -> Iterator[None]:
    """Expect a contract's refusal that gives this reason (a part of it); none for what reverts without words."""
    with pytest.raises((ContractLogicError, TransactionFailed), match=reason):
        yield
