"""What the contract says of proofs: the same as aos_protocol.vrf, with hints that nobody has to be trusted for."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from eth_tester.exceptions import TransactionFailed
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from web3.contract import Contract

from aos_chain.hints import FIELD, Hints, coordinates
from aos_protocol.curves import SECP256K1
from aos_protocol.identity import Signer
from aos_protocol.vrf import PROOF_SIZE
from support.evm import Evm, reverts
from support.sortition import (
    MAX_ALPHA,
    REFUSED,
    VECTORS,
    Case,
    changed,
    compressed,
    fixed_answer,
    gamma_by,
    gamma_giving,
    good,
    published,
    small_x,
    small_y,
)

ORDER = SECP256K1.order
MAX_RANGE = 600_000
TARGET_GAS = 150_000

POSITIVE = published("atikayda_secp256k1_rfc9381.json", "vectors")
NEGATIVE = published("atikayda_secp256k1_rfc9381.json", "negative_vectors")
UNSALTED = published("secp256kfun_vrf_fun_emptysalt.json", "vectors")

SIGNER = Signer(b"\x0b" * 32)
# Two counters are refused before the one that H comes from.
GOOD = next(
    case for n in range(256) if len((case := good(SIGNER, b"seed and prompt" + bytes((n,)))).hints.roots) == 3
)
POINTS = ("u", "s_h", "c_gamma", "v")
NUMBERS = ("gamma_y", *(f"{point}.{axis}" for point in POINTS for axis in (0, 1)))


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm(2)


@pytest.fixture(scope="module")
def sortition(evm: Evm) -> Contract:
    """With a registry that only has a MAX_RANGE: proofs need no other."""
    return evm.deploy("Sortition", fixed_answer(evm, MAX_RANGE))


@pytest.mark.parametrize(("case", "beta"), POSITIVE)
def test_published_proofs_hold(sortition: Contract, case: Case, beta: bytes) -> None:
    if len(case.alpha) <= MAX_ALPHA:
        assert case.ask(sortition) == (True, beta)
        return
    # One vector proves 65,537 bytes, whose calldata alone would fill a block; no alpha of ours has more than 96.
    with reverts("execution reverted"):
        case.ask(sortition)


@pytest.mark.parametrize(("case", "beta"), NEGATIVE + UNSALTED)
def test_published_bad_proofs_are_refused(sortition: Contract, case: Case, beta: bytes) -> None:
    del beta
    if len(case.proof) <= PROOF_SIZE:
        assert case.ask(sortition) == REFUSED
        return
    with reverts("execution reverted"):
        case.ask(sortition)


def test_a_verification_takes_less_gas_than_the_target(evm: Evm, sortition: Contract) -> None:
    """As a transaction, on average over the published vectors that the contract takes."""
    if not VECTORS.exists():
        pytest.skip(f"no published vectors at {VECTORS}")
    cases = [parameter.values[0] for parameter in POSITIVE if len(parameter.values[0].alpha) <= MAX_ALPHA]
    used = [evm.send(case.call(sortition))["gasUsed"] for case in cases]
    assert len(used) == 50
    assert sum(used) / len(used) < TARGET_GAS / 2


# What an adversary proves.


def off_curve() -> int:
    """The least x that has no y."""
    return next(x for x in range(1, 100) if pow(x**3 + 7, (FIELD - 1) // 2, FIELD) != 1)


def between_order_and_field() -> int:
    """The least x of a point that is not below the group's order; ecrecover takes none such."""
    return next(x for x in range(ORDER, FIELD) if pow(x**3 + 7, (FIELD - 1) // 2, FIELD) == 1)


def u_infinite(c: int = 5) -> Case:
    """s = c * secret: the prover knows how to make U infinity, and with its own Gamma also V."""
    return changed(GOOD, c=c, s=c * int.from_bytes(SIGNER.secret, "big") % ORDER)


GOOD_GAMMA = GOOD.proof[1:33]
ADVERSARIAL = {
    "gamma off the curve, even": changed(GOOD, gamma=compressed(2, off_curve())),
    "gamma off the curve, odd": changed(GOOD, gamma=compressed(3, off_curve())),
    "gamma's x is 0": changed(GOOD, gamma=compressed(2, 0)),
    "gamma's other y": changed(GOOD, gamma=bytes((GOOD.proof[0] ^ 1,)) + GOOD_GAMMA),
    **{f"gamma's prefix {n}": changed(GOOD, gamma=bytes((n,)) + GOOD_GAMMA) for n in (0, 1, 4, 5, 6, 7, 255)},
    "gamma's x is the field's order": changed(GOOD, gamma=compressed(2, FIELD)),
    "gamma's x is the greatest number": changed(GOOD, gamma=compressed(3, 2**256 - 1)),
    "gamma's x is not below the order": changed(GOOD, gamma=compressed(2, between_order_and_field())),
    "gamma is the base point": changed(GOOD, gamma=SECP256K1.encode(SECP256K1.multiply_base(1))),
    "gamma is the key": changed(GOOD, gamma=GOOD.key),
    "c is 0": changed(GOOD, c=0),
    "c is 1": changed(GOOD, c=1),
    "c is the greatest": changed(GOOD, c=2**128 - 1),
    "s is 0": changed(GOOD, s=0),
    "s is 1": changed(GOOD, s=1),
    "s is the greatest": changed(GOOD, s=ORDER - 1),
    "s is the order": changed(GOOD, s=ORDER),
    "s is above the order": changed(GOOD, s=ORDER + 1),
    "s is the greatest number": changed(GOOD, s=2**256 - 1),
    "c and s are 0": changed(GOOD, c=0, s=0),
    "u and v infinite": u_infinite(),
    "u infinite": changed(u_infinite(), gamma=compressed(2, coordinates(GOOD.key)[0])),
    "v infinite": gamma_by(GOOD, 1),
    "v doubled": gamma_by(GOOD, -1),
    "empty": replace(GOOD, proof=b""),
    "a byte short": replace(GOOD, proof=GOOD.proof[:-1]),
    "zeros": replace(GOOD, proof=bytes(81)),
    "of another alpha": replace(GOOD, alpha=GOOD.alpha + b"\0"),
    "of another key": replace(GOOD, key=Signer(b"\x0c" * 32).public_key),
    "of the key's negative": replace(GOOD, key=bytes((GOOD.key[0] ^ 1,)) + GOOD.key[1:]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_proofs_are_refused(sortition: Contract, name: str) -> None:
    case = ADVERSARIAL[name]
    assert case.ask(sortition) == REFUSED == case.expected()


def test_the_special_cases_are_what_they_say() -> None:
    """The points that the contract treats by themselves really come up in the cases above."""
    none = (0, 0)
    infinite, both = ADVERSARIAL["u infinite"].hints, ADVERSARIAL["u and v infinite"].hints
    assert infinite.u == both.u == both.v == none != infinite.v
    meeting, doubled = ADVERSARIAL["v infinite"].hints, ADVERSARIAL["v doubled"].hints
    assert meeting.s_h == meeting.c_gamma
    assert meeting.v == none != meeting.u
    assert doubled.c_gamma == (doubled.s_h[0], FIELD - doubled.s_h[1])
    assert doubled.v != none


# Hints that are wrong.


def leaves(told: Hints) -> list[str]:
    return [*NUMBERS, *(f"roots.{index}" for index in range(len(told.roots)))]


def number(told: Hints, leaf: str) -> int:
    field, _, index = leaf.partition(".")
    value: Any = getattr(told, field)
    return int(value[int(index)] if index else value)


def with_number(told: Hints, leaf: str, value: int) -> Hints:
    field, _, index = leaf.partition(".")
    if not index:
        return replace(told, gamma_y=value)
    entries = list(getattr(told, field))
    entries[int(index)] = value
    return replace(told, **{field: tuple(entries)})


@pytest.mark.parametrize("leaf", leaves(GOOD.hints))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_single_wrong_hint_reverts(sortition: Contract, leaf: str, data: st.DataObject) -> None:
    told = GOOD.hints
    right = number(told, leaf)
    special = [0, 1, right + 1, right - 1, FIELD, FIELD - 1, 2**256 - 1, (FIELD - right) % 2**256]
    value = data.draw(st.integers(0, 2**256 - 1) | st.sampled_from(special))
    assume(value not in _right_values(told, leaf))
    with reverts("bad hint"):
        GOOD.ask(sortition, with_number(told, leaf, value))


def _right_values(told: Hints, leaf: str) -> set[int]:
    right = number(told, leaf)
    refused = leaf.startswith("roots") and leaf != f"roots.{len(told.roots) - 1}"
    # Both roots of a refused counter show the same.
    return {right, FIELD - right} if refused else {right}


@pytest.mark.parametrize("name", ["v doubled", "of another alpha", "gamma's other y", "c is 1"])
def test_wrong_hints_do_not_decide_against_a_proof_either(sortition: Contract, name: str) -> None:
    case = ADVERSARIAL[name]
    told = case.hints
    for leaf in leaves(told):
        wrong = with_number(told, leaf, number(told, leaf) ^ 1)
        with reverts("bad hint"):
            case.ask(sortition, wrong)


def negations(told: Hints) -> Iterator[tuple[str, Hints]]:
    """The hints with one y's sign changed: still on the curve, but the other point of that x."""
    for leaf in ("gamma_y", f"roots.{len(told.roots) - 1}", *(f"{point}.1" for point in POINTS)):
        yield leaf, with_number(told, leaf, FIELD - number(told, leaf))


def test_the_other_point_of_the_same_x_is_a_wrong_hint(sortition: Contract) -> None:
    for name in ("v doubled", "of another key"):
        for _, told in negations(ADVERSARIAL[name].hints):
            with reverts("bad hint"):
                ADVERSARIAL[name].ask(sortition, told)
    for leaf, told in negations(GOOD.hints):
        with reverts(f"bad hint: {'y' if leaf.startswith(('gamma', 'roots')) else leaf[:-2]}"):
            GOOD.ask(sortition, told)


def test_points_of_each_other_are_wrong_hints(sortition: Contract) -> None:
    told = GOOD.hints
    for wrong in (
        replace(told, u=told.v, v=told.u),
        replace(told, s_h=told.c_gamma, c_gamma=told.s_h),
        replace(told, u=(0, 0)),
        replace(told, s_h=told.c_gamma),
        replace(told, c_gamma=told.s_h),
        replace(told, s_h=told.u, c_gamma=told.u),
        replace(told, v=told.s_h),
        replace(told, v=(0, 0)),
        Hints(),
    ):
        with reverts("bad hint"):
            GOOD.ask(sortition, wrong)


def on_the_line(told: Hints) -> Iterator[tuple[int, int]]:
    """Points that lie on the line through s * H and -c * Gamma, or on the tangent, but are not V."""
    (x1, y1), (x2, y2) = told.s_h, told.c_gamma
    slope = 3 * x1 * x1 * pow(2 * y1, -1, FIELD) if x1 == x2 else (-y2 - y1) * pow(x2 - x1, -1, FIELD)
    for x in (x1, x2, 0, 1, told.v[0] + 1, FIELD - 1):
        yield x, (slope * (x1 - x) - y1) % FIELD
    yield told.v[0], FIELD - told.v[1]


@pytest.mark.parametrize("case", [GOOD, ADVERSARIAL["v doubled"]])
def test_v_is_the_one_sum_on_its_line(sortition: Contract, case: Case) -> None:
    for wrong in on_the_line(case.hints):
        with reverts("bad hint: v"):
            case.ask(sortition, replace(case.hints, v=wrong))


@pytest.mark.parametrize(("point", "unreduced"), [(small_x(), (FIELD, 0)), (small_y(), (0, FIELD))])
def test_coordinates_of_v_are_reduced(
    sortition: Contract, point: tuple[int, int], unreduced: tuple[int, int]
) -> None:
    """The challenge is hashed over them: other bytes for the same point would be another challenge."""
    case = gamma_giving(GOOD, compressed(2 + point[1] % 2, point[0]))
    assert case.hints.v == point
    assert case.ask(sortition) == REFUSED == case.expected()
    with reverts("bad hint: v"):
        case.ask(sortition, replace(case.hints, v=(point[0] + unreduced[0], point[1] + unreduced[1])))


def test_a_root_is_reduced(sortition: Contract) -> None:
    """y + FIELD has the parity of FIELD - y, the right root for the other prefix."""
    x, y = small_y()
    case = changed(GOOD, gamma=compressed(2 + (y + 1) % 2, x))
    assert case.hints.gamma_y == FIELD - y
    assert case.ask(sortition) == REFUSED
    with reverts("bad hint: y"):
        case.ask(sortition, replace(case.hints, gamma_y=FIELD + y))


def test_try_and_increment_cannot_be_bent(sortition: Contract) -> None:
    told = GOOD.hints
    first, second, last = told.roots
    for roots in (
        (),
        (first,),
        (first, second),
        (last,),
        (second, last),
        (first, second, last, last),
        (first, second, FIELD - last),
        (first, second, last + FIELD if last + FIELD < 2**256 else 0),
        (second, first, last),
    ):
        with reverts("bad hint: (roots|y)"):
            GOOD.ask(sortition, replace(told, roots=roots))
    with reverts("execution reverted"):
        GOOD.ask(sortition, replace(told, roots=(*told.roots, *[0] * 62)))
    assert GOOD.ask(sortition, replace(told, roots=(FIELD - first, second, last))) == GOOD.expected()


@pytest.mark.parametrize("prefix", [2, 3])
def test_nobody_can_say_that_gamma_is_off_the_curve_unless_it_is(sortition: Contract, prefix: int) -> None:
    outside = changed(GOOD, gamma=compressed(prefix, off_curve()))
    root = outside.hints.gamma_y
    assert outside.ask(sortition, replace(outside.hints, gamma_y=FIELD - root)) == REFUSED
    for wrong in (0, 1, root ^ 1, GOOD.hints.gamma_y):
        with reverts("bad hint: y"):
            outside.ask(sortition, replace(outside.hints, gamma_y=wrong))
    inside = replace(GOOD.hints, gamma_y=root)
    with reverts("bad hint: y"):
        GOOD.ask(sortition, inside)


@pytest.mark.parametrize(
    "key",
    [
        (0, 0),
        (0, 1),
        (coordinates(GOOD.key)[0], coordinates(GOOD.key)[1] ^ 1),
        (coordinates(GOOD.key)[0] ^ 1, coordinates(GOOD.key)[1]),
        (coordinates(GOOD.key)[0], 0),
        (1, 2**256 - 1),
        (small_y()[0], small_y()[1] + FIELD),
        (FIELD + 1, pow(8, (FIELD + 1) // 4, FIELD)),
        (2**256 - 1, 2**256 - 1),
        (between_order_and_field(), pow(between_order_and_field() ** 3 + 7, (FIELD + 1) // 4, FIELD)),
    ],
)
def test_keys_that_are_no_points_are_refused(sortition: Contract, key: tuple[int, int]) -> None:
    call = sortition.functions.verify(key, GOOD.alpha, GOOD.proof, GOOD.hints.abi())
    with reverts("public key: not on the curve"):
        call.call()


def test_too_long_a_proof_or_alpha_is_refused(sortition: Contract) -> None:
    for case in (replace(GOOD, proof=GOOD.proof + b"\0"), good(SIGNER, bytes(MAX_ALPHA + 1))):
        with reverts("execution reverted"):
            case.ask(sortition)
    longest = good(SIGNER, bytes(MAX_ALPHA))
    assert longest.ask(sortition) == longest.expected() != REFUSED


def test_too_little_gas_never_makes_a_good_proof_invalid(sortition: Contract) -> None:
    """An ecrecover that runs out of gas gives nothing back, as it does for infinity."""
    call, expected = GOOD.call(sortition), GOOD.expected()
    enough = call.estimate_gas()
    answers = set()
    for gas in range(enough - 20_000, enough + 500, 61):
        try:
            answers.add(tuple(call.call({"gas": gas})))
        except TransactionFailed:
            answers.add(None)
    assert answers == {None, expected}


# The same as the protocol's own verification, whatever comes.

SECRETS = st.integers(1, ORDER - 1).map(lambda scalar: scalar.to_bytes(32, "big"))


@st.composite
def shown(draw: st.DrawFn) -> Case:
    """A proof, perhaps changed."""
    case = good(Signer(draw(SECRETS)), draw(st.binary(max_size=MAX_ALPHA)))
    match draw(st.sampled_from(["as it is", "flipped", "scalars", "gamma", "alpha", "key"])):
        case "flipped":
            at, mask = draw(st.integers(0, 80)), draw(st.integers(1, 255))
            proof = bytearray(case.proof)
            proof[at] ^= mask
            return replace(case, proof=bytes(proof))
        case "scalars":
            return changed(case, c=draw(st.integers(0, 2**128 - 1)), s=draw(st.integers(0, 2**256 - 1)))
        case "gamma":
            return changed(case, gamma=Signer(draw(SECRETS)).public_key)
        case "alpha":
            return replace(case, alpha=draw(st.binary(max_size=MAX_ALPHA)))
        case "key":
            return replace(case, key=Signer(draw(SECRETS)).public_key)
    return case


@settings(max_examples=60, deadline=None)
@given(case=shown())
def test_contract_and_protocol_agree(sortition: Contract, case: Case) -> None:
    assert case.ask(sortition) == case.expected()
