"""A result of whom the draw did not select: the dispatcher's signature answers, or the bond is lost."""

from typing import Any

import pytest

from aos_protocol.typed_data import ResultClaim
from support.challenges import (
    ACCUSED,
    ANSWER_WINDOW,
    BOND,
    CHALLENGER,
    DISPATCHER,
    JURORS,
    MAX_AGE,
    MEMBERSHIP,
    OPEN,
    PER_SLOT,
    REJECTED,
    RIVAL,
    UPHELD,
    WIDTHS,
    Court,
    bound,
)
from support.evm import reverts

BOND_OF_ACCUSED = WIDTHS[ACCUSED] * PER_SLOT


def call_of(court: Court, claim: ResultClaim, shown: tuple[Any, ...]) -> Any:
    return court.contract.functions.challengeMembership(*court.signed(claim), *shown)


def challenged(court: Court, **changes: Any) -> tuple[int, ResultClaim]:
    """A challenge of the accused, whom its ticket does not select."""
    claim, shown = court.drawn(selected=False, **changes)
    return court.open(call_of(court, claim, shown)), claim


def seat(court: Court, identifier: int, signature: bytes) -> Any:
    return court.contract.functions.answerSeat(identifier, signature)


# Opening


def test_opening_takes_the_bond_and_locks_the_operator(court: Court) -> None:
    claim, shown = court.drawn(selected=False)
    receipt = court.evm.send(call_of(court, claim, shown), sender=CHALLENGER, value=BOND)
    opened = court.event(receipt, "ChallengeOpened")
    now = court.evm.now()

    assert court.evm.balance(court.contract.address) == BOND
    assert court.locks(ACCUSED) == 1
    ground, state, operator, challenger, dispatcher, _, deadline, _, draw_block, seed = court.read(1)
    assert (ground, state, deadline) == (MEMBERSHIP, OPEN, now + ANSWER_WINDOW)
    assert [operator, challenger, dispatcher] == [
        court.address(who) for who in (ACCUSED, CHALLENGER, DISPATCHER)
    ]
    assert (draw_block, seed) == (0, bytes(32))
    assert (opened["id"], opened["ground"], opened["deadline"]) == (1, MEMBERSHIP, deadline)
    assert (opened["operator"], opened["challenger"], opened["dispatcher"]) == (
        operator,
        challenger,
        dispatcher,
    )
    assert opened["jobId"] == bytes.fromhex(claim.job_id)


@pytest.mark.parametrize("paid", [0, BOND - 1, BOND + 1])
def test_another_amount_than_the_bond_is_refused(court: Court, paid: int) -> None:
    claim, shown = court.drawn(selected=False)
    with reverts("pay exactly the bond"):
        court.evm.send(call_of(court, claim, shown), sender=CHALLENGER, value=paid)


def test_whom_the_ticket_selects_is_a_member(court: Court) -> None:
    claim, shown = court.drawn(selected=True)
    with reverts("the ticket selects the operator"):
        court.open(call_of(court, claim, shown))


def test_the_tag_widens_whom_a_ticket_selects(court: Court) -> None:
    """A ticket between the range's width and the widened threshold is a member's under a tag only."""
    for attempt in range(1_000):
        alpha = b"\x07" * 64 + attempt.to_bytes(32, "big")
        _, _, proof, _ = shown = court.shown(ACCUSED, alpha, court.prove(ACCUSED, alpha))
        width = WIDTHS[ACCUSED]
        if width <= court.slot(ACCUSED, alpha) < width + 36_000:
            break
    tagged = court.claim(vrf_proof=bound(alpha, proof), tag="suspicion", position="after")
    with reverts("the ticket selects the operator"):
        court.open(call_of(court, tagged, shown))
    assert court.open(call_of(court, court.claim(vrf_proof=bound(alpha, proof)), shown)) == 1


def test_an_unknown_tag_is_refused(court: Court) -> None:
    claim, shown = court.drawn(selected=False, tag="elsewhere")
    with reverts("no selection rule"):
        court.open(call_of(court, claim, shown))


def test_who_had_no_range_at_the_block_was_no_member_whatever_the_ticket(court: Court) -> None:
    claim, shown = court.drawn(selected=True, registry_block=3)
    identifier = court.open(call_of(court, claim, shown))
    assert court.state(identifier) == OPEN


def test_the_range_of_the_result_s_block_counts_not_today_s(court: Court) -> None:
    claim, shown = court.drawn(selected=True)
    update = court.registry.functions.updateOperatorRange(court.address(ACCUSED), 0, 1)
    court.evm.send(update, sender=ACCUSED)
    with reverts("the ticket selects the operator"):
        court.open(call_of(court, claim, shown))


def test_a_proof_that_does_not_hold_is_another_ground(court: Court) -> None:
    alpha, proof = court.ticket(ACCUSED, selected=False)
    alpha = alpha[:-1] + b"\xff"
    claim = court.claim(vrf_proof=bound(alpha, proof))
    with reverts("the proof does not hold: prove that"):
        court.open(call_of(court, claim, court.shown(ACCUSED, alpha, proof)))


def test_a_result_bound_to_another_ticket_is_refused(court: Court) -> None:
    claim, _ = court.drawn(selected=False)
    with reverts("not bound to this proof"):
        court.open(call_of(court, claim, court.shown(ACCUSED, *court.ticket(ACCUSED, selected=True))))


def test_a_forged_result_is_refused(court: Court) -> None:
    claim, shown = court.drawn(selected=False)
    call = court.contract.functions.challengeMembership(*court.signed(claim, JURORS[0]), *shown)
    with reverts("another key's"):
        court.open(call)


def test_a_result_is_challenged_until_its_last_block(court: Court) -> None:
    claim, shown = court.drawn(selected=False)
    court.evm.mine(claim.registry_block + MAX_AGE - court.evm.web3.eth.block_number - 1)
    call = call_of(court, claim, shown)
    with court.evm.undone():
        court.open(call)
        assert court.evm.web3.eth.block_number - claim.registry_block == MAX_AGE
    court.evm.mine()
    with reverts("too old"):
        court.open(call)


@pytest.mark.parametrize("ahead", [1, 2, 2**255])
def test_a_registry_block_to_come_is_refused(court: Court, ahead: int) -> None:
    claim, shown = court.drawn(selected=False, registry_block=court.evm.web3.eth.block_number + ahead)
    with reverts("has not come yet"):
        court.open(call_of(court, claim, shown))


def test_a_bond_that_is_gone_cannot_be_challenged(court: Court) -> None:
    claim, shown = court.drawn(selected=False)
    court.evm.send(court.registry.functions.leave(), sender=ACCUSED)
    court.evm.travel(100_000)
    court.evm.send(court.registry.functions.withdraw(), sender=ACCUSED)
    with reverts("the operator has no bond"):
        court.open(call_of(court, claim, shown))


# Answering


@pytest.mark.parametrize("who", [ACCUSED, RIVAL])
def test_the_dispatcher_s_seat_answers_whoever_brings_it(court: Court, who: int) -> None:
    identifier, claim = challenged(court)
    receipt = court.evm.send(seat(court, identifier, court.seat_signature(claim)), sender=who)
    assert court.state(identifier) == REJECTED
    assert court.credits() == {ACCUSED: BOND // 2}
    assert court.burned() == BOND - BOND // 2
    assert court.bond_of(ACCUSED) == BOND_OF_ACCUSED
    assert court.locks(ACCUSED) == 0
    closed = court.event(receipt, "ChallengeClosed")
    assert (closed["id"], closed["state"], closed["slashed"], closed["burned"]) == (
        identifier, REJECTED, 0, court.burned(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "99" * 32},
        {"operator": "0x" + "11" * 20},
        {"role": "verifier"},
        {"tag": "suspicion"},
        {"position": "after"},
        {"registry_block": 7},
    ],
)
def test_the_seat_must_be_the_result_s(court: Court, change: dict[str, Any]) -> None:
    identifier, claim = challenged(court)
    with reverts("another key's"):
        court.evm.send(seat(court, identifier, court.seat_signature(claim, **change)))


@pytest.mark.parametrize("signer", [ACCUSED, CHALLENGER])
def test_only_the_result_s_dispatcher_gives_seats(court: Court, signer: int) -> None:
    identifier, claim = challenged(court)
    with reverts("another key's"):
        court.evm.send(seat(court, identifier, court.seat_signature(claim, signer)))


def test_the_window_is_open_to_its_last_second(court: Court) -> None:
    identifier, claim = challenged(court)
    answer = seat(court, identifier, court.seat_signature(claim))
    deadline = court.deadline(identifier)
    with court.evm.undone():
        court.at(deadline - 1)
        with reverts("the window is not over"):
            court.evm.send(court.contract.functions.close(identifier))
        court.evm.send(answer)
        assert court.evm.now() == deadline - 1
    court.at(deadline)
    with reverts("the answer window is over"):
        court.evm.send(answer)
    court.evm.send(court.contract.functions.close(identifier))
    assert court.evm.now() == deadline


def test_membership_takes_no_other_answer(court: Court) -> None:
    identifier, _ = challenged(court)
    with reverts("another ground"):
        court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)


# Deciding


def test_without_an_answer_the_whole_bond_is_lost(court: Court) -> None:
    identifier, _ = challenged(court)
    receipt = court.close(identifier)
    assert court.state(identifier) == UPHELD
    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND + BOND_OF_ACCUSED // 2}
    assert court.burned() == BOND_OF_ACCUSED - BOND_OF_ACCUSED // 2
    assert court.locks(ACCUSED) == 0
    closed = court.event(receipt, "ChallengeClosed")
    assert (closed["state"], closed["slashed"], closed["burned"]) == (UPHELD, BOND_OF_ACCUSED, court.burned())


@pytest.mark.parametrize("answered", [True, False])
def test_what_is_decided_stays_decided(court: Court, answered: bool) -> None:
    identifier, claim = challenged(court)
    answer = seat(court, identifier, court.seat_signature(claim))
    if answered:
        court.evm.send(answer)
    else:
        court.close(identifier)
        court.register(ACCUSED, 0, WIDTHS[ACCUSED])
    before = court.read(identifier), court.credits()
    court.evm.travel(ANSWER_WINDOW + 1)
    with reverts("the challenge is not open"):
        court.evm.send(court.contract.functions.close(identifier))
    with reverts("waits for no answer"):
        court.evm.send(answer)
    with reverts("challenged already"):
        court.open(call_of(court, claim, court.drawn(selected=False)[1]))
    assert (court.read(identifier), court.credits()) == before


def test_a_result_sent_again_is_the_same_case(court: Court) -> None:
    """It is signed afresh with another counter and clock; what the Seat answers is the same."""
    _, claim = challenged(court)
    _, shown = court.drawn(selected=False)
    again = court.claim(
        registry_block=claim.registry_block, vrf_proof=claim.vrf_proof, counter=18, clock="77" * 32
    )
    with reverts("challenged already"):
        court.open(call_of(court, again, shown), sender=RIVAL)
    other = court.claim(registry_block=claim.registry_block, vrf_proof=claim.vrf_proof, job_id="77" * 32)
    assert court.open(call_of(court, other, shown), sender=RIVAL) == 2
    assert court.locks(ACCUSED) == 2


def test_there_is_no_challenge_of_an_unknown_number(court: Court) -> None:
    functions = court.contract.functions
    for call, reason in (
        (functions.close(1), "not open"),
        (functions.answer(0), "waits for no answer"),
        (functions.answerSeat(1, bytes(65)), "waits for no answer"),
        (functions.draw(7), "no jury"),
        (functions.juryAlpha(7), "no jury"),
    ):
        with reverts(reason):
            call.call()
    assert court.state(1) == 0
    assert functions.seats(1).call() == []
