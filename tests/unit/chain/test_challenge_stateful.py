"""Whatever challengers, operators and jurors do, in whatever order: nothing is lost or made, and what is decided stays.

Two of the eight operators are crooked: too few for a quorum. The others answer every challenge in time, and vote as the machine
knows the truth to be. Crooked ones answer, vote, equivocate, leave and come back as they like.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aos_protocol.typed_data import ResultClaim
from support.challenges import (
    BOND,
    CANNOT_TELL,
    CHALLENGER,
    DRAW,
    INCONCLUSIVE,
    LEAVE_DELAY,
    MATCH,
    MEMBERSHIP,
    MISMATCH,
    NO_MATCH,
    OPEN,
    OPERATORS,
    REJECTED,
    RIVAL,
    UNDECIDED,
    UPHELD,
    VOTING,
    Court,
    Ledger,
    bound,
)
from support.evm import reverts

CROOKED = OPERATORS[1::4]
HONEST = tuple(operator for operator in OPERATORS if operator not in CROOKED)
CHALLENGERS = (CHALLENGER, RIVAL, CROOKED[0])
ACCOUNTS = (CHALLENGER, RIVAL, *OPERATORS)
START = 4_000_000_000
"""Unix seconds of every example's first block."""

FORGOTTEN = 257
"""Blocks after which a block's hash is known no longer."""


@dataclass
class Case:
    """A challenge as the machine expects it to be."""

    identifier: int
    ground: int
    claim: ResultClaim
    operator: int
    challenger: int
    jurors: tuple[int, ...]
    state: int = OPEN
    votes: dict[int, int] = field(default_factory=dict)
    scores: dict[int, int] = field(default_factory=dict)
    frozen: Any = None


@functools.cache
def courthouse() -> tuple[Court, Ledger]:
    """One chain for all examples; each example is undone at its end."""
    court = Court()
    return court, Ledger(court)


class Disputes(RuleBasedStateMachine):
    """Challenges of eight operators by three accounts, one of them an operator."""

    @initialize()
    def start(self) -> None:
        self.court, self.ledger = courthouse()
        self.undone = self.court.evm.undone()
        self.undone.__enter__()
        # From here on no block's time, and so no hash and no jury, depends on when the test runs.
        self.court.at(START)
        self.functions = self.court.contract.functions
        self.cases: list[Case] = []
        self.jobs = 0
        self.convicted: set[tuple[int, int]] = set()
        self.credits, self.bonds, _, self.burned = self.ledger.read()
        self.first_bonds = dict(self.bonds)
        self.paid_in, self.paid_out = sum(self.bonds.values()), 0

    def teardown(self) -> None:
        if hasattr(self, "undone"):
            self.undone.__exit__(None, None, None)

    # Opening and answering

    @rule(
        operator=st.sampled_from(OPERATORS),
        challenger=st.sampled_from(CHALLENGERS),
        ground=st.sampled_from((MEMBERSHIP, MISMATCH, MISMATCH)),
    )
    def challenge(self, operator: int, challenger: int, ground: int) -> None:
        self.jobs += 1
        alpha, proof = self.court.ticket(operator, selected=False)
        claim = self.court.claim(operator, job_id=f"{self.jobs:064x}", vrf_proof=bound(alpha, proof))
        self._open(ground, claim, operator, challenger)

    @precondition(lambda self: any(case.ground == MISMATCH for case in self.cases))
    @rule(data=st.data(), challenger=st.sampled_from(CHALLENGERS))
    def challenge_again(self, data: st.DataObject, challenger: int) -> None:
        case = data.draw(st.sampled_from([case for case in self.cases if case.ground == MISMATCH]))
        if any(other.state != UNDECIDED for other in self.cases if other.claim == case.claim):
            call = self.functions.challengeMismatch(*self.court.signed(case.claim, case.operator))
            self._refused(call, challenger, value=BOND)
        else:
            self._open(MISMATCH, case.claim, case.operator, challenger)

    @precondition(lambda self: self._any(OPEN))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self._answer(self._one(data, OPEN))

    @precondition(lambda self: self._any(OPEN))
    @rule(data=st.data(), other=st.sampled_from((*CROOKED, CHALLENGER)))
    def answer_in_vain(self, data: st.DataObject, other: int) -> None:
        """Somebody else stands by a mismatch, or makes up a Seat."""
        case = self._one(data, OPEN)
        if case.ground == MEMBERSHIP:
            signature = self.court.seat_signature(case.claim, other)
            self._refused(self.functions.answerSeat(case.identifier, signature), other)
        elif other != case.operator:
            self._refused(self.functions.answer(case.identifier), other)

    # The jury

    @precondition(lambda self: self._any(VOTING))
    @rule(
        data=st.data(),
        jurors=st.permutations(OPERATORS),
        many=st.integers(1, len(OPERATORS)),
        verdict=st.sampled_from((CANNOT_TELL, MATCH, NO_MATCH)),
    )
    def vote(self, data: st.DataObject, jurors: list[int], many: int, verdict: int) -> None:
        case = self._one(data, VOTING)
        self._draw_if_forgotten(case)
        for juror in jurors[:many]:
            self._vote(case, juror, verdict if juror in CROOKED else self._truth(case))

    @precondition(lambda self: self._any(VOTING))
    @rule(data=st.data())
    def draw(self, data: st.DataObject) -> None:
        case = self._one(data, VOTING)
        if self.court.read(case.identifier)[9] == bytes(32) and not self._over(case):
            self.court.evm.send(self.functions.draw(case.identifier))
        else:
            self._refused(self.functions.draw(case.identifier), 0)

    # Ends

    @precondition(lambda self: self.cases)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        case = data.draw(st.sampled_from(self.cases))
        call = self.functions.close(case.identifier)
        if case.state not in (OPEN, VOTING) or not self._over(case):
            self._refused(call, 0)
            return
        self._close(case)

    @precondition(lambda self: self._any(VOTING))
    @rule(data=st.data(), verdict=st.sampled_from((CANNOT_TELL, MATCH, NO_MATCH)))
    def every_juror_votes_and_the_window_ends(self, data: st.DataObject, verdict: int) -> None:
        case = self._one(data, VOTING)
        self._draw_if_forgotten(case)
        for juror in OPERATORS:
            self._vote(case, juror, verdict if juror in CROOKED else self._truth(case))
        self._let_the_honest_answer()
        if not self._over(case):
            self.court.after_window(case.identifier)
        self._close(case)

    @rule(seconds=st.sampled_from((1, 999, 20_000)), blocks=st.sampled_from((1, 1, FORGOTTEN)))
    def time_passes(self, seconds: int, blocks: int) -> None:
        self._let_the_honest_answer()
        self.court.evm.travel(seconds)
        self.court.evm.mine(blocks)

    @rule(account=st.sampled_from(ACCOUNTS))
    def withdraw(self, account: int) -> None:
        if not self.credits[account]:
            self._refused(self.functions.withdraw(), account)
            return
        before = self.court.evm.balance(self.court.address(account))
        receipt = self.court.evm.send(self.functions.withdraw(), sender=account)
        gas = receipt["gasUsed"] * receipt["effectiveGasPrice"]
        credit, self.credits[account] = self.credits[account], 0
        assert self.court.evm.balance(self.court.address(account)) == before + credit - gas
        self.paid_out += credit

    # What the crooked do besides

    @rule(operator=st.sampled_from(CROOKED), by=st.sampled_from(CHALLENGERS), counter=st.integers(1, 3))
    def equivocate(self, operator: int, by: int, counter: int) -> None:
        signed = [
            self.court.signed(self.court.claim(operator, counter=counter, answer=answer * 32), operator)
            for answer in ("01", "02")
        ]
        call = self.functions.proveEquivocation(*signed[0], *signed[1])
        if not self.bonds[operator] or (operator, counter) in self.convicted:
            self._refused(call, by)
            return
        self.court.evm.send(call, sender=by)
        self.convicted.add((operator, counter))
        taken = self._slash(operator, self.bonds[operator])
        self.credits[by] += taken // 2
        self.burned += taken - taken // 2

    @rule(operator=st.sampled_from(CROOKED))
    def leave_or_come_back(self, operator: int) -> None:
        registry, address = self.court.registry.functions, self.court.address(operator)
        if registry.operatorRanges(address).call()[1]:
            self.court.evm.send(registry.leave(), sender=operator)
            return
        self.court.register(operator, *self.court.ranges[operator])
        paid = self.first_bonds[operator]
        self.bonds[operator] += paid
        self.paid_in += paid

    @rule(operator=st.sampled_from(CROOKED))
    def take_the_bond_away(self, operator: int) -> None:
        registry = self.court.registry.functions
        if not self.bonds[operator] or registry.operatorRanges(self.court.address(operator)).call()[1]:
            return
        if any(case.operator == operator and case.state in (OPEN, VOTING) for case in self.cases):
            self.court.evm.travel(1)
            self._refused(registry.withdraw(), operator)
            return
        self._let_the_honest_answer()
        self.court.evm.travel(LEAVE_DELAY)
        self.court.evm.send(registry.withdraw(), sender=operator)
        self.paid_out += self.bonds[operator]
        self.bonds[operator] = 0

    # What holds after every step

    @invariant()
    def the_books_are_those_expected(self) -> None:
        credited, bonds, locks, burned = self.ledger.read()
        assert credited == self.credits
        assert bonds == self.bonds
        assert burned == self.burned
        going = [case for case in self.cases if case.state in (OPEN, VOTING)]
        assert locks == {operator: sum(case.operator == operator for case in going) for operator in OPERATORS}
        held = self.court.evm.balance(self.court.contract.address)
        assert held == sum(credited.values()) + BOND * len(going)
        assert held + sum(bonds.values()) + burned == self.paid_in - self.paid_out
        assert self.court.evm.balance(self.court.registry.address) == sum(bonds.values())

    @invariant()
    def no_honest_operator_loses_its_bond(self) -> None:
        assert {operator: self.bonds[operator] for operator in HONEST} == {
            operator: self.first_bonds[operator] for operator in HONEST
        }

    @invariant()
    def what_is_decided_stays_decided(self) -> None:
        for case in self.cases:
            if case.frozen is not None:
                assert self._read(case) == case.frozen

    # How the machine does it, and what it expects

    def _open(self, ground: int, claim: ResultClaim, operator: int, challenger: int) -> None:
        signed = self.court.signed(claim, operator)
        if ground == MISMATCH:
            call = self.functions.challengeMismatch(*signed)
        else:
            ticket = self.court.shown(operator, *self.court.ticket(operator, selected=False))
            call = self.functions.challengeMembership(*signed, *ticket)
        block = self.court.evm.web3.eth.block_number
        if not self.bonds[operator] or block - claim.registry_block >= 1_000:
            self._refused(call, challenger, value=BOND)
            return
        ranges = self.court.registry.functions.rangeAt
        jurors = tuple(
            juror
            for juror in OPERATORS
            if juror not in (operator, challenger) and ranges(self.court.address(juror), block).call()[1]
        )
        identifier = self.court.open(call, sender=challenger)
        self.paid_in += BOND
        self.cases.append(Case(identifier, ground, claim, operator, challenger, jurors))

    def _answer(self, case: Case) -> None:
        if case.ground == MEMBERSHIP:
            call = self.functions.answerSeat(case.identifier, self.court.seat_signature(case.claim))
        else:
            call = self.functions.answer(case.identifier)
        if self._over(case):
            assert case.operator in CROOKED
            self._refused(call, case.operator)
            return
        self.court.evm.send(call, sender=case.operator)
        if case.ground == MISMATCH:
            case.state = VOTING
            self.court.evm.mine(DRAW)
            return
        case.state = REJECTED
        self.credits[case.operator] += BOND // 2
        self.burned += BOND - BOND // 2
        self._freeze(case)

    def _let_the_honest_answer(self) -> None:
        for case in self.cases:
            if case.state == OPEN and case.operator in HONEST:
                self._answer(case)

    def _close(self, case: Case) -> None:
        self._expect(case)
        self.court.evm.send(self.functions.close(case.identifier))
        self._freeze(case)

    def _vote(self, case: Case, juror: int, verdict: int) -> None:
        call = self.court.ballot(case.identifier, juror, verdict)
        seated = self._seated(case)
        better = [other for other in seated if self._score(case, other) < self._score(case, juror)]
        known = juror in case.jurors and juror not in seated
        if self._over(case) or not known or len(better) == 5:
            self._refused(call, juror)
            return
        self.court.evm.send(call, sender=juror)
        case.votes[juror] = verdict
        assert self.court.seated(case.identifier) == self._seated(case)

    def _expect(self, case: Case) -> None:
        """What closing a challenge whose window is over must do to the books."""
        if case.state == OPEN:
            assert case.operator in CROOKED
            bond = self.bonds[case.operator]
            self._uphold(case, bond if case.ground == MEMBERSHIP else bond - bond // 2, 0)
            return
        verdicts = list(self._seated(case).values())
        if verdicts.count(NO_MATCH) >= 3:
            bond = self.bonds[case.operator]
            self._uphold(case, bond - bond // 2 + BOND, BOND)
        elif verdicts.count(MATCH) >= 3:
            case.state = REJECTED
            self.credits[case.operator] += BOND // 2
            self.burned += BOND - BOND // 2 - self._pay(case, BOND // 4, MATCH)
        else:
            case.state = INCONCLUSIVE if verdicts.count(CANNOT_TELL) >= 3 else UNDECIDED
            paid = (CANNOT_TELL,) if case.state == INCONCLUSIVE else (CANNOT_TELL, MATCH, NO_MATCH)
            self.credits[case.challenger] += BOND - BOND // 8
            self.burned += BOND // 8 - self._pay(case, BOND // 8, *paid)

    def _uphold(self, case: Case, amount: int, stake: int) -> None:
        case.state = UPHELD
        taken = self._slash(case.operator, amount)
        stake = min(stake, taken)
        won = stake // 2 + (taken - stake) // 2
        self.credits[case.challenger] += BOND + won
        self.burned += taken - won - self._pay(case, stake // 4, NO_MATCH)

    def _slash(self, operator: int, amount: int) -> int:
        taken = min(amount, self.bonds[operator])
        self.bonds[operator] -= taken
        return taken

    def _pay(self, case: Case, pot: int, *verdicts: int) -> int:
        winners = [juror for juror, verdict in self._seated(case).items() if verdict in verdicts]
        for juror in winners:
            self.credits[juror] += pot // len(winners)
        return pot // len(winners) * len(winners) if winners else 0

    def _seated(self, case: Case) -> dict[int, int]:
        """The five best of all who voted."""
        best = sorted(case.votes, key=lambda juror: self._score(case, juror))[:5]
        return {juror: case.votes[juror] for juror in best}

    def _score(self, case: Case, juror: int) -> int:
        # A draw is final once there is a vote, and before that nobody's score is asked for.
        if juror not in case.scores:
            case.scores[juror] = self.court.score(case.identifier, juror)
        return case.scores[juror]

    def _truth(self, case: Case) -> int:
        """What honest operators answer is the model's, what crooked ones do is not; of some jobs nobody has the transcript."""
        if int(case.claim.job_id, 16) % 4 == 0:
            return CANNOT_TELL
        return MATCH if case.operator in HONEST else NO_MATCH

    def _draw_if_forgotten(self, case: Case) -> None:
        *_, block, seed = self.court.read(case.identifier)
        if (
            seed == bytes(32)
            and self.court.evm.web3.eth.block_number + 1 - block > 256
            and not self._over(case)
        ):
            self.court.evm.send(self.functions.draw(case.identifier))
            self.court.evm.mine(DRAW)

    def _over(self, case: Case) -> bool:
        """Whether the next transaction comes after the window."""
        return self.court.evm.now() + 1 >= self.court.deadline(case.identifier)

    def _refused(self, call: Any, sender: int, value: int = 0) -> None:
        with reverts():
            self.court.evm.send(call, sender=sender, value=value)

    def _freeze(self, case: Case) -> None:
        case.frozen = self._read(case)
        assert case.frozen[0][1] == case.state

    def _read(self, case: Case) -> Any:
        return self.court.read(case.identifier), self.functions.seats(case.identifier).call()

    def _any(self, state: int) -> bool:
        return any(case.state == state for case in self.cases)

    def _one(self, data: st.DataObject, state: int) -> Case:
        return data.draw(st.sampled_from([case for case in self.cases if case.state == state]))


# Each step is some transactions on a chain: what matters is many steps, not many chains.
Disputes.TestCase.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
TestDisputes = Disputes.TestCase
