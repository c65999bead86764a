"""An EVM chain behind one RPC endpoint: reads, logs and transactions, in our terms and with our errors.

Importing this module imports web3 (0.7 s of computing): import it before an event loop runs.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

from aos_chain.answers import Asking, data, hash32, quantity
from aos_chain.artifacts import artifact
from aos_chain.endpoint import Endpoint
from aos_chain.errors import ChainError, ChainUnavailable
from aos_chain.logs import Event, Log, decode_logs, read_log, topics_of
from aos_chain.translation import translated
from aos_protocol.identity import Signer, checksum_address, recursion_limit_kept

with recursion_limit_kept():
    from eth_typing import ChecksumAddress
    from hexbytes import HexBytes
    from web3 import AsyncWeb3
    from web3.contract import AsyncContract
    from web3.contract.async_contract import AsyncContractConstructor, AsyncContractFunction

from aos_chain.transactions import Receipt, Sender

ContractFunction: TypeAlias = AsyncContractFunction
ContractCall: TypeAlias = AsyncContractFunction | AsyncContractConstructor
Block: TypeAlias = int | str
"""A block's number, or "latest"."""

LOGS_AT_ONCE: Final = 2_000
"""Blocks in one request for logs: what public endpoints grant."""

_LOGS_A_STEP: Final = 500


class Chain:
    """An EVM chain; `connect` makes one, `close` (or `async with`) ends its connections.

    Every method raises `ChainUnavailable` where another try may succeed, `ChainError` where it is of no use.
    """

    def __init__(self, endpoint: Endpoint, receipt_timeout: float) -> None:
        self._endpoint = endpoint
        self._web3: AsyncWeb3[Any] = AsyncWeb3(endpoint, middleware=[])
        self._ask = Asking(self._web3)
        self._sender = Sender(self._web3, receipt_timeout)
        self._contracts: dict[tuple[str, str], AsyncContract] = {}
        self._chain_id: int | None = None

    @classmethod
    def connect(cls, rpc_url: str, timeout: float = 10.0, *, receipt_timeout: float = 120.0) -> "Chain":
        """Return the chain at an RPC URL (http or https), without asking it anything yet.

        Each request may take `timeout` seconds, a transaction's way into a block `receipt_timeout`. Raises `ChainError`
        for a URL that cannot be read.
        """
        return cls(Endpoint(rpc_url, timeout), receipt_timeout)

    def __repr__(self) -> str:
        return f"Chain({self.name})"

    async def __aenter__(self) -> "Chain":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """Scheme, host and port of the RPC URL: what logs and messages may show of it."""
        return self._endpoint.name

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.disconnect()

    async def chain_id(self) -> int:
        """Return the EIP-155 chain id; asked once, so that what is checked is also what transactions are signed for."""
        if self._chain_id is None:
            self._chain_id = await self._ask("reading the chain id", "eth_chainId", read=quantity)
        return self._chain_id

    async def require_chain(self, chain_id: int) -> None:
        """Raise `ChainError` unless this is the chain of that id."""
        if (found := await self.chain_id()) != chain_id:
            raise ChainError(
                f"{self.name} serves chain {found}, and the contracts are on chain {chain_id}: name an RPC URL of that chain"
            )

    async def require_contract(self, address: str) -> None:
        """Raise `ChainError` unless a contract is at this address."""
        if not await self.code(address):
            raise ChainError(
                f"no contract is at {checksum_address(address)} on chain {await self.chain_id()} ({self.name}): check the "
                "address, and that the RPC URL is of its chain"
            )

    async def block_number(self) -> int:
        """Return the number of the newest block."""
        return await self._ask("reading the newest block's number", "eth_blockNumber", read=quantity)

    async def block_hash(self, number: int) -> str | None:
        """Return a block's hash (0x and 64 digits), `None` where there is no such block."""
        block = await self._block(number)
        return block[0] if block else None

    async def timestamp(self, block: Block = "latest") -> int:
        """Return a block's time in Unix seconds. Raises `ChainError` where there is no such block."""
        if (found := await self._block(block)) is None:
            raise ChainError(f"{self.name} has no block {block}: name one up to the newest")
        return found[1]

    async def balance(self, address: str) -> int:
        """Return an account's balance in wei."""
        return await self._ask(
            "reading a balance", "eth_getBalance", checksum_address(address), "latest", read=quantity
        )

    async def next_nonce(self, address: str) -> int:
        """Return the number of an account's next transaction, after those that wait for a block."""
        return await self._sender.next_nonce(address)

    async def code(self, address: str, block: Block = "latest") -> bytes:
        """Return a contract's code after a block, empty where there is none."""
        what = f"reading the code at {address}"
        return await self._ask(what, "eth_getCode", checksum_address(address), _tag(block), read=data)

    def function(self, name: str, address: str, function: str, *arguments: Any) -> AsyncContractFunction:  # noqa: ANN401
        """Return what `call` and `send` take: a function of a contract of ours (`artifacts.CONTRACTS`), with its arguments.

        Raises `ChainError` for arguments that do not fit.
        """
        with translated(f"{function} at {address}"):
            found: AsyncContractFunction = self.contract(name, address).functions[function](*arguments)
        return found

    def contract(self, name: str, address: str) -> AsyncContract:
        """Return web3's object for a contract of ours; `function` is the way to call it."""
        key = name, checksum_address(address)
        if key not in self._contracts:
            made = self._web3.eth.contract(address=_checked(address), abi=cast("Any", artifact(name).abi))
            self._contracts[key] = made
        return self._contracts[key]

    def creation(self, name: str, *arguments: Any) -> AsyncContractConstructor:  # noqa: ANN401 - as the constructor has them
        """Return what `send` takes to create a contract of ours; its receipt has the address."""
        compiled = artifact(name)
        factory = self._web3.eth.contract(
            abi=cast("Any", compiled.abi), bytecode=cast("Any", compiled.bytecode)
        )
        with translated(f"creating {name}"):
            return factory.constructor(*arguments)

    async def call(self, function: AsyncContractFunction, block: Block = "latest") -> Any:  # noqa: ANN401 - as the ABI says
        """Return what a contract's function gives after a block. Raises `Reverted` with the contract's reason."""
        with translated(f"{function.fn_name} at {function.address}"):
            return await function.call(block_identifier=cast("Any", block))

    async def send(self, call: ContractCall, signer: Signer, value: int = 0) -> Receipt:
        """Send a transaction (EIP-1559) with `value` wei, and return its receipt once it is in a block.

        Sends of one signer may run at the same time. Raises `Reverted` with the contract's reason (nothing was spent, as a
        rule: the gas estimate shows it), `Unconfirmed` where the receipt does not come in time.
        """
        to, data = await _target(call)
        return await self._sender.send(await self.chain_id(), signer, to, data, value)

    async def logs(
        self, name: str, address: str, first: int, last: int, events: Sequence[str] | None = None
    ) -> list[Event]:
        """Return the events (of these names, or all) that a contract of ours emitted in blocks `first` to `last`, in order.

        They are read `LOGS_AT_ONCE` blocks at a time, or fewer where the endpoint refuses so many.
        """
        topics = topics_of(name, events)
        found: list[Event] = []
        for start in range(first, last + 1, LOGS_AT_ONCE):
            read = await self._logs(address, start, min(start + LOGS_AT_ONCE - 1, last), topics)
            for part in range(0, len(read), _LOGS_A_STEP):
                found += decode_logs(name, address, map(read_log, read[part : part + _LOGS_A_STEP]))
                await asyncio.sleep(0)
        return found

    def decode(self, name: str, address: str, logs: Iterable[Log]) -> list[Event]:
        """Return those of some logs (a receipt's) that are events of a contract of ours at this address."""
        return list(decode_logs(name, address, logs))

    async def _logs(self, address: str, first: int, last: int, topics: list[str]) -> list[dict[str, Any]]:
        asked = {"address": address, "fromBlock": hex(first), "toBlock": hex(last), "topics": [topics]}
        try:
            return await self._ask(
                f"reading the logs of blocks {first} to {last}", "eth_getLogs", asked, read=_list
            )
        except ChainUnavailable:
            raise
        except ChainError:
            # Endpoints limit blocks or results, each with a message of its own.
            if first == last:
                raise
            middle = (first + last) // 2
            left = await self._logs(address, first, middle, topics)
            return left + await self._logs(address, middle + 1, last, topics)

    async def _block(self, block: Block) -> tuple[str, int] | None:
        """A block's hash and time."""
        what = f"reading block {block}"
        return await self._ask(what, "eth_getBlockByNumber", _tag(block), False, read=_hash_and_time)


async def _target(call: ContractCall) -> tuple[str | None, bytes]:
    if isinstance(call, AsyncContractConstructor):
        return None, bytes(HexBytes(call.data_in_transaction))
    # web3 encodes a call only as part of a transaction; with these fields given it asks the chain nothing.
    fields: Any = {"gas": 0, "maxFeePerGas": 0, "maxPriorityFeePerGas": 0, "chainId": 0, "value": 0}
    with translated(f"{call.fn_name} at {call.address}"):
        built = await call.build_transaction(fields)
    return str(built["to"]), bytes(HexBytes(built["data"]))


def _checked(address: str) -> ChecksumAddress:
    return cast("ChecksumAddress", checksum_address(address))


def _tag(block: Block) -> str:
    return hex(block) if isinstance(block, int) else block


def _hash_and_time(block: Any) -> tuple[str, int] | None:  # noqa: ANN401 - JSON
    return (hash32(block["hash"]), quantity(block["timestamp"])) if block is not None else None


def _list(logs: Any) -> list[Any]:  # noqa: ANN401 - JSON
    if not isinstance(logs, list):
        raise TypeError("logs come as a list")
    return logs
