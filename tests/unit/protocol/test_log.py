"""A log as others see it: heads, entries in their places, growth."""

from typing import Any

import pytest

from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence, InvalidMessage, InvalidSignature
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.log import (
    AnchorDocument,
    LogEntry,
    TreeHead,
    check_entry,
    check_growth,
    check_head,
    head_claim,
)
from aos_protocol.typed_data import Domain, sign_typed

DISPATCHER = Signer(b"\x11" * 32)
DOMAIN = Domain(31337, "0x" + "1" * 40)
ENTRIES = [f'{{"kind":"job","n":{n}}}' for n in range(11)]
ROOTS = [merkle.root([entry.encode() for entry in ENTRIES[:size]]).hex() for size in range(12)]


def head(size: int = 11, signer: Signer = DISPATCHER, domain: Domain = DOMAIN) -> TreeHead:
    unsigned = TreeHead(size=size, root=ROOTS[size], timestamp=1_790_000_000, signature="0" * 130)
    signature = sign_typed(signer, domain, head_claim(DISPATCHER.address, unsigned))
    return unsigned.model_copy(update={"signature": signature})


def entry(index: int, size: int = 11) -> LogEntry:
    proof = merkle.inclusion_proof([entry.encode() for entry in ENTRIES[:size]], index)
    return LogEntry(index=index, text=ENTRIES[index], proof=[node.hex() for node in proof])


def growth(first: int, second: int) -> list[str]:
    leaves = [entry.encode() for entry in ENTRIES[:second]]
    return [node.hex() for node in merkle.consistency_proof(leaves, first)]


def test_a_head_is_signed_by_the_dispatcher_whose_log_it_is() -> None:
    check_head(DISPATCHER.address, DOMAIN, head())
    other = Signer(b"\x12" * 32)
    with pytest.raises(InvalidSignature, match=f"signed by {other.address}"):
        check_head(DISPATCHER.address, DOMAIN, head(signer=other))


@pytest.mark.parametrize("change", [{"size": 10}, {"root": "0" * 64}, {"timestamp": 1_790_000_001}])
def test_every_word_of_a_head_is_signed(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSignature):
        check_head(DISPATCHER.address, DOMAIN, head().model_copy(update=change))
    with pytest.raises(InvalidSignature):
        check_head(DISPATCHER.address, Domain(1, DOMAIN.registry), head())


@pytest.mark.parametrize("index", range(11))
def test_an_entry_has_its_place_and_no_other(index: int) -> None:
    check_entry(entry(index), head())
    for change in (
        {"index": (index + 1) % 11},
        {"text": ENTRIES[index] + " "},
        {"proof": entry(index).proof[1:]},
    ):
        with pytest.raises(InvalidEvidence, match="is not in the log of 11 entries"):
            check_entry(entry(index).model_copy(update=change), head())


def test_an_entry_under_another_head_is_not_there() -> None:
    with pytest.raises(InvalidEvidence):
        check_entry(entry(3, size=10), head())


@pytest.mark.parametrize("first", range(1, 12))
def test_a_log_grows(first: int) -> None:
    check_growth((first, ROOTS[first]), (11, ROOTS[11]), growth(first, 11))


def test_a_log_that_was_rewritten_has_not_grown() -> None:
    with pytest.raises(InvalidEvidence, match="the log of 5 entries is not the beginning of that of 11"):
        check_growth((5, ROOTS[4]), (11, ROOTS[11]), growth(5, 11))
    with pytest.raises(InvalidEvidence):
        check_growth((11, ROOTS[11]), (5, ROOTS[5]), [])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (TreeHead, {"size": -1}),
        (TreeHead, {"root": "zz"}),
        (TreeHead, {"size": 2**53}),
        (TreeHead, {"signature": "0"}),
        (LogEntry, {"index": -1}),
        (LogEntry, {"proof": ["0"]}),
        (LogEntry, {"proof": ["0" * 64] * 65}),
        (AnchorDocument, {"chain_id": 0}),
        (AnchorDocument, {"size": 0}),
        (AnchorDocument, {"contract": "0x1"}),
    ],
)
def test_what_is_no_head_entry_or_anchor_is_refused(kind: Any, said: dict[str, Any]) -> None:
    good: dict[Any, dict[str, Any]] = {
        TreeHead: head().to_json(),
        LogEntry: entry(3).to_json(),
        AnchorDocument: {
            "chain_id": 1, "contract": "0x" + "5" * 40, "size": 3, "root": ROOTS[3], "block": 7, "proof": growth(3, 11),
        },
    }  # fmt: skip
    parse_message(kind, good[kind])
    with pytest.raises(InvalidMessage):
        parse_message(kind, good[kind] | said)
