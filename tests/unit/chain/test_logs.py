"""Logs of a node's JSON: read, decoded as web3 decodes them, and refused where they are none."""

from typing import Any

import pytest
from web3 import Web3

from aos_chain.artifacts import CONTRACTS, artifact
from aos_chain.errors import ChainError
from aos_chain.logs import decode_logs, read_log, topics_of

CONTRACT = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
_WORDS = {
    "address": bytes(12) + bytes.fromhex("fb6916095ca1df60bb79ce92ce3ea74c37c5d359"),
    "bytes32": bytes(range(32)),
}


def _document(name: str, event: dict[str, Any]) -> dict[str, Any]:
    """A log of this event, whose arguments are different from each other."""
    words = [
        _WORDS.get(part["type"], (index + 3).to_bytes(32, "big"))
        for index, part in enumerate(event["inputs"])
    ]
    indexed = [word for word, part in zip(words, event["inputs"], strict=True) if part["indexed"]]
    others = [word for word, part in zip(words, event["inputs"], strict=True) if not part["indexed"]]
    [topic] = topics_of(name, [event["name"]])
    return {
        "address": CONTRACT.lower(),
        "topics": [topic, *("0x" + word.hex() for word in indexed)],
        "data": "0x" + b"".join(others).hex(),
        "blockNumber": "0x1f",
        "blockHash": "0x" + "ab" * 32,
        "logIndex": "0x2",
        "transactionHash": "0x" + "CD" * 32,
        "transactionIndex": "0x0",
        "removed": False,
    }


EVENTS = [
    pytest.param(name, event, id=f"{name}.{event['name']}")
    for name in CONTRACTS
    for event in artifact(name).abi
    if event["type"] == "event"
]
REGISTERED = next(
    element for element in artifact("OperatorRegistry").abi if element.get("name") == "OperatorRegistered"
)


@pytest.mark.parametrize(("name", "event"), EVENTS)
def test_every_event_is_decoded_as_web3_does(name: str, event: dict[str, Any]) -> None:
    document = _document(name, event)
    [decoded] = decode_logs(name, CONTRACT, [read_log(document)])

    given = {
        "address": CONTRACT,
        "topics": [bytes.fromhex(topic[2:]) for topic in document["topics"]],
        "data": bytes.fromhex(document["data"][2:]),
        "blockNumber": 31,
        "logIndex": 2,
        "transactionIndex": 0,
        "blockHash": b"",
        "transactionHash": b"",
    }
    contract = Web3().eth.contract(address=CONTRACT, abi=artifact(name).abi)  # type: ignore[call-overload]
    expected = contract.events[event["name"]]().process_log(given)
    assert decoded.arguments == dict(expected["args"])
    assert decoded.name == event["name"] == expected["event"]
    assert (decoded.block, decoded.index) == (31, 2)
    assert (decoded.block_hash, decoded.transaction) == ("0x" + "ab" * 32, "0x" + "cd" * 32)


def test_logs_of_others_are_left_out() -> None:
    log = read_log(_document("OperatorRegistry", REGISTERED))
    unknown = read_log(_document("OperatorRegistry", REGISTERED) | {"topics": ["0x" + "00" * 32]})
    bare = read_log(_document("OperatorRegistry", REGISTERED) | {"topics": []})
    other = read_log(_document("OperatorRegistry", REGISTERED) | {"address": "0x" + "12" * 20})
    assert [
        event.name for event in decode_logs("OperatorRegistry", CONTRACT, [unknown, bare, other, log])
    ] == ["OperatorRegistered"]


@pytest.mark.parametrize(
    "change",
    [
        {"topics": None},
        {"topics": ["0x12"]},
        {"data": None},
        {"data": "12"},
        {"blockNumber": None},
        {"blockNumber": 7},
        {"blockHash": "0x"},
        {"logIndex": "-1"},
        {"transactionHash": None},
        {"address": "0x12"},
    ],
    ids=repr,
)
def test_what_is_no_log(change: dict[str, Any]) -> None:
    """A pending log has no block, for one: nothing may be built on it."""
    with pytest.raises(ChainError, match="logs cannot be read: use another endpoint"):
        read_log(_document("OperatorRegistry", REGISTERED) | change)


@pytest.mark.parametrize("document", [None, 7, "log", [], {}], ids=repr)
def test_what_is_not_even_an_object(document: Any) -> None:
    with pytest.raises(ChainError, match="logs cannot be read"):
        read_log(document)


@pytest.mark.parametrize("data", ["0x", "0x" + "00" * 31])
def test_an_event_whose_data_is_cut(data: str) -> None:
    log = read_log(_document("OperatorRegistry", REGISTERED) | {"data": data})
    with pytest.raises(ChainError, match="OperatorRegistered in block 31 cannot be read"):
        list(decode_logs("OperatorRegistry", CONTRACT, [log]))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_event_with_other_topics(count: int) -> None:
    document = _document("OperatorRegistry", REGISTERED)
    topics = (document["topics"] * 2)[:count]
    with pytest.raises(ChainError, match="OperatorRegistered in block 31 cannot be read"):
        list(decode_logs("OperatorRegistry", CONTRACT, [read_log(document | {"topics": topics})]))
