"""A result that the model did not give: windows, verdicts, and what everybody is paid."""

import pytest

from support.challenges import (
    ACCUSED,
    ANSWER_WINDOW,
    BOND,
    CANNOT_TELL,
    CHALLENGER,
    DISPATCHER,
    INCONCLUSIVE,
    JURORS,
    MATCH,
    MAX_AGE,
    MISMATCH,
    NO_MATCH,
    OPEN,
    PER_SLOT,
    REJECTED,
    RIVAL,
    UNDECIDED,
    UPHELD,
    VOTE_WINDOW,
    VOTING,
    WIDTHS,
    Court,
)
from support.evm import reverts

BOND_OF_ACCUSED = WIDTHS[ACCUSED] * PER_SLOT
HALF = BOND_OF_ACCUSED - BOND_OF_ACCUSED // 2


def voted(court: Court, *verdicts: int) -> int:
    """A challenge on which jurors voted like this, closed."""
    identifier = court.jury()
    for juror, verdict in zip(JURORS, verdicts, strict=False):
        court.vote(identifier, juror, verdict)
    court.close(identifier)
    return identifier


# Opening


def test_opening_takes_the_bond_and_locks_the_operator(court: Court) -> None:
    block = court.evm.web3.eth.block_number
    identifier = court.mismatch()
    ground, state, operator, challenger, dispatcher, _, deadline, jury_block, draw_block, _ = court.read(
        identifier
    )
    assert (ground, state, deadline) == (MISMATCH, OPEN, court.evm.now() + ANSWER_WINDOW)
    assert [operator, challenger, dispatcher] == [
        court.address(who) for who in (ACCUSED, CHALLENGER, DISPATCHER)
    ]
    assert (jury_block, draw_block) == (block, 0)
    assert court.evm.balance(court.contract.address) == BOND
    assert court.locks(ACCUSED) == 1


@pytest.mark.parametrize("amount", [0, BOND - 1, BOND + 1])
def test_another_amount_than_the_bond_is_refused(court: Court, amount: int) -> None:
    with reverts("pay exactly the bond"):
        call = court.contract.functions.challengeMismatch(*court.signed(court.claim()))
        court.evm.send(call, sender=CHALLENGER, value=amount)


def test_results_out_of_their_time_are_refused(court: Court) -> None:
    with reverts("has not come yet"):
        court.mismatch(court.claim(registry_block=court.evm.web3.eth.block_number + 1))
    claim = court.claim()
    court.evm.mine(claim.registry_block + MAX_AGE - court.evm.web3.eth.block_number)
    with reverts("too old"):
        court.mismatch(claim)


def test_what_nobody_can_score_is_refused(court: Court) -> None:
    with reverts("no transcript to judge"):
        court.mismatch(court.claim(transcript="00" * 32))


def test_a_forged_result_is_refused(court: Court) -> None:
    call = court.contract.functions.challengeMismatch(*court.signed(court.claim(), JURORS[0]))
    with reverts("another key's"):
        court.open(call)


def test_one_result_has_one_open_challenge_however_often_it_was_signed(court: Court) -> None:
    court.mismatch()
    for change in ({"counter": 18}, {"clock": "77" * 32}, {"role": "verifier"}, {"attestation": "77" * 32}):
        with reverts("challenged already"):
            court.mismatch(court.claim(**change), sender=RIVAL)


@pytest.mark.parametrize("field", ["job_id", "answer", "transcript", "model", "params"])
def test_another_result_is_another_case(court: Court, field: str) -> None:
    court.mismatch()
    assert court.mismatch(court.claim(**{field: "77" * 32}), sender=RIVAL) == 2
    assert court.locks(ACCUSED) == 2


def test_a_dispatcher_s_name_is_part_of_the_case(court: Court) -> None:
    court.mismatch()
    assert court.mismatch(court.claim(dispatcher=court.address(RIVAL))) == 2


# Answering


def test_no_answer_costs_half_of_the_bond(court: Court) -> None:
    identifier = court.mismatch()
    court.close(identifier)
    assert court.state(identifier) == UPHELD
    assert court.bond_of(ACCUSED) == BOND_OF_ACCUSED - HALF == HALF - 1
    assert court.credits() == {CHALLENGER: BOND + HALF // 2}
    assert court.burned() == HALF - HALF // 2
    assert court.locks(ACCUSED) == 0


def test_the_operator_answers_to_the_last_second_and_pays_nothing(court: Court) -> None:
    identifier = court.mismatch()
    deadline = court.deadline(identifier)
    with court.evm.undone():
        court.at(deadline - 1)
        with reverts("the window is not over"):
            court.evm.send(court.contract.functions.close(identifier))
        receipt = court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)
        assert court.evm.now() == deadline - 1
        assert court.state(identifier) == VOTING
        assert court.deadline(identifier) == deadline - 1 + VOTE_WINDOW
        assert court.read(identifier)[8] == receipt["blockNumber"]
        assert court.event(receipt, "ChallengeAnswered") == {
            "id": identifier,
            "deadline": court.deadline(identifier),
        }
        assert court.evm.balance(court.contract.address) == BOND
    court.at(deadline)
    with reverts("the answer window is over"):
        court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)
    court.evm.send(court.contract.functions.close(identifier))


@pytest.mark.parametrize("who", [CHALLENGER, DISPATCHER, JURORS[0]])
def test_nobody_else_answers_for_the_operator(court: Court, who: int) -> None:
    identifier = court.mismatch()
    with reverts("only the operator"):
        court.evm.send(court.contract.functions.answer(identifier), sender=who)


def test_an_answer_is_given_once(court: Court) -> None:
    identifier = court.jury()
    with reverts("waits for no answer"):
        court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)


def test_a_seat_is_no_answer(court: Court) -> None:
    identifier = court.mismatch()
    with reverts("another ground"):
        court.evm.send(court.contract.functions.answerSeat(identifier, court.seat_signature(court.claim())))


def test_many_challenges_at_once_are_answered_without_ether(court: Court) -> None:
    """With a bond for each answer, who opens many could make the operator run out of ether, and win what it cannot fund."""
    identifiers = [court.mismatch(court.claim(job_id=f"{number:064x}")) for number in range(6)]
    before = court.evm.balance(court.contract.address)
    for identifier in identifiers:
        court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)
    assert court.evm.balance(court.contract.address) == before == 6 * BOND
    assert court.locks(ACCUSED) == 6


# Verdicts and payments


def test_a_mismatch_pays_challenger_and_jurors_and_slashes_the_operator(court: Court) -> None:
    identifier = court.jury()
    for juror, verdict in zip(JURORS, (NO_MATCH, NO_MATCH, MATCH, NO_MATCH), strict=False):
        court.vote(identifier, juror, verdict)
    receipt = court.close(identifier)
    part = BOND // 4 // 3
    assert court.state(identifier) == UPHELD
    assert court.bond_of(ACCUSED) == BOND_OF_ACCUSED - HALF - BOND
    assert court.credits() == {
        CHALLENGER: BOND + BOND // 2 + HALF // 2,
        JURORS[0]: part,
        JURORS[1]: part,
        JURORS[3]: part,
    }
    assert court.burned() == (BOND - BOND // 2 - 3 * part) + (HALF - HALF // 2)
    closed = court.event(receipt, "ChallengeClosed")
    assert (closed["state"], closed["slashed"], closed["burned"]) == (UPHELD, HALF + BOND, court.burned())
    assert court.locks(ACCUSED) == 0


def test_a_match_pays_operator_and_jurors(court: Court) -> None:
    identifier = voted(court, MATCH, CANNOT_TELL, MATCH, MATCH, NO_MATCH)
    part = BOND // 4 // 3
    assert court.state(identifier) == REJECTED
    assert court.bond_of(ACCUSED) == BOND_OF_ACCUSED
    assert court.credits() == {ACCUSED: BOND // 2, **dict.fromkeys((JURORS[0], JURORS[2], JURORS[3]), part)}
    assert court.burned() == BOND - BOND // 2 - 3 * part
    assert court.locks(ACCUSED) == 0


@pytest.mark.parametrize("votes", [3, 4, 5])
def test_the_more_jurors_agree_the_less_each_gets(court: Court, votes: int) -> None:
    voted(court, *[MATCH] * votes)
    part = BOND // 4 // votes
    assert court.credits() == {ACCUSED: BOND // 2, **dict.fromkeys(JURORS[:votes], part)}
    assert court.burned() == BOND - BOND // 2 - votes * part


@pytest.mark.parametrize(
    ("verdicts", "state", "workers"),
    [
        ((), UNDECIDED, ()),
        ((MATCH, MATCH), UNDECIDED, JURORS[:2]),
        ((NO_MATCH, NO_MATCH), UNDECIDED, JURORS[:2]),
        ((MATCH, MATCH, NO_MATCH, NO_MATCH), UNDECIDED, JURORS[:4]),
        ((MATCH, MATCH, NO_MATCH, NO_MATCH, CANNOT_TELL), UNDECIDED, JURORS[:5]),
        ((CANNOT_TELL, CANNOT_TELL, MATCH, NO_MATCH), UNDECIDED, JURORS[:4]),
        ((CANNOT_TELL, CANNOT_TELL, MATCH, CANNOT_TELL), INCONCLUSIVE, (JURORS[0], JURORS[1], JURORS[3])),
    ],
)
def test_without_a_verdict_nobody_loses_but_the_jurors_work_is_paid(
    court: Court, verdicts: tuple[int, ...], state: int, workers: tuple[int, ...]
) -> None:
    identifier = voted(court, *verdicts)
    fee = BOND // 8
    part = fee // len(workers) if workers else 0
    assert court.state(identifier) == state
    assert court.credits() == {CHALLENGER: BOND - fee, **dict.fromkeys(workers, part)}
    assert court.burned() == fee - part * len(workers)
    assert court.bond_of(ACCUSED) == BOND_OF_ACCUSED
    assert court.locks(ACCUSED) == 0


@pytest.mark.parametrize(
    ("verdicts", "again"),
    [((), True), ((MATCH, NO_MATCH), True), ((CANNOT_TELL,) * 3, False), ((MATCH,) * 3, False), ((NO_MATCH,) * 3, False)],
)  # fmt: skip
def test_only_what_was_left_undecided_is_challenged_again(
    court: Court, verdicts: tuple[int, ...], again: bool
) -> None:
    claim = court.claim()
    identifier = court.jury(claim)
    for juror, verdict in zip(JURORS, verdicts, strict=False):
        court.vote(identifier, juror, verdict)
    with reverts("challenged already"):
        court.mismatch(claim)
    court.close(identifier)
    before = court.read(identifier)
    if again:
        assert court.mismatch(claim, sender=RIVAL) == identifier + 1
    else:
        with reverts("challenged already"):
            court.mismatch(claim, sender=RIVAL)
    assert court.read(identifier) == before


def test_a_challenge_is_closed_from_the_second_on_when_its_votes_end(court: Court) -> None:
    identifier = court.jury()
    for juror in JURORS[:3]:
        court.vote(identifier, juror, MATCH)
    deadline = court.deadline(identifier)
    court.at(deadline - 1)
    with reverts("the window is not over"):
        court.evm.send(court.contract.functions.close(identifier))
    with court.evm.undone():
        court.vote(identifier, JURORS[3], MATCH)
        assert court.evm.now() == deadline - 1
    court.at(deadline)
    with reverts("the vote window is over"):
        court.vote(identifier, JURORS[3], MATCH)
    court.evm.send(court.contract.functions.close(identifier))
    assert court.evm.now() == deadline
    with reverts("the challenge is not open"):
        court.evm.send(court.contract.functions.close(identifier))
    with reverts("has no jury"):
        court.vote(identifier, JURORS[3], MATCH)


# Bonds that do not suffice


def test_a_slash_takes_what_is_left_and_the_jurors_come_first(court: Court) -> None:
    """With a bond below twice the stake, half of it and the stake are more than there is."""
    court.evm.send(court.registry.functions.leave(), sender=ACCUSED)
    court.evm.travel(100_000)
    court.evm.send(court.registry.functions.withdraw(), sender=ACCUSED)
    slots = BOND // PER_SLOT // 2
    court.register(ACCUSED, 0, slots)
    held = court.bond_of(ACCUSED)
    assert held < BOND
    voted(court, NO_MATCH, NO_MATCH, NO_MATCH)
    part = held // 4 // 3
    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND + held // 2, **dict.fromkeys(JURORS[:3], part)}
    assert court.burned() == held - held // 2 - 3 * part


def test_an_operator_slashed_meanwhile_has_nothing_more_to_lose(court: Court) -> None:
    identifier = court.jury()
    other = court.claim(answer="77" * 32)
    equivocation = court.contract.functions.proveEquivocation(
        *court.signed(court.claim()), *court.signed(other)
    )
    court.evm.send(equivocation, sender=RIVAL)
    burned = court.burned()
    for juror in JURORS[:3]:
        court.vote(identifier, juror, NO_MATCH)
    court.close(identifier)
    assert court.state(identifier) == UPHELD
    assert court.credits() == {RIVAL: BOND_OF_ACCUSED // 2, CHALLENGER: BOND}
    assert court.burned() == burned
    assert court.locks(ACCUSED) == 0


def test_a_second_lost_challenge_takes_half_of_the_rest(court: Court) -> None:
    for number in range(2):
        court.close(court.mismatch(court.claim(job_id=f"{number:064x}")))
    rest = BOND_OF_ACCUSED - HALF
    assert court.bond_of(ACCUSED) == rest - (rest - rest // 2)


def test_leaving_does_not_save_the_bond(court: Court) -> None:
    identifier = court.mismatch()
    court.evm.send(court.registry.functions.leave(), sender=ACCUSED)
    court.evm.travel(100_000)
    with reverts("locked by a challenge"):
        court.evm.send(court.registry.functions.withdraw(), sender=ACCUSED)
    court.evm.send(court.contract.functions.close(identifier))
    court.evm.send(court.registry.functions.withdraw(), sender=ACCUSED)
    assert court.bond_of(ACCUSED) == 0
    assert court.credits() == {CHALLENGER: BOND + HALF // 2}


def test_nobody_gains_by_convicting_himself(court: Court) -> None:
    """The operator is its own challenger, and three of its keys sit in the jury: it still loses a quarter and more."""
    before = court.bond_of(ACCUSED)
    identifier = court.mismatch(sender=ACCUSED)
    court.answer(identifier)
    for juror in JURORS[:3]:
        court.vote(identifier, juror, NO_MATCH)
    court.close(identifier)
    everything = sum(court.credits().values()) + court.bond_of(ACCUSED)
    assert everything - BOND <= before - before // 4
    assert court.burned() >= before // 4
