"""Payments are pulled, by their owners alone, and nobody gets in between."""

from dataclasses import replace
from typing import Any

import pytest
from web3.contract import Contract

from aos_protocol.typed_data import Domain, sign_typed
from aos_protocol.vrf import SECP256K1
from support.challenges import (
    ACCUSED,
    BOND,
    CHALLENGER,
    JURORS,
    MATCH,
    NO_MATCH,
    NOBODY,
    PER_SLOT,
    WIDTHS,
    Court,
    as_tuple,
    high,
)
from support.evm import reverts

ACCEPT, REFUSE, RE_ENTER = 0, 1, 2
HALF = WIDTHS[ACCUSED] * PER_SLOT // 2 + 1


def won_by(court: Court, puppet: Contract) -> int:
    """Have an account with code win a challenge; what it is owed."""
    call = court.contract.functions.challengeMismatch(*court.signed(court.claim()))
    court.evm.send(
        puppet.functions.act(court.contract.address, call._encode_transaction_data()),
        sender=CHALLENGER,
        value=BOND,
    )
    court.close(court.contract.functions.lastChallenge().call())
    return int(court.contract.functions.credit(puppet.address).call())


def withdraw_by(court: Court, puppet: Contract) -> None:
    data = court.contract.functions.withdraw()._encode_transaction_data()
    court.evm.send(puppet.functions.act(court.contract.address, data))


def manner(court: Court, puppet: Contract, how: int, call: Any = None) -> None:
    data = call._encode_transaction_data() if call is not None else b""
    court.evm.send(puppet.functions.receive_by(how, court.contract.address, data))


def test_a_credit_is_withdrawn_once_and_whole(court: Court) -> None:
    court.close(court.mismatch())
    before, owed = court.evm.balance(court.address(CHALLENGER)), court.credit(CHALLENGER)
    receipt = court.evm.send(court.contract.functions.withdraw(), sender=CHALLENGER)
    gas = receipt["gasUsed"] * receipt["effectiveGasPrice"]
    assert owed == BOND + HALF // 2
    assert court.evm.balance(court.address(CHALLENGER)) == before + owed - gas
    assert court.event(receipt, "Withdrawn") == {"account": court.address(CHALLENGER), "amount": owed}
    assert court.credits() == {}
    assert court.evm.balance(court.contract.address) == 0
    with reverts("no credit"):
        court.evm.send(court.contract.functions.withdraw(), sender=CHALLENGER)


def test_bonds_of_open_challenges_are_nobody_s_credit(court: Court) -> None:
    court.mismatch()
    with reverts("no credit"):
        court.evm.send(court.contract.functions.withdraw(), sender=CHALLENGER)


def test_what_is_burned_reaches_the_zero_address(court: Court) -> None:
    identifier = court.mismatch()
    before = court.evm.balance(NOBODY)
    receipt = court.close(identifier)
    # The tips of this chain's blocks go to the zero address, too.
    base_fee = court.evm.web3.eth.get_block(receipt["blockNumber"])["baseFeePerGas"]
    tip = receipt["gasUsed"] * (receipt["effectiveGasPrice"] - base_fee)
    assert court.evm.balance(NOBODY) - before - tip == court.burned() > 0


def test_a_receiver_that_refuses_holds_up_nobody_else(court: Court) -> None:
    puppet = court.puppet()
    manner(court, puppet, REFUSE)
    owed = won_by(court, puppet)
    assert owed == BOND + HALF // 2
    with reverts("no ether, please"):
        withdraw_by(court, puppet)
    assert court.contract.functions.credit(puppet.address).call() == owed

    court.close(court.mismatch(court.claim(job_id="77" * 32)))
    court.evm.send(court.contract.functions.withdraw(), sender=CHALLENGER)
    manner(court, puppet, ACCEPT)
    withdraw_by(court, puppet)
    assert court.evm.balance(puppet.address) == owed
    assert court.evm.balance(court.contract.address) == 0


@pytest.mark.parametrize(
    "step",
    ["withdraw", "close", "challenge", "equivocation", "foreign", "answer", "draw", "vote", "seat", "proof"],
)
def test_nothing_is_re_entered_while_ether_goes_out(court: Court, step: str) -> None:
    """Each call would have worked a moment later, or fails for its own reason: in between it must not even get there."""
    puppet = court.puppet()
    owed = won_by(court, puppet)
    identifier = court.mismatch(court.claim(job_id="77" * 32))
    court.after_window(identifier)
    manner(court, puppet, RE_ENTER, _re_entering(court, step, identifier))
    lost = court.evm.balance(court.contract.address)
    withdraw_by(court, puppet)
    assert puppet.functions.attempts().call() == 1
    assert puppet.functions.successes().call() == 0
    # Without words: the lock is the first thing that each of them looks at.
    assert puppet.functions.answer().call() == b""
    assert court.evm.balance(puppet.address) == owed
    assert lost - court.evm.balance(court.contract.address) == owed
    assert court.locks(ACCUSED) == 1


def _re_entering(court: Court, step: str, identifier: int) -> Any:
    functions = court.contract.functions
    claim = court.claim()
    ticket = court.shown(ACCUSED, *court.ticket(ACCUSED, selected=False))
    other = court.signed(court.claim(answer="77" * 32))
    key, _, proof, told = ticket
    vote = (identifier, court.address(JURORS[0]), MATCH, bytes(65), key, proof, told)
    return {
        "withdraw": functions.withdraw,
        "close": lambda: functions.close(identifier),
        "challenge": lambda: functions.challengeMismatch(*court.signed(claim)),
        "equivocation": lambda: functions.proveEquivocation(*court.signed(claim), *other),
        "foreign": lambda: functions.proveForeignSignature(*court.signed(claim, JURORS[0])),
        "answer": lambda: functions.answer(identifier),
        "draw": lambda: functions.draw(identifier),
        "vote": lambda: functions.vote(*vote),
        "seat": lambda: functions.answerSeat(identifier, bytes(65)),
        "proof": lambda: functions.proveInvalidProof(*court.signed(claim), *ticket),
    }[step]()


def test_the_same_calls_work_from_outside(court: Court) -> None:
    """What the test above sees refused is the lock's doing: without it, closing in between would have worked."""
    puppet = court.puppet()
    won_by(court, puppet)
    identifier = court.mismatch(court.claim(job_id="77" * 32))
    court.after_window(identifier)
    withdraw_by(court, puppet)
    data = court.contract.functions.close(identifier)._encode_transaction_data()
    court.evm.send(puppet.functions.act(court.contract.address, data))
    assert court.locks(ACCUSED) == 0


@pytest.mark.parametrize("data", ["0x", "0x12345678"])
def test_ether_that_nobody_asked_for_is_refused(court: Court, data: str) -> None:
    with reverts("only the registry pays"):
        court.evm.wait(
            court.evm.web3.eth.send_transaction(
                {"from": court.evm.accounts[0], "to": court.contract.address, "value": 1, "data": data}
            )
        )


def test_calls_that_cost_nothing_take_nothing(court: Court) -> None:
    identifier = court.mismatch()
    for call in (
        court.contract.functions.answer(identifier),
        court.contract.functions.close(identifier),
        court.contract.functions.withdraw(),
    ):
        data = call._encode_transaction_data()
        with reverts():
            court.evm.wait(
                court.evm.web3.eth.send_transaction(
                    {"from": court.address(ACCUSED), "to": court.contract.address, "value": 1, "data": data}
                )
            )


@pytest.mark.filterwarnings("ignore:SELFDESTRUCT opcode:DeprecationWarning")
def test_ether_that_is_forced_in_belongs_to_nobody_and_changes_nothing(court: Court) -> None:
    """A contract that destroys itself while it is created pays whom it likes: PUSH20 address, SELFDESTRUCT."""
    code = "0x73" + court.contract.address[2:] + "ff"
    court.evm.wait(
        court.evm.web3.eth.send_transaction({"from": court.evm.accounts[0], "data": code, "value": 5})
    )
    assert court.evm.balance(court.contract.address) == 5
    court.close(court.mismatch())
    assert court.credits() == {CHALLENGER: BOND + HALF // 2}
    court.evm.send(court.contract.functions.withdraw(), sender=CHALLENGER)
    assert court.evm.balance(court.contract.address) == 5


# Signatures that are none


def malformed(signature: bytes) -> list[Any]:
    zeros = bytes(32)
    order = SECP256K1.order.to_bytes(32, "big")
    return [
        (b"", "a signature has 65 bytes"),
        (signature[:64], "a signature has 65 bytes"),
        (high(signature), "s is high"),
        (signature[:64] + b"\x00", "v is not 27 or 28"),
        (signature[:64] + b"\x01", "v is not 27 or 28"),
        (signature[:64] + b"\x1d", "v is not 27 or 28"),
        (zeros + signature[32:], "no key's"),
        (order + signature[32:], "no key's"),
        (signature[:32] + zeros + signature[64:], "no key's"),
        (signature[:64] + bytes((55 - signature[64],)), "another key's|no key's"),
        (bytes(reversed(signature[:32])) + signature[32:], "another key's|no key's"),
    ]


def test_malformed_signatures_are_refused_with_a_reason(court: Court) -> None:
    claim = court.claim()
    signature = court.signed(claim)[1]
    for changed, reason in malformed(signature):
        with reverts(reason):
            call = court.contract.functions.challengeMismatch(as_tuple(claim), changed)
            court.evm.send(call, sender=CHALLENGER, value=BOND)


def test_a_claim_of_the_zero_address_is_nobody_s(court: Court) -> None:
    """ecrecover gives zero for what is no signature: it must not count as that address's."""
    claim = replace(court.claim(), operator=NOBODY)
    signature = bytes(32) + court.signed(claim)[1][32:]
    with reverts("no key's"):
        call = court.contract.functions.challengeMismatch(as_tuple(claim), signature)
        court.evm.send(call, sender=CHALLENGER, value=BOND)


def test_malformed_votes_and_seats_are_refused_with_a_reason(court: Court) -> None:
    identifier = court.jury()
    good = court.ballot(identifier, JURORS[0], NO_MATCH)
    for changed, reason in malformed(good.args[3]):
        with reverts(reason):
            court.evm.send(court.ballot(identifier, JURORS[0], NO_MATCH, vote_signature=changed))
    claim, shown = court.drawn(selected=False)
    other = court.open(court.contract.functions.challengeMembership(*court.signed(claim), *shown))
    for changed, reason in malformed(court.seat_signature(claim)):
        with reverts(reason):
            court.evm.send(court.contract.functions.answerSeat(other, changed))


@pytest.mark.parametrize(
    ("chain_id", "registry"), [(1, None), (None, "0x" + "11" * 20)], ids=["another chain", "another registry"]
)
def test_a_signature_of_another_network_is_another_key_s(
    court: Court, chain_id: int | None, registry: str | None
) -> None:
    domain = Domain(chain_id or court.domain.chain_id, registry or court.domain.registry)
    claim = court.claim()
    signature = bytes.fromhex(sign_typed(court.signers[ACCUSED], domain, claim))
    with reverts("another key's"):
        call = court.contract.functions.challengeMismatch(as_tuple(claim), signature)
        court.evm.send(call, sender=CHALLENGER, value=BOND)
