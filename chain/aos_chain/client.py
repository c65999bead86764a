"""An EVM chain behind one RPC endpoint: reads, logs and transactions, in our terms and with our errors.

Importing this module imports web3 (0.7 s of computing): import it before an event loop runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias, cast

from aos_chain.artifacts import artifact
from aos_chain.endpoint import Endpoint
from aos_chain.errors import ChainError, ChainUnavailable
from aos_chain.translation import translated
from aos_protocol.identity import Signer, checksum_address, recursion_limit_kept

with recursion_limit_kept():
    from eth_typing import ChecksumAddress
    from eth_utils.abi import event_abi_to_log_topic
    from hexbytes import HexBytes
    from web3 import AsyncWeb3
    from web3.contract import AsyncContract
    from web3.contract.async_contract import AsyncContractConstructor, AsyncContractFunction
    from web3.exceptions import BlockNotFound
    from web3.types import LogReceipt

from aos_chain.transactions import Receipt, Sender

ContractFunction: TypeAlias = AsyncContractFunction
ContractCall: TypeAlias = AsyncContractFunction | AsyncContractConstructor
Block: TypeAlias = int | str
"""A block's number, or "latest"."""

LOGS_AT_ONCE: Final = 2_000
"""Blocks in one request for logs: what public endpoints grant."""


@dataclass(frozen=True)
class Event:
    """A contract's event, decoded; `index` is its place among the block's logs, hashes are 0x and 64 digits."""

    name: str
    arguments: dict[str, Any]
    block: int
    block_hash: str
    index: int
    transaction: str


class Chain:
    """An EVM chain; `connect` makes one, `close` (or `async with`) ends its connections.

    Every method raises `ChainUnavailable` where another try may succeed, `ChainError` where it is of no use.
    """

    def __init__(self, endpoint: Endpoint, receipt_timeout: float) -> None:
        self._endpoint = endpoint
        self._web3: AsyncWeb3[Any] = AsyncWeb3(endpoint, middleware=[])
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
            with translated("reading the chain id"):
                self._chain_id = await self._web3.eth.chain_id
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
        with translated("reading the newest block's number"):
            return await self._web3.eth.block_number

    async def block_hash(self, number: int) -> str | None:
        """Return a block's hash (0x and 64 digits), `None` where there is no such block."""
        with translated(f"reading block {number}"):
            try:
                block = await self._web3.eth.get_block(number)
            except BlockNotFound:
                return None
        return _hex(block["hash"])

    async def timestamp(self, block: Block = "latest") -> int:
        """Return a block's time in Unix seconds. Raises `ChainError` where there is no such block."""
        with translated(f"reading block {block}"):
            return int((await self._web3.eth.get_block(cast("Any", block)))["timestamp"])

    async def balance(self, address: str) -> int:
        """Return an account's balance in wei."""
        with translated("reading a balance"):
            return int(await self._web3.eth.get_balance(_checked(address)))

    async def next_nonce(self, address: str) -> int:
        """Return the number of an account's next transaction, after those that wait for a block."""
        return await self._sender.next_nonce(address)

    async def code(self, address: str, block: Block = "latest") -> bytes:
        """Return a contract's code after a block, empty where there is none."""
        with translated(f"reading the code at {address}"):
            return bytes(await self._web3.eth.get_code(_checked(address), cast("Any", block)))

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
        topics = [
            HexBytes(topic) for topic, event in _topics(name).items() if events is None or event in events
        ]
        found: list[LogReceipt] = []
        for start in range(first, last + 1, LOGS_AT_ONCE):
            found += await self._raw_logs(address, start, min(start + LOGS_AT_ONCE - 1, last), topics)
        return self.decode(name, address, found)

    def decode(self, name: str, address: str, logs: Iterable[LogReceipt]) -> list[Event]:
        """Return those of some logs (a receipt's, say) that are events of a contract of ours at this address."""
        contract, topics = self.contract(name, address), _topics(name)
        events = []
        for log in logs:
            event = topics.get(_hex(log["topics"][0])) if log["topics"] else None
            if event is None or log["address"].lower() != address.lower():
                continue
            with translated(f"reading {event} of {address}"):
                arguments = dict(contract.events[event]().process_log(log)["args"])
            place = log["blockNumber"], _hex(log["blockHash"]), log["logIndex"], _hex(log["transactionHash"])
            events.append(Event(event, arguments, *place))
        return events

    async def _raw_logs(
        self, address: str, first: int, last: int, topics: list[HexBytes]
    ) -> list[LogReceipt]:
        try:
            with translated(f"reading the logs of blocks {first} to {last}"):
                return await self._web3.eth.get_logs(
                    {
                        "address": _checked(address),
                        "fromBlock": cast("Any", first),
                        "toBlock": cast("Any", last),
                        "topics": [topics],
                    }
                )
        except ChainUnavailable:
            raise
        except ChainError:
            # Endpoints limit blocks or results, each with a message of its own.
            if first == last:
                raise
            middle = (first + last) // 2
            left = await self._raw_logs(address, first, middle, topics)
            return left + await self._raw_logs(address, middle + 1, last, topics)


async def _target(call: ContractCall) -> tuple[str | None, bytes]:
    if isinstance(call, AsyncContractConstructor):
        return None, bytes(HexBytes(call.data_in_transaction))
    # web3 encodes a call only as part of a transaction; with these fields given it asks the chain nothing.
    fields: Any = {"gas": 0, "maxFeePerGas": 0, "maxPriorityFeePerGas": 0, "chainId": 0, "value": 0}
    with translated(f"{call.fn_name} at {call.address}"):
        built = await call.build_transaction(fields)
    return str(built["to"]), bytes(HexBytes(built["data"]))


@cache
def _topics(name: str) -> dict[str, str]:
    """First topic and name of each event of a contract."""
    declared = [element for element in artifact(name).abi if element["type"] == "event"]
    return {_hex(event_abi_to_log_topic(cast("Any", event))): event["name"] for event in declared}


def _checked(address: str) -> ChecksumAddress:
    return cast("ChecksumAddress", checksum_address(address))


def _hex(data: bytes) -> str:
    return "0x" + bytes(data).hex()
