"""What contracts of ours log, read from the node's JSON and decoded by their ABI.

web3 does this too, at 0.3 ms an event: a registry's history would hold up the event loop for seconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from aos_chain.answers import data, hash32, quantity
from aos_chain.artifacts import artifact
from aos_chain.errors import ChainError
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address, recursion_limit_kept

with recursion_limit_kept():
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError
    from eth_utils.abi import event_abi_to_log_topic


@dataclass(frozen=True)
class Log:
    """A log as a contract emitted it; `index` is its place in the block, hashes are 0x and 64 digits."""

    address: str
    topics: tuple[str, ...]
    data: bytes
    block: int
    block_hash: str
    index: int
    transaction: str


@dataclass(frozen=True)
class Event:
    """A contract's event, decoded; `index` is its place among the block's logs, hashes are 0x and 64 digits."""

    name: str
    arguments: dict[str, Any]
    block: int
    block_hash: str
    index: int
    transaction: str


@dataclass(frozen=True)
class _Shape:
    """An event's name, and its arguments' names and types, in topics and in data."""

    name: str
    indexed: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]


def read_log(document: Any) -> Log:  # noqa: ANN401 - JSON
    """Read a log of eth_getLogs or of a receipt. Raises `ChainError` for what is none."""
    try:
        return Log(
            address=checksum_address(document["address"]),
            topics=tuple(hash32(topic) for topic in document["topics"]),
            data=data(document["data"]),
            block=quantity(document["blockNumber"]),
            block_hash=hash32(document["blockHash"]),
            index=quantity(document["logIndex"]),
            transaction=hash32(document["transactionHash"]),
        )
    except (KeyError, TypeError, ValueError, InvalidAddress) as error:
        raise ChainError("the RPC endpoint's logs cannot be read: use another endpoint") from error


def topics_of(name: str, events: Iterable[str] | None = None) -> list[str]:
    """Return the first topics of a contract's events: of those named, or of all."""
    named = set(events) if events is not None else None
    return [topic for topic, shape in _shapes(name).items() if named is None or shape.name in named]


def decode_logs(name: str, address: str, logs: Iterable[Log]) -> Iterator[Event]:
    """Give those logs that are events of this contract of ours at this address, decoded. Raises `ChainError`."""
    shapes, address = _shapes(name), checksum_address(address)
    for log in logs:
        shape = shapes.get(log.topics[0]) if log.topics else None
        if shape is not None and log.address == address:
            arguments = _arguments(shape, log)
            yield Event(shape.name, arguments, log.block, log.block_hash, log.index, log.transaction)


def _arguments(shape: _Shape, log: Log) -> dict[str, Any]:
    try:
        topics = [bytes.fromhex(topic[2:]) for topic in log.topics[1:]]
        indexed = [decode([kind], topic)[0] for (_, kind), topic in zip(shape.indexed, topics, strict=True)]
        others = decode([kind for _, kind in shape.others], log.data)
    except (DecodingError, ValueError) as error:
        raise ChainError(
            f"{shape.name} in block {log.block} cannot be read: use another RPC endpoint"
        ) from error
    named = zip((*shape.indexed, *shape.others), (*indexed, *others), strict=True)
    return {name: checksum_address(value) if kind == "address" else value for (name, kind), value in named}


@cache
def _shapes(name: str) -> dict[str, _Shape]:
    """The events of a contract by their first topic. None of them indexes a type that does not fit a topic."""
    shapes = {}
    for event in (element for element in artifact(name).abi if element["type"] == "event"):
        parts = [(part["name"], part["type"], part["indexed"]) for part in event["inputs"]]
        shapes["0x" + event_abi_to_log_topic(cast("Any", event)).hex()] = _Shape(
            event["name"],
            tuple((name, kind) for name, kind, indexed in parts if indexed),
            tuple((name, kind) for name, kind, indexed in parts if not indexed),
        )
    return shapes
