"""The jury: who may vote, on whose tickets, which five hold the seats, and what becomes of a seed that nobody fixed."""

import pytest

from aos_chain.hints import coordinates, hints
from aos_protocol.typed_data import VoteClaim
from support.challenges import (
    ACCUSED,
    BOND,
    CANNOT_TELL,
    CHALLENGER,
    DISPATCHER,
    DRAW,
    JURORS,
    MATCH,
    NO_MATCH,
    NOBODY,
    PER_SLOT,
    RIVAL,
    UNDECIDED,
    VOTE_WINDOW,
    WIDTHS,
    Court,
)
from support.evm import reverts

JUROR = JURORS[0]
FREE = sum(WIDTHS.values())


def join(court: Court, account: int) -> None:
    """Give an account a range that was free."""
    court.register(account, FREE + account * 1_000, FREE + account * 1_000 + 1_000)


# Tickets


def test_jurors_prove_what_the_page_says(court: Court) -> None:
    identifier = court.jury()
    before = court.contract.functions.juryAlpha(identifier).call()
    court.vote(identifier, JUROR, MATCH)
    after = court.contract.functions.juryAlpha(identifier).call()
    assert before == after == court.alpha(identifier)
    assert len(before) == 64


def test_two_challenges_answered_in_one_block_have_two_juries(court: Court) -> None:
    first, second = (court.mismatch(court.claim(job_id=f"{number:064x}")) for number in range(2))
    court.evm.send_together(
        [court.contract.functions.answer(number) for number in (first, second)], sender=ACCUSED
    )
    court.evm.mine(DRAW)
    assert court.read(first)[8] == court.read(second)[8]
    assert court.alpha(first)[:32] == court.alpha(second)[:32]
    assert court.alpha(first) != court.alpha(second)
    alpha = court.alpha(second)
    proof = court.prove(JUROR, alpha)
    key = court.signers[JUROR].public_key
    with reverts("proof does not hold|bad hint"):
        court.evm.send(court.ballot(first, JUROR, MATCH, proof=proof, hints=hints(key, alpha, proof).abi()))


def test_the_first_vote_fixes_the_seed(court: Court) -> None:
    identifier = court.jury()
    block = court.read(identifier)[8]
    receipt = court.vote(identifier, JUROR, MATCH)
    drawn = court.event(receipt, "JuryDrawn")
    seed = court.seed(block)
    assert (drawn["id"], drawn["drawBlock"], drawn["seed"]) == (identifier, block, seed)
    assert court.read(identifier)[9] == seed
    with reverts("the jury is drawn"):
        court.evm.send(court.contract.functions.draw(identifier))
    court.evm.mine(300)
    court.vote(identifier, JURORS[1], MATCH)
    assert court.seated(identifier) == {JUROR: MATCH, JURORS[1]: MATCH}


def test_a_vote_says_what_was_counted(court: Court) -> None:
    identifier = court.jury()
    receipt = court.vote(identifier, JUROR, NO_MATCH)
    voted = court.event(receipt, "Voted")
    assert (voted["id"], voted["juror"], voted["verdict"]) == (identifier, court.address(JUROR), NO_MATCH)
    ((juror, verdict, score),) = court.contract.functions.seats(identifier).call()
    assert (juror, verdict) == (court.address(JUROR), NO_MATCH)
    assert score == court.score(identifier, JUROR) >> 168


# Seeds


def test_the_seed_can_be_fixed_before_anybody_votes_and_until_its_block_is_forgotten(court: Court) -> None:
    identifier = court.jury()
    block = court.read(identifier)[8]
    court.evm.mine(block + 255 - court.evm.web3.eth.block_number)
    with court.evm.undone():
        receipt = court.evm.send(court.contract.functions.draw(identifier))
        assert receipt["blockNumber"] == block + 256
        assert court.read(identifier)[9] == court.seed(block)
    court.evm.mine()
    with reverts("forgotten: call draw"):
        court.vote(identifier, JUROR, MATCH)
    court.evm.mine()
    with reverts("forgotten: call draw"):
        court.contract.functions.juryAlpha(identifier).call()


def test_a_seed_that_nobody_fixed_is_drawn_anew(court: Court) -> None:
    identifier = court.jury()
    court.evm.mine(300)
    old = court.ballot(identifier, JUROR, MATCH)
    receipt = court.evm.send(court.contract.functions.draw(identifier))
    drawn = court.event(receipt, "JuryDrawn")
    assert (drawn["drawBlock"], drawn["seed"]) == (receipt["blockNumber"], bytes(32))
    assert drawn["deadline"] == court.deadline(identifier) == court.evm.now() + VOTE_WINDOW
    court.evm.mine(DRAW)
    with reverts("proof does not hold|bad hint"):
        court.evm.send(old)
    court.vote(identifier, JUROR, MATCH)
    assert court.read(identifier)[9] == court.seed(receipt["blockNumber"])


def test_there_is_no_jury_before_its_last_block_is_over(court: Court) -> None:
    identifier = court.mismatch()
    block = court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)["blockNumber"]
    draw = court.contract.functions.draw(identifier)
    court.evm.mine(15)
    with reverts("not all there yet"):
        court.evm.send(draw)
    with reverts("not all there yet"):
        court.contract.functions.juryAlpha(identifier).call()
    court.evm.mine()
    assert court.evm.send(draw)["blockNumber"] == block + 17


def test_nothing_is_drawn_in_the_block_of_the_answer(court: Court) -> None:
    identifier = court.mismatch()
    answer, draw = court.contract.functions.answer(identifier), court.contract.functions.draw(identifier)
    with reverts():
        court.evm.send_together([answer, draw], sender=ACCUSED)
    assert court.read(identifier)[8] != 0
    assert court.read(identifier)[9] == bytes(32)


def test_who_builds_the_last_block_chooses_between_two_juries(court: Court) -> None:
    """However many blocks he tries: here thirty, each of another second."""
    identifier = court.mismatch()
    court.evm.send(court.contract.functions.answer(identifier), sender=ACCUSED)
    court.evm.mine(15)
    juries = set()
    for delay in range(30):
        with court.evm.undone():
            court.evm.travel(10 + delay)
            court.evm.mine(2)
            last = court.read(identifier)[8] + 16
            bit = court.evm.web3.eth.get_block(last)["hash"][-1] & 1
            juries.add((bit, bytes(court.contract.functions.juryAlpha(identifier).call())))
    assert len(juries) == len({bit for bit, _ in juries}) <= 2


def test_nothing_is_drawn_outside_the_vote_window(court: Court) -> None:
    identifier = court.mismatch()
    with reverts("has no jury"):
        court.evm.send(court.contract.functions.draw(identifier))
    court.answer(identifier)
    court.after_window(identifier)
    with reverts("the vote window is over"):
        court.evm.send(court.contract.functions.draw(identifier))
    court.close(identifier)
    assert court.state(identifier) == UNDECIDED


# Who may vote


@pytest.mark.parametrize(
    ("party", "reason"),
    [(ACCUSED, "the operator"), (CHALLENGER, "the challenger"), (DISPATCHER, "the dispatcher")],
)
def test_parties_do_not_judge(court: Court, party: int, reason: str) -> None:
    if party != ACCUSED:
        join(court, party)
        court.evm.mine()
    identifier = court.jury()
    with reverts(f"{reason} is a party"):
        court.vote(identifier, party, MATCH)


def test_who_has_no_range_is_no_juror(court: Court) -> None:
    identifier = court.jury()
    with reverts("no range before the challenge"):
        court.vote(identifier, RIVAL, MATCH)


def test_nobody_becomes_a_juror_once_there_is_a_challenge(court: Court) -> None:
    """Else the operator could fill the jury while its window is open, and leave again."""
    identifier = court.mismatch()
    join(court, RIVAL)
    court.answer(identifier)
    with reverts("no range before the challenge"):
        court.vote(identifier, RIVAL, MATCH)


def test_jurors_are_those_of_the_block_before_the_challenge(court: Court) -> None:
    join(court, RIVAL)
    assert court.mismatch() == 1
    assert court.read(1)[7] == court.evm.web3.eth.block_number - 1
    court.answer(1)
    court.vote(1, RIVAL, MATCH)
    # The range of RIVAL came with that very block.
    start, end = court.registry.functions.rangeAt(court.address(RIVAL), court.read(1)[7] - 1).call()
    assert (start, end) == (0, 0)


def test_a_juror_that_left_meanwhile_still_judges_with_the_range_it_had(court: Court) -> None:
    identifier = court.jury()
    court.evm.send(court.registry.functions.leave(), sender=JUROR)
    other = JURORS[1]
    start = court.ranges[other][0]
    court.evm.send(
        court.registry.functions.updateOperatorRange(court.address(other), start, start + 1), sender=other
    )
    for juror in (JUROR, other, JURORS[2]):
        court.vote(identifier, juror, MATCH)
    scores = {juror: score for juror, _, score in court.contract.functions.seats(identifier).call()}
    assert scores[court.address(other)] == court.score(identifier, other) >> 168
    court.close(identifier)
    assert court.credits()[JUROR] == BOND // 4 // 3


def test_each_juror_votes_once(court: Court) -> None:
    identifier = court.jury()
    court.vote(identifier, JUROR, MATCH)
    for verdict in (MATCH, NO_MATCH):
        with reverts("the juror has voted"):
            court.vote(identifier, JUROR, verdict)


@pytest.mark.parametrize("verdict", [3, 255])
def test_there_are_three_verdicts(court: Court, verdict: int) -> None:
    with reverts("no such verdict"):
        court.vote(court.jury(), JUROR, verdict)


# What a vote is made of


@pytest.mark.parametrize(
    ("challenge", "operator", "verdict", "signer"),
    [(2, JUROR, MATCH, JUROR), (1, JURORS[1], MATCH, JUROR), (1, JUROR, NO_MATCH, JUROR), (1, JUROR, MATCH, JURORS[1])],
)  # fmt: skip
def test_the_vote_is_signed_by_the_juror(
    court: Court, challenge: int, operator: int, verdict: int, signer: int
) -> None:
    identifier = court.jury()
    assert identifier == 1
    signature = court.signature(VoteClaim(challenge, court.address(operator), verdict), signer)
    with reverts("another key's"):
        court.evm.send(court.ballot(identifier, JUROR, MATCH, vote_signature=signature))


def test_the_ticket_is_the_juror_s_own(court: Court) -> None:
    identifier = court.jury()
    other = court.signers[JURORS[1]]
    alpha = court.alpha(identifier)
    proof = court.prove(JURORS[1], alpha)
    told = hints(other.public_key, alpha, proof).abi()
    key = coordinates(other.public_key)
    with reverts("the public key is not the juror's"):
        court.evm.send(court.ballot(identifier, JUROR, MATCH, public_key=key, proof=proof, hints=told))
    with reverts("proof does not hold|bad hint"):
        court.evm.send(court.ballot(identifier, JUROR, MATCH, proof=proof, hints=told))


def test_a_ticket_that_does_not_hold_gives_no_seat(court: Court) -> None:
    identifier = court.jury()
    alpha = court.alpha(identifier)
    proof = court.prove(JUROR, alpha)
    proof = proof[:-1] + bytes((proof[-1] ^ 1,))
    told = hints(court.signers[JUROR].public_key, alpha, proof).abi()
    with reverts("the juror's proof does not hold"):
        court.evm.send(court.ballot(identifier, JUROR, MATCH, proof=proof, hints=told))


# Seats


@pytest.mark.parametrize(
    "order",
    [
        (0, 1, 2, 3, 4, 5, 6),
        (6, 5, 4, 3, 2, 1, 0),
        (0, 1, 2, 3, 6, 5, 4),
        (1, 5, 0, 6, 2, 4, 3),
        (6, 0, 5, 1, 4, 2, 3),
    ],
    ids=["best first", "worst first", "worst in the last seat", "mixed", "worst and best in turn"],
)
def test_the_five_best_tickets_hold_the_seats_in_whatever_order_they_come(
    court: Court, order: tuple[int, ...]
) -> None:
    identifier = court.jury()
    ranking = court.ranking(identifier)
    verdicts = (MATCH, MATCH, NO_MATCH, MATCH, CANNOT_TELL, NO_MATCH, NO_MATCH)
    seats: list[int] = []
    for place in order:
        if len(seats) == 5 and place > max(seats):
            with reverts("five better tickets"):
                court.vote(identifier, ranking[place], verdicts[place])
            continue
        receipt = court.vote(identifier, ranking[place], verdicts[place])
        worst = max(seats) if len(seats) == 5 else None
        evicted = NOBODY if worst is None else court.address(ranking[worst])
        assert court.event(receipt, "Voted")["evicted"] == evicted
        seats = [*(seat for seat in seats if seat != worst), place]
    assert court.seated(identifier) == {ranking[place]: verdicts[place] for place in range(5)}
    court.close(identifier)
    part = BOND // 4 // 3
    assert court.credits() == {
        ACCUSED: BOND // 2,
        **dict.fromkeys((ranking[0], ranking[1], ranking[3]), part),
    }


def test_who_was_evicted_does_not_come_back(court: Court) -> None:
    identifier = court.jury()
    ranking = court.ranking(identifier)
    worst = ranking[5]
    for juror in (worst, *ranking[:5]):
        court.vote(identifier, juror, NO_MATCH)
    assert worst not in court.seated(identifier)
    with reverts("five better tickets"):
        court.vote(identifier, worst, MATCH)


def test_narrow_ranges_do_not_buy_seats(court: Court) -> None:
    """A range of one slot ranks by that one slot, where the widening of tags would make it weigh 36,001."""
    court.register(RIVAL, FREE, FREE + 1)
    court.evm.mine()
    identifier = court.jury()
    court.vote(identifier, RIVAL, MATCH)
    output = int.from_bytes(court.output(RIVAL, court.alpha(identifier)), "big")
    ((_, _, score),) = court.contract.functions.seats(identifier).call()
    assert score == output >> 168
    assert court.bond_of(RIVAL) == PER_SLOT
