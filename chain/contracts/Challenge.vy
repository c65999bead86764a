# pragma version 0.4.3
"""
@title Challenge
@notice What happens to an operator that cheats: anybody shows a result that it signed, and takes part of its bond.
@dev Three grounds are decided in the transaction that shows them (equivocation, an invalid proof, a signature under
     somebody else's name). Two have windows: membership, which the dispatcher's signature answers, and mismatch, which
     a jury drawn by sortition decides. docs/challenges.md says what each step costs, who is paid what, and why.

     Nobody administers this contract. Every payment is a credit that its owner withdraws, everything that moves value
     is nonreentrant, and the ether that belongs to someone is always the credits and the bonds of open challenges.
"""

from lib import cases
from lib import claims
from lib import draws
from lib import jury
from lib import ledger
from lib import settlement
from lib import signatures
from lib import terms
from lib import vrf

initializes: terms
initializes: ledger
initializes: jury
initializes: cases[terms := terms]
initializes: draws[cases := cases, terms := terms]
initializes: settlement[cases := cases, jury := jury, ledger := ledger, terms := terms]

exports: (
    terms.registry,
    terms.sortition,
    terms.bond,
    terms.answerWindow,
    terms.voteWindow,
    terms.maxAge,
    cases.lastChallenge,
    cases.caseOf,
    cases.challenge,
    draws.juryAlpha,
    jury.seats,
    ledger.credit,
    ledger.burned,
    ledger.withdraw,
)

event Voted:
    id: indexed(uint256)
    juror: indexed(address)
    verdict: uint8
    evicted: address


@deploy
def __init__(
    registry_: address,
    sortition_: address,
    bond_: uint256,
    answer_window: uint256,
    vote_window: uint256,
    max_age: uint256,
):
    """
    @notice Fix the terms of this network.
    @param registry_ The OperatorRegistry that was created with this contract's address as its slasher
    @param sortition_ Sortition over that registry
    @param bond_ Wei that a challenge with a window costs whoever opens it, until it is decided
    @param answer_window Seconds that the operator has to answer
    @param vote_window Seconds that jurors have to vote
    @param max_age Blocks from a result's registry block until it can no longer be challenged (grounds with windows)
    """
    terms.__init__(registry_, sortition_, bond_, answer_window, vote_window, max_age)


# Faults that one transaction proves


@external
@nonreentrant
def proveEquivocation(claim_a: claims.Claim, signature_a: Bytes[65], claim_b: claims.Claim, signature_b: Bytes[65]):
    """
    @notice Two different results that one operator signed for the same entry of its clock with one dispatcher.
    """
    operator: address = claim_a.operator
    assert claim_b.operator == operator, "the results are of two operators"
    assert claim_b.dispatcher == claim_a.dispatcher, "the results are for two dispatchers"
    assert claim_b.counter == claim_a.counter, "the results have two counters"
    hash_a: bytes32 = claims.result_hash(claim_a)
    hash_b: bytes32 = claims.result_hash(claim_b)
    assert hash_a != hash_b, "it is the same result"
    self._only_signed_by(operator, hash_a, signature_a)
    self._only_signed_by(operator, hash_b, signature_b)
    key: bytes32 = keccak256(abi_encode(cases.EQUIVOCATION, operator, claim_a.dispatcher, claim_a.counter))
    settlement.convict(operator, cases.EQUIVOCATION, key, hash_a)


@external
@nonreentrant
def proveInvalidProof(
    claim: claims.Claim,
    signature: Bytes[65],
    public_key: uint256[2],
    alpha: Bytes[96],
    proof: Bytes[81],
    hints: vrf.Hints,
):
    """
    @notice A result whose ticket does not hold.
    @param claim The result
    @param signature The operator's, over it
    @param public_key The operator's: x, y
    @param alpha What the ticket was drawn on: the seed, then SHA-512 of the prompt
    @param proof The ticket's proof
    @param hints As aos_chain.hints computes them
    """
    hash: bytes32 = claims.result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    claims.check_ticket(claim, public_key, alpha, proof)
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall terms.sortition.verify(public_key, alpha, proof, hints)
    assert not valid, "the proof holds"
    key: bytes32 = keccak256(abi_encode(cases.INVALID_PROOF, claim.operator, claim.vrfProof))
    settlement.convict(claim.operator, cases.INVALID_PROOF, key, hash)


@external
@nonreentrant
def proveForeignSignature(claim: claims.Claim, signature: Bytes[65]):
    """
    @notice A result that was signed by another operator than the one it names. Whoever signed it is convicted.
    """
    hash: bytes32 = claims.result_hash(claim)
    signer: address = signatures.recover(terms.registry.address, hash, signature)
    assert signer != claim.operator, "the operator signed it itself"
    key: bytes32 = keccak256(abi_encode(cases.FOREIGN_SIGNATURE, signer, hash))
    settlement.convict(signer, cases.FOREIGN_SIGNATURE, key, hash)


# Challenges with windows


@external
@payable
@nonreentrant
def challengeMembership(
    claim: claims.Claim,
    signature: Bytes[65],
    public_key: uint256[2],
    alpha: Bytes[96],
    proof: Bytes[81],
    hints: vrf.Hints,
) -> uint256:
    """
    @notice A result of an operator whose ticket holds and selects nobody. The dispatcher's Seat answers it.
    @dev The parameters are those of proveInvalidProof; the bond is paid with the call.
    @return The challenge's id
    """
    hash: bytes32 = claims.result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    claims.check_ticket(claim, public_key, alpha, proof)
    cases.only_recent(claim.registryBlock)
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall terms.sortition.verify(public_key, alpha, proof, hints)
    assert valid, "the proof does not hold: prove that"
    assert not staticcall terms.sortition.selected(
        claim.operator, claim.registryBlock, claim.tag, claim.position, output
    ), "the ticket selects the operator"
    return self._open(cases.MEMBERSHIP, claim, hash, claims.seat_hash(claim))


@external
@payable
@nonreentrant
def challengeMismatch(claim: claims.Claim, signature: Bytes[65]) -> uint256:
    """
    @notice A result that the model did not give. The operator has the answer window to stand by it, then a jury votes.
    @dev The bond is paid with the call.
    @return The challenge's id
    """
    hash: bytes32 = claims.result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    cases.only_recent(claim.registryBlock)
    assert claim.transcript != empty(bytes32), "there is no transcript to judge"
    return self._open(cases.MISMATCH, claim, hash, claims.judged_hash(claim))


@external
@nonreentrant
def answer(id: uint256):
    """
    @notice Stand by a result: its operator calls for the jury, which is drawn on the hashes of this block and the next.
    @dev The operator pays nothing now, so that nobody can make it run out of ether by many challenges at once. It stakes as
         much as the challenger, out of the bond that the registry holds.
    """
    cases.only_answerable(id, cases.MISMATCH)
    assert msg.sender == cases.of[id].operator, "only the operator"
    cases.call_jury(id)


@external
@nonreentrant
def answerSeat(id: uint256, seat_signature: Bytes[65]):
    """
    @notice Show the dispatcher's signature over the Seat that the operator held; anybody may.
    """
    cases.only_answerable(id, cases.MEMBERSHIP)
    self._only_signed_by(cases.of[id].dispatcher, cases.of[id].subject, seat_signature)
    settlement.by_seat(id)


@external
@nonreentrant
def draw(id: uint256):
    """
    @notice Fix the jury's seed while the hashes of its blocks are known. When nobody did so in time, let later blocks draw the
            jury, and start the vote window anew.
    """
    cases.only_voting(id)
    draws.fix_or_repeat(id)


@external
@nonreentrant
def vote(
    id: uint256,
    juror: address,
    verdict: uint8,
    vote_signature: Bytes[65],
    public_key: uint256[2],
    proof: Bytes[81],
    hints: vrf.Hints,
):
    """
    @notice Bring in a juror's vote; anybody may. The five that have the best tickets of all who vote hold the seats, and a
            vote that is worse than five others is refused.
    @param id The challenge
    @param juror An operator that had a range before the challenge was opened, and no party of it
    @param verdict 1 the answer matches, 2 it does not, 0 that cannot be told
    @param vote_signature The juror's, over Vote(id, juror, verdict)
    @param public_key The juror's: x, y
    @param proof The juror's VRF proof on juryAlpha(id)
    @param hints As aos_chain.hints computes them
    """
    cases.only_voting(id)
    assert verdict <= jury.MISMATCH, "no such verdict"
    cases.only_juror(id, juror)
    self._only_signed_by(juror, claims.vote_hash(id, juror, verdict), vote_signature)
    assert signatures.address_of(public_key) == juror, "the public key is not the juror's"
    draws.fix(id)
    start: uint256 = 0
    end: uint256 = 0
    start, end = staticcall terms.registry.rangeAt(juror, cases.of[id].juryBlock)
    assert end > start, "the juror had no range before the challenge"
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall terms.sortition.verify(public_key, draws.alpha(id), proof, hints)
    assert valid, "the juror's proof does not hold"
    # A range counts by its width alone: widened, the narrowest ones would hold nearly every seat.
    evicted: address = jury.take_seat(id, juror, verdict, convert(output, uint256) // (end - start))
    log Voted(id=id, juror=juror, verdict=verdict, evicted=evicted)


@external
@nonreentrant
def close(id: uint256):
    """
    @notice Decide a challenge whose window is over; anybody may. An operator that did not answer has lost.
    """
    cases.only_over(id)
    if cases.of[id].state == cases.VOTING:
        settlement.by_votes(id)
    else:
        settlement.by_silence(id)


@external
@payable
def __default__():
    """
    @dev The registry pays what it slashes by a plain transfer, in the middle of a call of ours: hence not nonreentrant.
    """
    assert msg.sender == terms.registry.address, "only the registry pays without a call"


@internal
@view
def _only_signed_by(signer: address, struct_hash: bytes32, signature: Bytes[65]):
    signatures.check(terms.registry.address, signer, struct_hash, signature)


@internal
@payable
def _open(ground: uint8, claim: claims.Claim, claim_hash: bytes32, subject: bytes32) -> uint256:
    assert msg.value == terms.bond, "pay exactly the bond"
    assert staticcall terms.registry.bondOf(claim.operator) > 0, "the operator has no bond"
    return cases.open(ground, claim, claim_hash, subject)
