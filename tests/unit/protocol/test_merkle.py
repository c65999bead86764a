import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import merkle
from aos_protocol.errors import ProtocolError

leaf_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


def naive_root(leaves: list[bytes]) -> bytes:
    """The recursive definition of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_path(leaves: list[bytes], index: int) -> list[bytes]:
    """The recursive audit path of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*naive_path(leaves[:split], index), naive_root(leaves[split:])]
    return [*naive_path(leaves[split:], index - split), naive_root(leaves[:split])]


def test_published_roots() -> None:
    """The reference leaves of Certificate Transparency, with their published roots."""
    leaves = [
        b"",
        b"\x00",
        b"\x10",
        bytes.fromhex("2021"),
        bytes.fromhex("3031"),
        bytes.fromhex("40414243"),
        bytes.fromhex("5051525354555657"),
        bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
    ]
    published = {
        0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, expected in published.items():
        assert merkle.root(leaves[:size]).hex() == expected


@given(leaf_lists)
def test_root_is_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle.root(leaves) == naive_root(leaves)


@given(leaf_lists, st.data())
def test_a_proof_is_the_recursive_path_and_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.inclusion_proof(leaves, index)
    assert proof == naive_path(leaves, index)
    assert merkle.verify_inclusion(leaves[index], index, len(leaves), proof, merkle.root(leaves))


@given(leaf_lists, st.data())
def test_nothing_else_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    size, root = len(leaves), merkle.root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof, leaf = merkle.inclusion_proof(leaves, index), leaves[index]

    def holds(leaf: bytes = leaf, index: int = index, proof: list[bytes] = proof, root: bytes = root) -> bool:
        return merkle.verify_inclusion(leaf, index, size, proof, root)

    assert not holds(leaf=leaf + b"x")
    assert not holds(root=hashlib.sha256(root).digest())
    assert not holds(proof=[*proof, bytes(32)])
    assert not holds(index=-1)
    assert not holds(index=size)
    if proof:
        assert not holds(proof=proof[:-1])
        changed = data.draw(st.integers(0, len(proof) - 1))
        assert not holds(
            proof=[*proof[:changed], hashlib.sha256(proof[changed]).digest(), *proof[changed + 1 :]]
        )
    other = data.draw(st.integers(0, size - 1))
    if leaves[other] != leaf:
        assert not holds(index=other)


def test_an_inner_node_is_not_a_leaf() -> None:
    left, right = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (b"a", b"b"))
    root = merkle.root([b"a", b"b", b"c"])
    sibling = merkle.inclusion_proof([b"a", b"b", b"c"], 0)[-1]
    assert not merkle.verify_inclusion(left + right, 0, 2, [sibling], root)


@pytest.mark.parametrize("index", [-1, 3])
def test_no_proof_for_a_leaf_that_is_not_there(index: int) -> None:
    with pytest.raises(ProtocolError, match=f"No leaf {index} in a tree of 3"):
        merkle.inclusion_proof([b"a", b"b", b"c"], index)


def naive_growth(leaves: list[bytes], first: int, *, whole: bool = True) -> list[bytes]:
    """The recursive consistency proof of RFC 9162, section 2.1.4.1 (PROOF and SUBPROOF), word for word."""
    if first == len(leaves):
        return [] if whole else [naive_root(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if first <= split:
        return [*naive_growth(leaves[:split], first, whole=whole), naive_root(leaves[split:])]
    return [*naive_growth(leaves[split:], first - split, whole=False), naive_root(leaves[:split])]


MANY = [bytes([n]) for n in range(41)]
ROOTS = [naive_root(MANY[:size]) for size in range(41)]


@pytest.mark.parametrize("second", range(1, 41))
def test_growth_is_the_recursive_proof_and_verifies_for_all_pairs(second: int) -> None:
    for first in range(1, second + 1):
        proof = merkle.consistency_proof(MANY[:second], first)
        assert proof == naive_growth(MANY[:second], first)
        assert merkle.verify_consistency(first, ROOTS[first], second, ROOTS[second], proof)


@pytest.mark.parametrize("second", range(1, 41))
def test_every_mutated_proof_of_growth_is_refused(second: int) -> None:
    """Each node flipped, dropped or doubled, two swapped, one more; other sizes; either root changed."""
    for first in range(1, second + 1):
        proof = merkle.consistency_proof(MANY[:second], first)
        flipped = [[*proof[:n], flip(node), *proof[n + 1 :]] for n, node in enumerate(proof)]
        dropped = [[*proof[:n], *proof[n + 1 :]] for n in range(len(proof))]
        doubled = [[*proof[: n + 1], *proof[n:]] for n in range(len(proof))]
        swapped = [[*proof[:n], proof[n + 1], proof[n], *proof[n + 2 :]] for n in range(len(proof) - 1)]
        for changed in (*flipped, *dropped, *doubled, *swapped, [*proof, bytes(32)], [*proof, b""]):
            assert not merkle.verify_consistency(first, ROOTS[first], second, ROOTS[second], changed)
        assert not merkle.verify_consistency(first, flip(ROOTS[first]), second, ROOTS[second], proof)
        assert not merkle.verify_consistency(first, ROOTS[first], second, flip(ROOTS[second]), proof)
        for other in {first - 1, first + 1, second} - {0, first}:
            assert not merkle.verify_consistency(other, ROOTS[first], second, ROOTS[second], proof)
        for other in {second + 1, 2 * second} - {second} if first < second else ():
            claimed = merkle.verify_consistency(first, ROOTS[first], other, ROOTS[second], proof)
            assert not claimed or same_shape(first, second, other)


def same_shape(first: int, second: int, other: int) -> bool:
    """Whether two sizes have proofs of the same steps, so that the root alone tells them apart."""
    steps = [[len(part) for part in merkle.consistency_nodes(first, size)] for size in (second, other)]
    return len(steps[0]) == len(steps[1])


def flip(node: bytes) -> bytes:
    return bytes([node[0] ^ 1, *node[1:]])


@given(st.data())
def test_growth_of_larger_trees(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, 400))
    first = data.draw(st.integers(1, second))
    leaves = [n.to_bytes(2, "big") for n in range(second)]
    proof = merkle.consistency_proof(leaves, first)
    assert proof == naive_growth(leaves, first)
    old, new = merkle.root(leaves[:first]), merkle.root(leaves)
    assert merkle.verify_consistency(first, old, second, new, proof)
    forged = [*leaves[: first - 1], b"forged", *leaves[first:]]
    assert not merkle.verify_consistency(
        first, old, second, merkle.root(forged), merkle.consistency_proof(forged, first)
    )


@given(st.data())
def test_proofs_from_complete_subtrees_are_those_over_all_leaves(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    leaves = [n.to_bytes(2, "big") for n in range(size)]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]

    def proof(parts: list[list[merkle.Node]]) -> list[bytes]:
        return [merkle.fold([merkle.subtree_root(hashes, node) for node in part]) for part in parts]

    assert proof(merkle.inclusion_nodes(index, size)) == merkle.inclusion_proof(leaves, index)
    assert proof(merkle.consistency_nodes(first, size)) == naive_growth(leaves, first)
    [root] = proof([merkle.root_nodes(size)])
    assert root == merkle.root(leaves)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    assert merkle.verify_consistency(0, merkle.root([]), 5, ROOTS[5], [])
    assert not merkle.verify_consistency(0, ROOTS[1], 5, ROOTS[5], [])
    assert not merkle.verify_consistency(0, merkle.root([]), 5, ROOTS[5], [ROOTS[5]])
    assert merkle.fold([]) == merkle.root([])


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3), (3, -1)])
def test_no_tree_shrinks(first: int, second: int) -> None:
    assert not merkle.verify_consistency(first, ROOTS[3], second, ROOTS[3], [])


@pytest.mark.parametrize("first", [0, 6, -1])
def test_no_proof_of_growth_from_a_size_that_there_was_not(first: int) -> None:
    with pytest.raises(ProtocolError):
        merkle.consistency_proof(MANY[:5], first)
