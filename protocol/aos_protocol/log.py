"""A dispatcher's transparency log as others see it: signed heads, entries with proofs, and heads that a chain anchors.

The log is a Merkle tree (RFC 6962, RFC 9162; `merkle`) over entries in the order in which they were appended, each a line of
canonical JSON (`log_entries`). A head is the dispatcher's EIP-712 signature over its address, the tree's size and root, and the time.
"""

from typing import Annotated

from pydantic import Field

from aos_protocol import merkle
from aos_protocol.errors import InvalidEvidence, InvalidSignature
from aos_protocol.fields import Address, Block, Hex32, Message, Signature, Text
from aos_protocol.typed_data import Domain, TreeHeadClaim, recover_typed

Size = Annotated[int, Field(ge=0, lt=2**53)]
Path = Annotated[list[Hex32], Field(max_length=64)]


class TreeHead(Message):
    """The state of a log: size, root, when (seconds since 1970, UTC), and the dispatcher's signature over these."""

    size: Size
    root: Hex32
    timestamp: Size
    signature: Signature


class LogEntry(Message):
    """An entry with its place, and its inclusion proof (RFC 9162, section 2.1.3) under the head that it comes with."""

    index: Size
    text: Text
    proof: Path


class AnchorDocument(Message):
    """A head that a contract keeps, the block that took it, and the consistency proof from it to the head it comes with."""

    chain_id: int = Field(ge=1)
    contract: Address
    size: Annotated[int, Field(ge=1, lt=2**53)]
    root: Hex32
    block: Block
    proof: Path


class LogDocument(Message):
    """What an evidence document has of the log: all entries about its job under one head, and the newest anchor if there is one."""

    head: TreeHead
    entries: list[LogEntry]
    anchor: AnchorDocument | None


def head_claim(dispatcher: str, head: TreeHead) -> TreeHeadClaim:
    """Return what a head's signature covers."""
    return TreeHeadClaim(dispatcher, head.size, head.root, head.timestamp)


def check_head(dispatcher: str, domain: Domain, head: TreeHead) -> None:
    """Raise `InvalidSignature` unless the dispatcher signed this head."""
    signer = recover_typed(domain, head_claim(dispatcher, head), head.signature)
    if signer != dispatcher:
        raise InvalidSignature(f"the log's head is signed by {signer}, not by the dispatcher {dispatcher}")


def check_entry(entry: LogEntry, head: TreeHead) -> None:
    """Raise `InvalidEvidence` unless this very entry has this place in the log under the head."""
    path = [bytes.fromhex(node) for node in entry.proof]
    leaf, root = entry.text.encode(), bytes.fromhex(head.root)
    if not merkle.verify_inclusion(leaf, entry.index, head.size, path, root):
        raise InvalidEvidence(f"entry {entry.index} is not in the log of {head.size} entries")


def check_growth(first: tuple[int, str], second: tuple[int, str], proof: list[str]) -> None:
    """Raise `InvalidEvidence` unless the log of the first (size, root) is the beginning of that of the second."""
    path = [bytes.fromhex(node) for node in proof]
    (size, root), (larger, other) = first, second
    if not merkle.verify_consistency(size, bytes.fromhex(root), larger, bytes.fromhex(other), path):
        raise InvalidEvidence(f"the log of {size} entries is not the beginning of that of {larger}")
