# pragma version 0.4.3
"""
@title Settlement
@notice Who is paid what at the end of a case: of the challenger's bond, and of what the registry takes from the operator.
@dev All is computed from the bond or from what the registry really paid, and what is burned is the difference: no wei is lost
     or made, whatever the divisions. docs/challenges.md has the table.
"""

from lib import cases
from lib import jury
from lib import ledger
from lib import terms

uses: cases
uses: jury
uses: ledger
uses: terms

event Convicted:
    operator: indexed(address)
    challenger: indexed(address)
    ground: uint8
    claim: bytes32
    slashed: uint256
    burned: uint256


@internal
def convict(operator: address, ground: uint8, key: bytes32, claim_hash: bytes32):
    """Takes the whole bond at once: half for whoever showed the fault, half burned."""
    assert staticcall terms.registry.bondOf(operator) > 0, "the operator has no bond"
    cases.take(key, cases.DECIDED_AT_ONCE)
    slashed: uint256 = extcall terms.registry.slash(operator, max_value(uint256))
    ledger.pay(msg.sender, slashed // 2)
    lost: uint256 = slashed - slashed // 2
    log Convicted(
        operator=operator, challenger=msg.sender, ground=ground, claim=claim_hash, slashed=slashed, burned=lost
    )
    ledger.burn(lost)


@internal
def by_silence(id: uint256):
    """The operator did not answer, and has lost."""
    if cases.of[id].ground == cases.MEMBERSHIP:
        self._uphold(id, max_value(uint256), 0)
    else:
        self._uphold(id, self._half_of_bond(id), 0)


@internal
def by_seat(id: uint256):
    """The dispatcher's signature over the operator's seat was shown: the challenger has lost, and no juror had a part in it."""
    self._reject(id, 0)


@internal
def by_votes(id: uint256):
    """The vote window is over."""
    votes: uint256[3] = jury.tally(id)
    if votes[jury.MISMATCH] >= jury.QUORUM:
        self._uphold(id, self._half_of_bond(id) + terms.bond, terms.bond)
    elif votes[jury.MATCH] >= jury.QUORUM:
        self._reject(id, self._pay_jurors(id, jury.MATCH, terms.bond // 4))
    elif votes[jury.INCONCLUSIVE] >= jury.QUORUM:
        self._give_back(id, cases.INCONCLUSIVE, jury.INCONCLUSIVE)
    else:
        self._give_back(id, cases.UNDECIDED, jury.ANY)


@internal
def _reject(id: uint256, paid: uint256):
    """The challenger has lost: half of its bond goes to the operator, some was paid to jurors."""
    ledger.pay(cases.of[id].operator, terms.bond // 2)
    self._finish(id, cases.REJECTED, 0, terms.bond - terms.bond // 2 - paid)


@internal
def _uphold(id: uint256, amount: uint256, stake: uint256):
    """The operator has lost: of what is taken, the stake is shared with the jurors; half of all goes to the challenger."""
    challenger: address = cases.of[id].challenger
    slashed: uint256 = extcall terms.registry.slash(cases.of[id].operator, amount)
    staked: uint256 = min(stake, slashed)
    won: uint256 = staked // 2 + (slashed - staked) // 2
    paid: uint256 = self._pay_jurors(id, jury.MISMATCH, staked // 4)
    ledger.pay(challenger, terms.bond + won)
    self._finish(id, cases.UPHELD, slashed, slashed - won - paid)


@internal
def _give_back(id: uint256, state: uint8, paid_verdict: uint8):
    """Nobody has lost. The challenger bears the jurors' work: an eighth, else he could hold an operator here for nothing."""
    fee: uint256 = terms.bond // 8
    paid: uint256 = self._pay_jurors(id, paid_verdict, fee)
    ledger.pay(cases.of[id].challenger, terms.bond - fee)
    self._finish(id, state, 0, fee - paid)


@internal
def _finish(id: uint256, state: uint8, slashed: uint256, lost: uint256):
    cases.finish(id, state, slashed, lost)
    ledger.burn(lost)


@internal
@view
def _half_of_bond(id: uint256) -> uint256:
    """Half of the operator's bond in the registry, rounded up."""
    held: uint256 = staticcall terms.registry.bondOf(cases.of[id].operator)
    return held - held // 2


@internal
def _pay_jurors(id: uint256, verdict: uint8, pot: uint256) -> uint256:
    """Equal parts of the pot for the seats of this verdict; returns what they took."""
    winners: DynArray[address, jury.SEATS] = jury.jurors(id, verdict)
    if len(winners) == 0:
        return 0
    part: uint256 = pot // len(winners)
    for juror: address in winners:
        ledger.pay(juror, part)
    return part * len(winners)
