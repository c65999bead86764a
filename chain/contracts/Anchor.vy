# pragma version 0.4.3
"""
@title Anchor
@notice The heads of dispatchers' transparency logs, signed by them, each proved to continue the one before.
@dev A log is a Merkle tree as in RFC 9162. What is anchored can only grow: a head comes with the proof that its tree begins
     with the whole of the tree anchored before it. So a dispatcher that rewrites its log can either not anchor any more, or has
     signed two heads of one size, which anybody may show here.

     Anybody may bring a head, since the dispatcher's signature says whose it is: a dispatcher needs no ether, and a monitor can
     anchor what it was shown. Nothing here holds or moves ether.
"""

from lib import signatures

event Anchored:
    dispatcher: indexed(address)
    size: indexed(uint256)
    root: bytes32
    timestamp: uint256
    index: uint256

event Forked:
    dispatcher: indexed(address)
    size: uint256
    root_a: bytes32
    root_b: bytes32


# An anchored head; `block` is the block that it was anchored in.
struct Head:
    size: uint256
    root: bytes32
    timestamp: uint256
    block: uint256

# The same in two words of storage: numbers is block << 128 | timestamp << 64 | size.
struct Packed:
    root: bytes32
    numbers: uint256


# A tree of 2**63 leaves needs proofs of 64 nodes at most, which is what post() takes.
MAX_SIZE: constant(uint256) = 2**63
MAX_PROOF: constant(uint256) = 64
MAX_TIMESTAMP: constant(uint256) = 2**64 - 1
MAX_HEADS: constant(uint256) = 2**32

HEAD_TYPE: constant(bytes32) = keccak256("TreeHead(address dispatcher,uint256 size,bytes32 root,uint256 timestamp)")

registry: public(immutable(address))

forked: public(HashMap[address, bool])
_heads: HashMap[address, DynArray[Packed, MAX_HEADS]]


@deploy
def __init__(registry_: address):
    """
    @notice Fix the network that signatures are for.
    @param registry_ The OperatorRegistry, by which EIP-712 signatures name the network
    """
    assert registry_ != empty(address), "a registry is needed"
    registry = registry_


@external
def post(
    dispatcher: address,
    size: uint256,
    root: bytes32,
    timestamp: uint256,
    signature: Bytes[65],
    proof: DynArray[bytes32, MAX_PROOF],
):
    """
    @notice Anchor the head of a dispatcher's log.
    @param dispatcher Whose log it is
    @param size Leaves in its tree, more than were anchored before
    @param root The tree's root
    @param timestamp When the dispatcher made the head, as it signed it
    @param signature The dispatcher's signature of the TreeHead, r, s and v in 65 bytes
    @param proof That the tree anchored before is the beginning of this one (RFC 9162, 2.1.4); empty for the first head
    """
    assert not self.forked[dispatcher], "the dispatcher has forked its log"
    assert size <= MAX_SIZE, "the size is over 2**63"
    assert timestamp <= MAX_TIMESTAMP, "the timestamp has more than 64 bits"
    self._check_signature(dispatcher, size, root, timestamp, signature)

    count: uint256 = len(self._heads[dispatcher])
    if count == 0:
        assert size > 0, "an empty log is not anchored"
        assert len(proof) == 0, "the first head takes no proof"
    else:
        last: Head = self._head(dispatcher, count - 1)
        assert size > last.size, "the log has not grown since it was anchored"
        assert self._consistent(last.size, last.root, size, root, proof), "the proof does not lead from the anchored head"

    numbers: uint256 = block.number << 128 | timestamp << 64 | size
    self._heads[dispatcher].append(Packed(root=root, numbers=numbers))
    log Anchored(dispatcher=dispatcher, size=size, root=root, timestamp=timestamp, index=count)


@external
def proveFork(
    dispatcher: address,
    size: uint256,
    root_a: bytes32,
    timestamp_a: uint256,
    signature_a: Bytes[65],
    root_b: bytes32,
    timestamp_b: uint256,
    signature_b: Bytes[65],
):
    """
    @notice Show that a dispatcher signed two different trees of one size. It is marked for ever, and anchors nothing more:
            one of its logs is a lie, and nobody can say which.
    @param dispatcher Who signed both
    @param size Leaves in either tree
    @param root_a Root of the one, with the timestamp and signature of its head
    @param timestamp_a Timestamp of the one
    @param signature_a Signature of the one, 65 bytes
    @param root_b Root of the other, different
    @param timestamp_b Timestamp of the other
    @param signature_b Signature of the other, 65 bytes
    """
    assert not self.forked[dispatcher], "the fork is known"
    assert root_a != root_b, "the roots are the same"
    self._check_signature(dispatcher, size, root_a, timestamp_a, signature_a)
    self._check_signature(dispatcher, size, root_b, timestamp_b, signature_b)
    self.forked[dispatcher] = True
    log Forked(dispatcher=dispatcher, size=size, root_a=root_a, root_b=root_b)


@external
@view
def latest(dispatcher: address) -> Head:
    """
    @notice The head that was anchored last.
    @param dispatcher Whose log
    @return The head, all zeros when there is none
    """
    count: uint256 = len(self._heads[dispatcher])
    if count == 0:
        return empty(Head)
    return self._head(dispatcher, count - 1)


@external
@view
def count(dispatcher: address) -> uint256:
    """
    @notice How many heads are anchored.
    @param dispatcher Whose log
    @return Their number; indices are 0 to one less
    """
    return len(self._heads[dispatcher])


@external
@view
def heads(dispatcher: address, index: uint256) -> Head:
    """
    @notice An anchored head.
    @param dispatcher Whose log
    @param index Its place, oldest first, below count
    @return The head
    """
    assert index < len(self._heads[dispatcher]), "no head has this index"
    return self._head(dispatcher, index)


@internal
@view
def _head(dispatcher: address, index: uint256) -> Head:
    packed: Packed = self._heads[dispatcher][index]
    return Head(
        size=packed.numbers & MAX_TIMESTAMP,
        root=packed.root,
        timestamp=packed.numbers >> 64 & MAX_TIMESTAMP,
        block=packed.numbers >> 128,
    )


# Consistency of trees


@internal
@pure
def _consistent(
    first: uint256, first_root: bytes32, second: uint256, second_root: bytes32, proof: DynArray[bytes32, MAX_PROOF]
) -> bool:
    """Whether the tree of `second` leaves begins with that of `first`, 0 < first < second: RFC 9162, section 2.1.4.2.

    Both roots are built from the same nodes, from the right edge of the first tree upwards: `f` is the node there in the
    first tree, `s` in the second one; `i` and `last` are the node's place and that of the level's last node in the second tree.
    """
    i: uint256 = first - 1
    last: uint256 = second - 1
    for _: uint256 in range(64):
        if i & 1 == 0:
            break
        i >>= 1
        last >>= 1

    # Where the first tree is complete (a power of two), both start from its root, which the proof leaves out.
    used: uint256 = 0
    f: bytes32 = first_root
    if i != 0:
        if len(proof) == 0:
            return False
        f = proof[0]
        used = 1
    s: bytes32 = f
    for k: uint256 in range(used, len(proof), bound=MAX_PROOF):
        if last == 0:
            return False
        node: bytes32 = proof[k]
        if i & 1 == 1 or i == last:
            f = self._parent(node, f)
            s = self._parent(node, s)
            for _: uint256 in range(64):
                if i & 1 == 1 or i == 0:
                    break
                i >>= 1
                last >>= 1
        else:
            s = self._parent(s, node)
        i >>= 1
        last >>= 1
    return last == 0 and f == first_root and s == second_root


@internal
@pure
def _parent(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(b"\x01", left, right))


# Signatures


@internal
@view
def _check_signature(dispatcher: address, size: uint256, root: bytes32, timestamp: uint256, signature: Bytes[65]):
    head: bytes32 = keccak256(abi_encode(HEAD_TYPE, dispatcher, size, root, timestamp))
    signatures.check(registry, dispatcher, head, signature)
