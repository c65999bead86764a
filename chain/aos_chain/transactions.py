"""Transactions: numbered, signed, sent, and waited for, whatever the connection does meanwhile.

1. One signer's transactions take turns until they are sent, so that their nonces follow each other.
2. A transaction's hash is known before it is sent. An answer that is lost thus loses nothing: it is sent again, the very
   same, until its receipt is there.
3. What would revert is seen by the gas estimate and never sent.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final, cast

from eth_hash.auto import keccak

from aos_chain.answers import Asking, hash32, quantity
from aos_chain.errors import ChainError, ChainUnavailable, Reverted, Unconfirmed
from aos_chain.logs import Log, read_log
from aos_chain.translation import translated
from aos_protocol.identity import Signer, checksum_address, recursion_limit_kept

with recursion_limit_kept():
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from web3 import AsyncWeb3

_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 2.0
_SEND_AGAIN_S: Final = 15.0
"""After this long without a receipt the node may have dropped the transaction."""
_TRIES: Final = 3
_SPARE_GAS: Final = 50_000
"""Two new words of storage: a change that was estimated within the block of an earlier one may need them in the next block."""
_KNOWN: Final = ("already known", "already imported", "known transaction")
_NONCE_TAKEN: Final = ("nonce too low", "replacement transaction underpriced")


@dataclass(frozen=True)
class Receipt:
    """A transaction in a block: its hash and the block's (0x and 64 digits), the gas it took, the contract it created, its logs."""

    transaction: str
    block: int
    block_hash: str
    gas_used: int
    contract: str | None
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class _Signed:
    raw: bytes
    hash: str
    nonce: int
    request: dict[str, Any]


class _NonceTaken(Exception):
    """Somebody else who has this key sent a transaction at the same time."""


class Sender:
    """Sends transactions of any number of signers; a receipt may take `receipt_timeout` seconds."""

    def __init__(self, web3: AsyncWeb3[Any], receipt_timeout: float) -> None:
        self._eth = web3.eth
        self._ask = Asking(web3)
        self._receipt_timeout = receipt_timeout
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outstanding: defaultdict[str, set[int]] = defaultdict(set)

    async def send(self, chain_id: int, signer: Signer, to: str | None, data: bytes, value: int) -> Receipt:
        """Send a call, or without `to` create a contract; see `Chain.send`."""
        request: dict[str, Any] = {"from": signer.address, "data": "0x" + data.hex(), "value": value}
        if to is not None:
            request["to"] = to
        outstanding = self._outstanding[signer.address]
        async with self._turns[signer.address]:
            signed, arrived = await self._started(chain_id, signer, request)
            outstanding.add(signed.nonce)
        try:
            receipt, succeeded = await self._receipt(signed, arrived)
        finally:
            outstanding.discard(signed.nonce)
        if not succeeded:
            raise await self._reverted(signed, receipt)
        return receipt

    async def _started(self, chain_id: int, signer: Signer, request: dict[str, Any]) -> tuple[_Signed, bool]:
        """Sign and send for the first time; tells whether the node has it for certain."""
        for _ in range(_TRIES):
            signed = await self._signed(chain_id, signer, request)
            try:
                return signed, await self._broadcast(signed)
            except _NonceTaken:
                continue
        raise ChainError(
            f"other programs send transactions of {signer.address} all the time: give each program a key of its own"
        )

    async def _signed(self, chain_id: int, signer: Signer, request: dict[str, Any]) -> _Signed:
        with translated("estimating gas"):
            gas = await self._eth.estimate_gas(cast("Any", request))
        base = await self._ask("reading fees", "eth_getBlockByNumber", "latest", False, read=_base_fee)
        tip = await self._ask("reading fees", "eth_maxPriorityFeePerGas", read=quantity)
        if base is None:
            raise ChainError("the chain has no base fee (EIP-1559): use a chain that has")
        transaction = {
            "type": 2,
            "chainId": chain_id,
            "nonce": await self.next_nonce(signer.address),
            "gas": gas * 5 // 4 + _SPARE_GAS,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": 2 * base + tip,
            "value": request["value"],
            "data": request["data"],
            "to": request.get("to", b""),
        }
        raw = _sign(transaction, signer)
        return _Signed(raw, "0x" + keccak(raw).hex(), transaction["nonce"], request)

    async def next_nonce(self, address: str) -> int:
        """Return the number of an account's next transaction."""
        what = "reading the next nonce"
        count = await self._ask(what, "eth_getTransactionCount", address, "pending", read=quantity)
        return max(count, *(nonce + 1 for nonce in self._outstanding[address]), 0)

    async def _broadcast(self, signed: _Signed) -> bool:
        """Send; False where it is not known whether the node got it."""
        try:
            sent = "0x" + signed.raw.hex()
            await self._ask("sending a transaction", "eth_sendRawTransaction", sent, read=hash32)
        except ChainUnavailable:
            return False
        except ChainError as error:
            said = str(error).lower()
            if any(text in said for text in _KNOWN):
                return True
            if any(text in said for text in _NONCE_TAKEN):
                raise _NonceTaken from error
            raise
        return True

    async def _receipt(self, signed: _Signed, arrived: bool) -> tuple[Receipt, bool]:
        clock = asyncio.get_running_loop().time
        deadline, again, delay = clock() + self._receipt_timeout, clock() + _SEND_AGAIN_S, _FIRST_DELAY_S
        trouble = "it is in no block yet"
        while clock() < deadline:
            try:
                if (receipt := await self._look_up(signed.hash)) is not None:
                    return receipt
                if not arrived or clock() > again:
                    arrived, again = await self._broadcast(signed), clock() + _SEND_AGAIN_S
            except _NonceTaken:
                trouble = "its nonce is used: it was mined just now, or another transaction was"
            except ChainError as error:
                trouble = str(error)
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, _LONGEST_DELAY_S)
        raise Unconfirmed(signed.hash, f"{trouble}, after {self._receipt_timeout:g} s")

    async def _look_up(self, transaction: str) -> tuple[Receipt, bool] | None:
        """The receipt, and whether the transaction succeeded; `None` while it is in no block."""
        return await self._ask("reading a receipt", "eth_getTransactionReceipt", transaction, read=_read)

    async def _reverted(self, signed: _Signed, receipt: Receipt) -> ChainError:
        try:
            with translated("asking why a transaction reverted"):
                await self._eth.call(cast("Any", signed.request), receipt.block)
        except Reverted as why:
            return why
        except ChainError as error:
            return Reverted(f"transaction {signed.hash} reverted in block {receipt.block} ({error})")
        return Reverted(
            f"transaction {signed.hash} reverted or ran out of gas, as the state changed before its block: try again"
        )


def _sign(transaction: dict[str, Any], signer: Signer) -> bytes:
    # The digest is keccak-256 over prefixed data (EIP-2718's type), as the signer's key demands.
    digest = TypedTransaction.from_dict(transaction).hash()
    signature = signer._sign_digest(digest)
    parts = {
        "r": int.from_bytes(signature[:32], "big"),
        "s": int.from_bytes(signature[32:64], "big"),
        "v": signature[64] - 27,
    }
    return bytes(TypedTransaction.from_dict(transaction | parts).encode())


def _base_fee(block: Any) -> int | None:  # noqa: ANN401 - JSON
    return quantity(block["baseFeePerGas"]) if "baseFeePerGas" in block else None


def _read(receipt: Any) -> tuple[Receipt, bool] | None:  # noqa: ANN401 - JSON
    if receipt is None:
        return None
    created = receipt.get("contractAddress")
    found = Receipt(
        transaction=hash32(receipt["transactionHash"]),
        block=quantity(receipt["blockNumber"]),
        block_hash=hash32(receipt["blockHash"]),
        gas_used=quantity(receipt["gasUsed"]),
        contract=checksum_address(created) if created else None,
        logs=tuple(read_log(log) for log in receipt["logs"]),
    )
    return found, quantity(receipt["status"]) == 1
