"""Anchored heads: whose they are, in which order they come, and what marks a dispatcher as forked."""

from typing import Any

import pytest
from web3.contract import Contract

from aos_protocol.curves import SECP256K1
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain
from support.anchor import Dispatcher, Tree, head, post
from support.evm import Evm, reverts
from support.registry import NOBODY, events

REGISTRY = "0x5f5f5f5f5f5F5f5F5F5F5F5f5F5f5f5F5F5F5F5f"
TIME = 1_795_000_000
NO_ROOT = bytes(32)


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm(2)


@pytest.fixture(scope="module")
def anchor(evm: Evm) -> Contract:
    return evm.deploy("Anchor", REGISTRY)


@pytest.fixture
def dispatcher(evm: Evm) -> Dispatcher:
    """A new one each time: the contract keeps what others did."""
    return Dispatcher(Signer.generate(), Domain(int(evm.web3.eth.chain_id), REGISTRY))


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree([b"entry %d" % number for number in range(20)])


def post_tree(evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree, first: int, size: int) -> Any:
    """Post the head of `size` leaves after that of `first` (0: none)."""
    proof = tree.proof(first, size) if first else []
    return evm.send(post(anchor, dispatcher, size, tree.root(size), TIME + size, proof), sender=1)


class TestPosting:
    def test_heads_are_kept_in_order(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        sizes = [1, 2, 3, 7, 8, 20]
        blocks = []
        for index, (first, size) in enumerate(zip([0, *sizes], sizes, strict=False)):
            receipt = post_tree(evm, anchor, dispatcher, tree, first, size)
            blocks.append(receipt["blockNumber"])
            assert events(anchor, receipt) == [
                (
                    "Anchored",
                    {
                        "dispatcher": dispatcher.address,
                        "size": size,
                        "root": tree.root(size),
                        "timestamp": TIME + size,
                        "index": index,
                    },
                )
            ]
            assert anchor.functions.count(dispatcher.address).call() == index + 1
            assert head(anchor.functions.latest(dispatcher.address).call()) == (
                size,
                tree.root(size),
                TIME + size,
                blocks[-1],
            )
        kept = [head(anchor.functions.heads(dispatcher.address, index).call()) for index in range(len(sizes))]
        assert kept == [
            (size, tree.root(size), TIME + size, block) for size, block in zip(sizes, blocks, strict=True)
        ]

    def test_a_dispatcher_without_heads(self, anchor: Contract, dispatcher: Dispatcher) -> None:
        assert anchor.functions.registry().call() == REGISTRY
        assert anchor.functions.count(dispatcher.address).call() == 0
        assert head(anchor.functions.latest(dispatcher.address).call()) == (0, NO_ROOT, 0, 0)
        assert anchor.functions.forked(dispatcher.address).call() is False
        with reverts("no head has this index"):
            anchor.functions.heads(dispatcher.address, 0).call()

    def test_the_log_must_have_grown(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        with reverts("an empty log is not anchored"):
            evm.send(post(anchor, dispatcher, 0, tree.root(0), TIME, []))
        post_tree(evm, anchor, dispatcher, tree, 0, 5)
        for size in (0, 1, 4, 5):
            with reverts("the log has not grown"):
                evm.send(post(anchor, dispatcher, size, tree.root(size), TIME, []))

    def test_the_first_head_takes_no_proof(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        with reverts("the first head takes no proof"):
            evm.send(post(anchor, dispatcher, 5, tree.root(5), TIME, [NO_ROOT]))

    def test_a_log_that_was_rewritten_is_refused(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        post_tree(evm, anchor, dispatcher, tree, 0, 5)
        for changed in range(5):
            leaves = [b"entry %d" % number for number in range(9)]
            leaves[changed] = b"another"
            other = Tree(leaves)
            with reverts("the proof does not lead from the anchored head"):
                evm.send(post(anchor, dispatcher, 9, other.root(9), TIME, other.proof(5, 9)))
        post_tree(evm, anchor, dispatcher, tree, 5, 9)

    @pytest.mark.parametrize(
        ("size", "timestamp", "reason"),
        [
            (2**63 + 1, TIME, "the size is over 2..63"),
            (2**256 - 1, TIME, "the size is over 2..63"),
            (5, 2**64, "the timestamp has more than 64 bits"),
        ],
    )
    def test_numbers_that_are_too_great(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, size: int, timestamp: int, reason: str
    ) -> None:
        with reverts(reason):
            evm.send(post(anchor, dispatcher, size, NO_ROOT, timestamp, []))

    def test_the_greatest_numbers(self, evm: Evm, anchor: Contract, dispatcher: Dispatcher) -> None:
        evm.send(post(anchor, dispatcher, 2**63, b"\xff" * 32, 2**64 - 1, []))
        block = evm.web3.eth.block_number
        latest = head(anchor.functions.latest(dispatcher.address).call())
        assert latest == (2**63, b"\xff" * 32, 2**64 - 1, block)

    def test_dispatchers_have_logs_of_their_own(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        other = Dispatcher(Signer.generate(), dispatcher.domain)
        post_tree(evm, anchor, dispatcher, tree, 0, 5)
        post_tree(evm, anchor, other, tree, 0, 3)
        assert anchor.functions.latest(dispatcher.address).call()[0] == 5
        assert anchor.functions.latest(other.address).call()[0] == 3

    def test_a_registry_is_needed(self, evm: Evm) -> None:
        with reverts("a registry is needed"):
            evm.deploy("Anchor", NOBODY)


class TestSignatures:
    def submit(self, evm: Evm, anchor: Contract, dispatcher: str, signature: bytes) -> None:
        evm.send(anchor.functions.post(dispatcher, 5, b"\x01" * 32, TIME, signature, []))

    def test_what_was_not_signed(self, evm: Evm, anchor: Contract, dispatcher: Dispatcher) -> None:
        other = Dispatcher(Signer.generate(), dispatcher.domain)
        elsewhere = Dispatcher(dispatcher.signer, Domain(1, REGISTRY))
        another_network = Dispatcher(dispatcher.signer, Domain(dispatcher.domain.chain_id, "0x" + "60" * 20))
        root = b"\x01" * 32
        for signature in (
            dispatcher.sign(6, root, TIME),
            dispatcher.sign(5, b"\x02" * 32, TIME),
            dispatcher.sign(5, root, TIME + 1),
            other.sign(5, root, TIME),
            elsewhere.sign(5, root, TIME),
            another_network.sign(5, root, TIME),
        ):
            with reverts("the signature is another key's"):
                self.submit(evm, anchor, dispatcher.address, signature)

    def test_what_is_no_signature(self, evm: Evm, anchor: Contract, dispatcher: Dispatcher) -> None:
        good = dispatcher.sign(5, b"\x01" * 32, TIME)
        s = int.from_bytes(good[32:64], "big")
        high = good[:32] + (SECP256K1.order - s).to_bytes(32, "big") + bytes((55 - good[64],))
        for signature, reason in (
            (b"", "a signature has 65 bytes"),
            (good[:64], "a signature has 65 bytes"),
            (high, "the signature's s is high"),
            (good[:64] + b"\x00", "the signature's v is not 27 or 28"),
            (good[:64] + b"\x1d", "the signature's v is not 27 or 28"),
            (bytes(64) + b"\x1b", "the signature is no key's"),
            (b"\xff" * 32 + good[32:], "the signature is no key's"),
        ):
            with reverts(reason):
                self.submit(evm, anchor, dispatcher.address, signature)
        self.submit(evm, anchor, dispatcher.address, good)

    def test_the_zero_address_signs_nothing(self, evm: Evm, anchor: Contract) -> None:
        with reverts("the signature is no key's"):
            self.submit(evm, anchor, NOBODY, bytes(64) + b"\x1b")


class TestForks:
    def prove(self, anchor: Contract, dispatcher: Dispatcher, size: int, first: bytes, second: bytes) -> Any:
        return anchor.functions.proveFork(
            dispatcher.address,
            size,
            first,
            TIME,
            dispatcher.sign(size, first, TIME),
            second,
            TIME + 1,
            dispatcher.sign(size, second, TIME + 1),
        )

    def test_two_roots_of_one_size_end_the_log(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        post_tree(evm, anchor, dispatcher, tree, 0, 5)
        receipt = evm.send(self.prove(anchor, dispatcher, 7, tree.root(7), b"\x01" * 32))
        forked = {
            "dispatcher": dispatcher.address,
            "size": 7,
            "root_a": tree.root(7),
            "root_b": b"\x01" * 32,
        }
        assert events(anchor, receipt) == [("Forked", forked)]
        assert anchor.functions.forked(dispatcher.address).call() is True
        with reverts("the dispatcher has forked its log"):
            post_tree(evm, anchor, dispatcher, tree, 5, 6)
        with reverts("the fork is known"):
            evm.send(self.prove(anchor, dispatcher, 8, tree.root(8), b"\x01" * 32))
        assert anchor.functions.latest(dispatcher.address).call()[0] == 5

    def test_one_root_signed_twice_is_no_fork(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        with reverts("the roots are the same"):
            evm.send(self.prove(anchor, dispatcher, 7, tree.root(7), tree.root(7)))

    def test_nobody_can_forge_one(
        self, evm: Evm, anchor: Contract, dispatcher: Dispatcher, tree: Tree
    ) -> None:
        forger = Dispatcher(Signer.generate(), dispatcher.domain)
        root, other = tree.root(7), tree.root(8)
        good, forged = dispatcher.sign(7, root, TIME), forger.sign(7, other, TIME)
        of_another_size = dispatcher.sign(8, other, TIME)
        for signature in (forged, of_another_size, good):
            for pair in (
                (root, TIME, good, other, TIME, signature),
                (other, TIME, signature, root, TIME, good),
            ):
                with reverts("the signature is another key's"):
                    evm.send(anchor.functions.proveFork(dispatcher.address, 7, *pair))
        assert anchor.functions.forked(dispatcher.address).call() is False
