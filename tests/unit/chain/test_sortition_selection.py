"""The contract's selection rule is aos_protocol.sortition's, by the ranges of the real registry."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from web3.contract import Contract

from aos_protocol import sortition as protocol
from aos_protocol.errors import InvalidMessage
from support.evm import Evm, reverts
from support.sortition import fixed_answer

MAX_RANGE = protocol.MAX_RANGE
POSITIONS = ("", "before", "after")
TAGS = ("", "suspicion", "malicious")
PAIRS = [("", ""), *((tag, position) for tag in TAGS[1:] for position in POSITIONS[1:])]
NOBODY = "0x" + "11" * 20

# Where a slot begins and the last output before it, half-way carries, and the ends.
EDGES = [0, 1, 2**127, 2**128 - 1, 2**128, 2**128 + 1, 2**255, 2**256 - 2**128, 2**256 - 2, 2**256 - 1]
OUTPUTS = (
    st.integers(0, 2**256 - 1)
    | st.sampled_from(EDGES)
    | st.builds(
        lambda slot, by: min(max(-(-(slot << 256) // MAX_RANGE) + by, 0), 2**256 - 1),
        st.integers(0, MAX_RANGE),
        st.integers(-2, 2),
    )
    | st.builds(
        lambda high, low: (high << 128) + low, st.integers(0, 2**128 - 1), st.sampled_from([0, 2**128 - 1])
    )
).map(lambda number: number.to_bytes(32, "big"))


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm(4)


@pytest.fixture(scope="module")
def registry(evm: Evm) -> Contract:
    """Account 1 has [0, 200000), account 2 has [599990, 600000)."""
    registry = evm.deploy("OperatorRegistry", evm.accounts[0], 1, 60)
    _range(evm, registry.functions.registerOperator, 1, (0, 200_000))
    _range(evm, registry.functions.registerOperator, 2, (599_990, MAX_RANGE))
    return registry


def _range(evm: Evm, function: Any, account: int, bounds: tuple[int, int]) -> int:
    call = function(evm.accounts[account], *bounds)
    return int(evm.send(call, sender=account, value=bounds[1] - bounds[0])["blockNumber"])


@pytest.fixture(scope="module")
def sortition(evm: Evm, registry: Contract) -> Contract:
    return evm.deploy("Sortition", registry.address)


@settings(max_examples=150, deadline=None)
@given(output=OUTPUTS)
def test_values_are_exact(sortition: Contract, output: bytes) -> None:
    assert sortition.functions.value(output).call() == protocol.ticket_value(output)


def test_values_at_the_ends(sortition: Contract) -> None:
    value = sortition.functions.value
    assert [value(number.to_bytes(32, "big")).call() for number in (0, 2**256 - 1)] == [0, MAX_RANGE - 1]
    first = -(-(1 << 256) // MAX_RANGE)
    assert [value(number.to_bytes(32, "big")).call() for number in (first - 1, first)] == [0, 1]


@pytest.mark.parametrize(("tag", "position"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(bounds=st.tuples(st.integers(0, MAX_RANGE), st.integers(0, MAX_RANGE)))
def test_thresholds(sortition: Contract, tag: str, position: str, bounds: tuple[int, int]) -> None:
    """An empty or reversed range has none, whatever the tag."""
    expected = protocol.ticket_threshold(*bounds, tag, position)
    assert sortition.functions.threshold(*bounds, tag, position).call() == expected


@pytest.mark.parametrize("bounds", [(0, 0), (5, 5), (6, 5), (0, 1), (0, MAX_RANGE)])
def test_thresholds_at_the_ends(sortition: Contract, bounds: tuple[int, int]) -> None:
    for tag, position in PAIRS:
        expected = protocol.ticket_threshold(*bounds, tag, position)
        assert sortition.functions.threshold(*bounds, tag, position).call() == expected


@pytest.mark.parametrize(
    ("tag", "position"),
    [
        *((tag, position) for tag in TAGS for position in POSITIONS if (tag, position) not in PAIRS),
        ("opml", ""),
        ("Suspicion", "before"),
        ("suspicion ", "after"),
        ("malicious", "Before"),
        ("malicious", "during"),
        ("", "suspicion"),
        ("x" * 16, "x" * 16),
    ],
)
@pytest.mark.parametrize("bounds", [(0, 10), (0, 0)])
def test_unknown_tags_and_positions_are_refused(
    sortition: Contract, tag: str, position: str, bounds: tuple[int, int]
) -> None:
    with pytest.raises(InvalidMessage):
        protocol.ticket_threshold(*bounds, tag, position)
    with reverts("no selection rule"):
        sortition.functions.threshold(*bounds, tag, position).call()
    with reverts("no selection rule"):
        sortition.functions.selected(NOBODY, 0, tag, position, bytes(32)).call()


def test_longer_tags_do_not_pass(sortition: Contract) -> None:
    with reverts("execution reverted"):
        sortition.functions.threshold(0, 10, "suspicion" + "\0" * 8, "after").call()


@pytest.mark.parametrize(("tag", "position"), PAIRS)
@settings(max_examples=12, deadline=None)
@given(account=st.sampled_from([1, 2]), output=OUTPUTS, near=st.none() | st.integers(-1, 1))
def test_who_is_selected(
    evm: Evm,
    registry: Contract,
    sortition: Contract,
    tag: str,
    position: str,
    account: int,
    output: bytes,
    near: int | None,
) -> None:
    """By the registry's range; `near` moves the output to the slots about the threshold."""
    operator, block = evm.accounts[account], evm.web3.eth.block_number
    threshold = protocol.ticket_threshold(*registry.functions.operatorRanges(operator).call(), tag, position)
    if near is not None:
        output = (-(-(threshold << 256) // MAX_RANGE) + near).to_bytes(32, "big")
    expected = protocol.ticket_value(output) < threshold
    assert sortition.functions.selected(operator, block, tag, position, output).call() is expected


def test_the_range_is_that_of_the_block(evm: Evm, registry: Contract, sortition: Contract) -> None:
    operator = evm.accounts[1]
    output = (-(-(150_000 << 256) // MAX_RANGE)).to_bytes(32, "big")
    with evm.undone():
        before = evm.web3.eth.block_number
        after = _range(evm, registry.functions.updateOperatorRange, 1, (0, 100_000))
        answers = [
            sortition.functions.selected(operator, block, "", "", output).call()
            for block in (0, before, after)
        ]
    assert answers == [False, True, False]


def test_who_has_no_range_is_never_selected(evm: Evm, sortition: Contract) -> None:
    for tag, position in PAIRS:
        for operator in (NOBODY, evm.accounts[3]):
            block = evm.web3.eth.block_number
            assert not sortition.functions.selected(operator, block, tag, position, bytes(32)).call()


def test_a_registry_of_another_range_is_refused(evm: Evm, registry: Contract) -> None:
    with reverts("another MAX_RANGE"):
        evm.deploy("Sortition", fixed_answer(evm, MAX_RANGE - 1))
    for address in (NOBODY, evm.deploy("Sortition", registry.address).address):
        with reverts("execution reverted"):
            evm.deploy("Sortition", address)


def test_it_tells_its_registry(registry: Contract, sortition: Contract) -> None:
    assert sortition.functions.REGISTRY().call() == registry.address
