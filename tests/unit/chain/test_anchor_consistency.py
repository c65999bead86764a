"""The contract's check of RFC 9162 consistency proofs: right ones hold, and every other is refused."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from web3.contract import Contract

from aos_protocol import merkle
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain
from support.anchor import Dispatcher, EqualLeaves, Tree, post
from support.evm import Evm, reverts

REGISTRY = "0x5f5f5f5f5f5F5f5F5F5F5F5f5F5f5f5F5F5F5F5f"
SMALL = 40
REFUSED = "the proof does not lead from the anchored head"
LEAVES = [b"entry %d" % number for number in range(1_500)]
TREE = Tree(LEAVES)
EQUAL = EqualLeaves(b"the same")


class Log:
    """A dispatcher with one head anchored, and attempts at a second one that leave nothing behind."""

    def __init__(self, evm: Evm, anchor: Contract, first: int, root: bytes) -> None:
        self.evm, self.anchor = evm, anchor
        self.dispatcher = Dispatcher(Signer.generate(), Domain(int(evm.web3.eth.chain_id), REGISTRY))
        evm.send(post(anchor, self.dispatcher, first, root, 1, []))

    def accepts(self, size: int, root: bytes, proof: Sequence[bytes]) -> None:
        """Try it; raises what the contract reverts with."""
        self.evm.words(post(self.anchor, self.dispatcher, size, root, 2, proof))

    def refuses(self, size: int, root: bytes, proof: Sequence[bytes]) -> None:
        with reverts(REFUSED):
            self.accepts(size, root, proof)


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm(1)


@pytest.fixture(scope="module")
def anchor(evm: Evm) -> Contract:
    return evm.deploy("Anchor", REGISTRY)


def mutated(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Every node changed, dropped, doubled, or swapped with the next; one more at either end; and no proof at all."""
    for place, node in enumerate(proof):
        changed = node[:-1] + bytes((node[-1] ^ 1,))
        yield [*proof[:place], changed, *proof[place + 1 :]]
        yield proof[:place] + proof[place + 1 :]
        yield proof[: place + 1] + proof[place:]
    for place in range(len(proof) - 1):
        yield [*proof[:place], proof[place + 1], proof[place], *proof[place + 2 :]]
    yield [bytes(32), *proof]
    yield [*proof, bytes(32)]
    if len(proof) > 1:
        yield []
        yield proof[::-1]


@pytest.mark.parametrize("first", range(1, SMALL))
def test_every_pair_of_small_sizes(evm: Evm, anchor: Contract, first: int) -> None:
    log = Log(evm, anchor, first, TREE.root(first))
    for size in range(first + 1, SMALL + 1):
        log.accepts(size, TREE.root(size), TREE.proof(first, size))


@pytest.mark.parametrize("first", range(1, 9))
def test_every_mutated_proof_of_small_sizes(evm: Evm, anchor: Contract, first: int) -> None:
    log = Log(evm, anchor, first, TREE.root(first))
    for size in range(first + 1, 11):
        proof = TREE.proof(first, size)
        for wrong in mutated(proof):
            log.refuses(size, TREE.root(size), wrong)
        log.refuses(size, TREE.root(size + 1), proof)


@pytest.mark.parametrize("first", range(1, 9))
def test_a_proof_for_another_size_holds_where_it_does_in_python(
    evm: Evm, anchor: Contract, first: int
) -> None:
    """What a proof shows of the second size is its shape at the edge: that size and root belong together is what was signed."""
    log = Log(evm, anchor, first, TREE.root(first))
    for size in range(first + 1, 11):
        root, proof = TREE.root(size), TREE.proof(first, size)
        for claimed in range(first + 1, 20):
            if merkle.verify_consistency(first, TREE.root(first), claimed, root, proof):
                log.accepts(claimed, root, proof)
            else:
                log.refuses(claimed, root, proof)


PAIRS = st.tuples(st.integers(1, 1_499), st.integers(2, 1_500)).filter(lambda pair: pair[0] < pair[1])


@given(PAIRS)
@settings(max_examples=12, deadline=None)
def test_larger_sizes(evm: Evm, anchor: Contract, pair: tuple[int, int]) -> None:
    first, size = pair
    proof = merkle.consistency_proof(LEAVES[:size], first)
    assert proof == TREE.proof(first, size)
    log = Log(evm, anchor, first, merkle.root(LEAVES[:first]))
    log.accepts(size, merkle.root(LEAVES[:size]), proof)
    for wrong in mutated(proof):
        log.refuses(size, TREE.root(size), wrong)


def edges(limit: int) -> st.SearchStrategy[int]:
    """Sizes up to a limit, many of them at or beside a power of two."""
    powers = st.integers(1, limit.bit_length() - 1).map(lambda bits: 1 << bits)
    beside = st.tuples(powers, st.integers(-2, 2)).map(sum)
    return st.one_of(beside, st.integers(1, limit)).filter(lambda size: 1 <= size <= limit)


@given(edges(2**63), edges(2**63))
@settings(max_examples=40, deadline=None)
def test_sizes_up_to_the_greatest(evm: Evm, anchor: Contract, one: int, other: int) -> None:
    first, size = sorted((one, other))
    if first == size:
        return
    proof = EQUAL.proof(first, size)
    log = Log(evm, anchor, first, EQUAL.root(first))
    log.accepts(size, EQUAL.root(size), proof)
    log.refuses(size, EQUAL.root(size), [*proof[:-1], bytes(32)])
    log.refuses(size, EQUAL.root(size), proof[:-1])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=64), edges(2**63), edges(2**63))
@settings(max_examples=40, deadline=None)
def test_random_nodes_prove_nothing(
    evm: Evm, anchor: Contract, nodes: list[bytes], one: int, other: int
) -> None:
    first, size = sorted((one, other))
    if first < size:
        Log(evm, anchor, first, EQUAL.root(first)).refuses(size, EQUAL.root(size), nodes)


def test_the_longest_proof_has_the_room_it_needs(evm: Evm, anchor: Contract) -> None:
    first, size = 2**63 - 1, 2**63
    proof = EQUAL.proof(first, size)
    assert len(proof) == 64
    Log(evm, anchor, first, EQUAL.root(first)).accepts(size, EQUAL.root(size), proof)
