"""Faults that one transaction proves: equivocation, an invalid proof, a signature under another's name."""

from dataclasses import replace
from typing import Any

import pytest
from web3.utils.address import get_create_address

from aos_protocol import vrf
from aos_protocol.identity import Signer
from support.challenges import (
    ACCUSED,
    CHALLENGER,
    DISPATCHER,
    EQUIVOCATION,
    FOREIGN_SIGNATURE,
    INVALID_PROOF,
    JURORS,
    MAX_AGE,
    NOBODY,
    PER_SLOT,
    RIVAL,
    WIDTHS,
    Court,
    as_tuple,
    bound,
)
from support.evm import Evm, reverts

BOND_OF_ACCUSED = WIDTHS[ACCUSED] * PER_SLOT
OTHER = JURORS[0]


def equivocation(court: Court, **changes: Any) -> Any:
    """The call that shows two results of the accused, the second changed."""
    claim = court.claim()
    second = replace(claim, **({"answer": "77" * 32} | changes))
    return court.contract.functions.proveEquivocation(*court.signed(claim), *court.signed(second))


def bad_proof(court: Court, operator: int = ACCUSED) -> tuple[bytes, bytes]:
    """An alpha and a proof that holds on another one."""
    alpha, proof = court.ticket(operator, selected=True)
    return alpha[:-1] + b"\xff", proof


def invalid_proof(court: Court, alpha: bytes, proof: bytes, **changes: Any) -> Any:
    """The call that shows a result of the accused that is bound to this ticket."""
    claim = court.claim(vrf_proof=bound(alpha, proof), **changes)
    shown = court.shown(ACCUSED, alpha, proof)
    return court.contract.functions.proveInvalidProof(*court.signed(claim), *shown)


# Equivocation


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "77" * 32},
        {"clock": "77" * 32, "answer": "1b" * 32},
        {"job_id": "77" * 32, "answer": "1b" * 32},
        {"role": "verifier", "answer": "1b" * 32},
        {"registry_block": 0, "answer": "1b" * 32},
    ],
)
def test_two_results_at_one_entry_of_the_clock_cost_the_whole_bond(court: Court, changes: Any) -> None:
    before = court.evm.balance(NOBODY)
    receipt = court.evm.send(equivocation(court, **changes), sender=CHALLENGER)

    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND_OF_ACCUSED // 2}
    assert court.burned() == BOND_OF_ACCUSED - BOND_OF_ACCUSED // 2
    assert court.evm.balance(NOBODY) - before >= court.burned()
    assert court.evm.balance(court.contract.address) == BOND_OF_ACCUSED // 2
    assert court.registry.functions.operatorRanges(court.address(ACCUSED)).call() == [0, 0]
    event = court.event(receipt, "Convicted")
    assert (event["operator"], event["challenger"]) == (court.address(ACCUSED), court.address(CHALLENGER))
    assert (event["ground"], event["slashed"], event["burned"]) == (
        EQUIVOCATION,
        BOND_OF_ACCUSED,
        court.burned(),
    )


def test_an_odd_wei_is_burned(court: Court) -> None:
    court.evm.send(equivocation(court), sender=CHALLENGER)
    assert BOND_OF_ACCUSED % 2 == 1
    assert court.burned() == court.credit(CHALLENGER) + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counter": 18}, "two counters"),
        ({"answer": "1b" * 32}, "the same result"),
        ({"dispatcher": "0x" + "11" * 20}, "two dispatchers"),
        ({"operator": "0x" + "11" * 20}, "two operators"),
    ],
)
def test_what_is_no_equivocation(court: Court, changes: Any, reason: str) -> None:
    with reverts(reason):
        court.evm.send(equivocation(court, **changes), sender=CHALLENGER)


@pytest.mark.parametrize("forged", ["first", "second"])
def test_both_results_must_be_signed_by_the_operator(court: Court, forged: str) -> None:
    claim = court.claim()
    second = replace(claim, answer="77" * 32)
    signers = (OTHER, ACCUSED) if forged == "first" else (ACCUSED, OTHER)
    call = court.contract.functions.proveEquivocation(
        *court.signed(claim, signers[0]), *court.signed(second, signers[1])
    )
    with reverts("another key's"):
        court.evm.send(call, sender=CHALLENGER)


def test_equivocation_does_not_age(court: Court) -> None:
    call = equivocation(court)
    court.evm.mine(MAX_AGE + 5)
    court.evm.send(call, sender=CHALLENGER)
    assert court.bond_of(ACCUSED) == 0


def test_one_fault_is_punished_once_even_after_a_new_registration(court: Court) -> None:
    call = equivocation(court)
    court.evm.send(call, sender=CHALLENGER)
    court.register(ACCUSED, 0, WIDTHS[ACCUSED])
    with reverts("challenged already"):
        court.evm.send(call, sender=RIVAL)
    # A third result at that entry is the same fault; one at another entry is a new one.
    with reverts("challenged already"):
        court.evm.send(equivocation(court, answer="78" * 32), sender=RIVAL)
    claim = court.claim(counter=18)
    later = replace(claim, answer="79" * 32)
    court.evm.send(
        court.contract.functions.proveEquivocation(*court.signed(claim), *court.signed(later)), sender=RIVAL
    )
    assert court.credits() == {CHALLENGER: BOND_OF_ACCUSED // 2, RIVAL: BOND_OF_ACCUSED // 2}


def test_who_has_no_bond_is_not_convicted(court: Court) -> None:
    outsider = RIVAL
    claim = court.claim(outsider)
    second = replace(claim, answer="77" * 32)
    call = court.contract.functions.proveEquivocation(
        *court.signed(claim, outsider), *court.signed(second, outsider)
    )
    with reverts("no bond"):
        court.evm.send(call, sender=CHALLENGER)


def test_leaving_does_not_save_the_bond(court: Court) -> None:
    court.evm.send(court.registry.functions.leave(), sender=ACCUSED)
    court.evm.send(equivocation(court), sender=CHALLENGER)
    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND_OF_ACCUSED // 2}


def test_convicting_oneself_costs_half_of_the_bond(court: Court) -> None:
    court.evm.send(equivocation(court), sender=ACCUSED)
    assert court.credits() == {ACCUSED: BOND_OF_ACCUSED // 2}


# Invalid proof


def test_a_ticket_that_does_not_hold_costs_the_whole_bond(court: Court) -> None:
    alpha, proof = bad_proof(court)
    receipt = court.evm.send(invalid_proof(court, alpha, proof), sender=CHALLENGER)
    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND_OF_ACCUSED // 2}
    event = court.event(receipt, "Convicted")
    assert (event["ground"], event["slashed"]) == (INVALID_PROOF, BOND_OF_ACCUSED)
    assert event["burned"] == court.burned() == BOND_OF_ACCUSED - BOND_OF_ACCUSED // 2


def test_a_ticket_whose_gamma_is_no_point_costs_the_whole_bond(court: Court) -> None:
    alpha, proof = court.ticket(ACCUSED, selected=True)
    # 5 is no x-coordinate of secp256k1.
    proof = b"\x02" + (5).to_bytes(32, "big") + proof[33:]
    court.evm.send(invalid_proof(court, alpha, proof), sender=CHALLENGER)
    assert court.bond_of(ACCUSED) == 0


def test_an_honest_ticket_convicts_nobody(court: Court) -> None:
    with reverts("the proof holds"):
        court.evm.send(invalid_proof(court, *court.ticket(ACCUSED, selected=False)), sender=CHALLENGER)


@pytest.mark.parametrize("moved", [1, 15])
def test_an_honest_ticket_cut_elsewhere_convicts_nobody(court: Court, moved: int) -> None:
    """SHA-256 over alpha and proof does not say where the one ends; the lengths do."""
    alpha, proof = court.ticket(ACCUSED, selected=True)
    claim = court.claim(vrf_proof=bound(alpha, proof))
    signed, (key, _, _, told) = court.signed(claim), court.shown(ACCUSED, alpha, proof)
    # All that fits the types: the proof's last bytes cannot move into alpha, since a proof has 81 bytes at most.
    shorter = alpha[:-moved], alpha[-moved:] + proof[: 81 - moved]
    for parts in (shorter, (alpha, proof[:-moved])):
        with reverts("alpha has 96 bytes"):
            court.evm.send(court.contract.functions.proveInvalidProof(*signed, key, *parts, told))


def test_a_ticket_that_the_result_is_not_bound_to_convicts_nobody(court: Court) -> None:
    alpha, proof = bad_proof(court)
    claim = court.claim(vrf_proof=bound(alpha, proof[:-1] + b"\x00"))
    call = court.contract.functions.proveInvalidProof(
        *court.signed(claim), *court.shown(ACCUSED, alpha, proof)
    )
    with reverts("not bound to this proof"):
        court.evm.send(call, sender=CHALLENGER)


def test_the_ticket_is_checked_with_the_operator_s_own_key(court: Court) -> None:
    """An honest ticket does not hold under somebody else's key."""
    alpha, proof = court.ticket(ACCUSED, selected=True)
    claim = court.claim(vrf_proof=bound(alpha, proof))
    call = court.contract.functions.proveInvalidProof(*court.signed(claim), *court.shown(OTHER, alpha, proof))
    with reverts("the public key is not the operator's"):
        court.evm.send(call, sender=CHALLENGER)


def test_wrong_hints_convict_nobody(court: Court) -> None:
    alpha, proof = court.ticket(ACCUSED, selected=True)
    claim = court.claim(vrf_proof=bound(alpha, proof))
    key, _, _, told = court.shown(ACCUSED, alpha, proof)
    wrong = (*told[:4], told[3], told[5])
    call = court.contract.functions.proveInvalidProof(*court.signed(claim), key, alpha, proof, wrong)
    with reverts("bad hint"):
        court.evm.send(call, sender=CHALLENGER)


def test_one_invalid_ticket_is_punished_once(court: Court) -> None:
    alpha, proof = bad_proof(court)
    court.evm.send(invalid_proof(court, alpha, proof), sender=CHALLENGER)
    court.register(ACCUSED, 0, WIDTHS[ACCUSED])
    with reverts("challenged already"):
        court.evm.send(invalid_proof(court, alpha, proof, counter=99), sender=CHALLENGER)


def test_a_result_that_the_operator_did_not_sign_convicts_nobody_of_an_invalid_proof(court: Court) -> None:
    alpha, proof = bad_proof(court)
    claim = court.claim(vrf_proof=bound(alpha, proof))
    call = court.contract.functions.proveInvalidProof(
        *court.signed(claim, OTHER), *court.shown(ACCUSED, alpha, proof)
    )
    with reverts("another key's"):
        court.evm.send(call, sender=CHALLENGER)


# A signature under somebody else's name


def test_who_signs_as_somebody_else_is_the_one_to_lose(court: Court) -> None:
    claim = court.claim(ACCUSED)
    call = court.contract.functions.proveForeignSignature(*court.signed(claim, OTHER))
    receipt = court.evm.send(call, sender=CHALLENGER)
    bond = WIDTHS[OTHER] * PER_SLOT
    assert (court.bond_of(OTHER), court.bond_of(ACCUSED)) == (0, BOND_OF_ACCUSED)
    assert court.credits() == {CHALLENGER: bond // 2}
    assert court.burned() == bond - bond // 2
    event = court.event(receipt, "Convicted")
    assert (event["operator"], event["ground"]) == (court.address(OTHER), FOREIGN_SIGNATURE)
    with reverts("no bond"):
        court.evm.send(call, sender=CHALLENGER)
    court.register(OTHER, *court.ranges[OTHER])
    with reverts("challenged already"):
        court.evm.send(call, sender=CHALLENGER)


def test_a_result_signed_in_its_own_name_is_no_foreign_signature(court: Court) -> None:
    with reverts("signed it itself"):
        court.evm.send(court.contract.functions.proveForeignSignature(*court.signed(court.claim())))


def test_a_stranger_s_signature_convicts_nobody(court: Court) -> None:
    with reverts("no bond"):
        court.evm.send(
            court.contract.functions.proveForeignSignature(*court.signed(court.claim(), DISPATCHER))
        )


def test_a_signature_over_something_else_convicts_nobody(court: Court) -> None:
    """Recovered over another result, an honest signature is that of a key that nobody has."""
    signature = court.signed(court.claim(), ACCUSED)[1]
    changed = as_tuple(court.claim(answer="77" * 32))
    with reverts("no bond|no key's"):
        court.evm.send(court.contract.functions.proveForeignSignature(changed, signature))


def test_an_honest_operator_is_safe_from_a_key_that_is_not_its_own(court: Court) -> None:
    """The vectors of proofs with keys made up: a contract that took any key would find the proof invalid."""
    stranger = Signer(b"\x33" * 32)
    alpha = bytes(96)
    proof = vrf.prove(stranger, alpha)
    with reverts("the public key is not the operator's"):
        claim = court.claim(vrf_proof=bound(alpha, proof))
        key = court.shown(OTHER, alpha, proof)
        court.evm.send(court.contract.functions.proveInvalidProof(*court.signed(claim), *key))


# The contract's terms


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bond": 39}, "the bond is too small"),
        ({"answer_window": 0}, "a window is empty"),
        ({"vote_window": 0}, "a window is empty"),
        ({"max_age": 0}, "a window is empty"),
        ({}, "another slasher"),
    ],
)
def test_terms_that_cannot_work_are_refused(changes: dict[str, int], reason: str) -> None:
    """The last: nothing is wrong but that the registry was made for another contract."""
    evm = Evm(1)
    slasher = _created_next(evm, 2 if changes else 3)
    registry = evm.deploy("OperatorRegistry", slasher, 1, 1)
    sortition = evm.deploy("Sortition", registry.address)
    terms = {"bond": 40, "answer_window": 1, "vote_window": 1, "max_age": 1} | changes
    with reverts(reason):
        evm.deploy("Challenge", registry.address, sortition.address, *terms.values())


def test_sortition_must_be_over_the_same_registry() -> None:
    evm = Evm(1)
    other = evm.deploy("OperatorRegistry", _created_next(evm, 9), 1, 1)
    registry = evm.deploy("OperatorRegistry", _created_next(evm, 2), 1, 1)
    sortition = evm.deploy("Sortition", other.address)
    with reverts("another registry"):
        evm.deploy("Challenge", registry.address, sortition.address, 40, 1, 1, 1)


def _created_next(evm: Evm, place: int) -> str:
    """The address of what account 0 creates as its contract number `place` from now."""
    nonce = evm.web3.eth.get_transaction_count(evm.web3.to_checksum_address(evm.accounts[0]))
    return str(get_create_address(evm.web3.to_checksum_address(evm.accounts[0]), nonce + place))
