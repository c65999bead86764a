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

interface Registry:
    def slasher() -> address: view
    def bondOf(operator: address) -> uint256: view
    def rangeAt(operator: address, blockNumber: uint256) -> (uint256, uint256): view
    def lock(operator: address): nonpayable
    def unlock(operator: address): nonpayable
    def slash(operator: address, amount: uint256) -> uint256: nonpayable

interface Sortition:
    def REGISTRY() -> address: view
    def verify(public_key: uint256[2], alpha: Bytes[256], proof: Bytes[81], hints: Hints) -> (bool, bytes32): view
    def selected(
        operator: address, blockNumber: uint256, tag: String[16], position: String[16], output: bytes32
    ) -> bool: view

# As in Sortition.vy.
struct Hints:
    gamma_y: uint256
    roots: DynArray[uint256, 64]
    u: uint256[2]
    s_h: uint256[2]
    c_gamma: uint256[2]
    v: uint256[2]

# What an operator signs about a result: the EIP-712 struct `Result`.
struct Claim:
    jobId: bytes32
    dispatcher: address
    operator: address
    role: String[16]
    tag: String[16]
    position: String[16]
    counter: uint256
    registryBlock: uint256
    answer: bytes32
    transcript: bytes32
    model: bytes32
    params: bytes32
    vrfProof: bytes32
    clock: bytes32
    attestation: bytes32

struct Case:
    ground: uint8
    state: uint8
    operator: address
    challenger: address
    dispatcher: address
    subject: bytes32  # membership: the struct hash of the Seat that answers; mismatch: what the jury judges
    deadline: uint256  # the second from which the window that is open is over
    juryBlock: uint256  # jurors are those who had a range after this block, the one before the challenge was opened
    drawBlock: uint256  # they are drawn on the hashes of this block and of those after it; 0 before there is one
    seed: bytes32  # what these hashes give, once it is fixed

struct Seat:
    juror: address
    verdict: uint8
    score: uint256  # lower is better

event ChallengeOpened:
    id: indexed(uint256)
    operator: indexed(address)
    challenger: indexed(address)
    ground: uint8
    dispatcher: address
    jobId: bytes32
    claim: bytes32
    deadline: uint256

event ChallengeAnswered:
    id: indexed(uint256)
    deadline: uint256

event JuryDrawn:
    id: indexed(uint256)
    drawBlock: uint256
    seed: bytes32
    deadline: uint256

event Voted:
    id: indexed(uint256)
    juror: indexed(address)
    verdict: uint8
    evicted: address

event ChallengeClosed:
    id: indexed(uint256)
    operator: indexed(address)
    challenger: indexed(address)
    state: uint8
    slashed: uint256
    burned: uint256

event Convicted:
    operator: indexed(address)
    challenger: indexed(address)
    ground: uint8
    claim: bytes32
    slashed: uint256
    burned: uint256

event Withdrawn:
    account: indexed(address)
    amount: uint256


# Grounds.
MEMBERSHIP: constant(uint8) = 1
MISMATCH: constant(uint8) = 2
EQUIVOCATION: constant(uint8) = 3
INVALID_PROOF: constant(uint8) = 4
FOREIGN_SIGNATURE: constant(uint8) = 5

# States. Only an undecided challenge can be followed by another one of the same case.
OPEN: constant(uint8) = 1
VOTING: constant(uint8) = 2
UPHELD: constant(uint8) = 3
REJECTED: constant(uint8) = 4
INCONCLUSIVE: constant(uint8) = 5
UNDECIDED: constant(uint8) = 6

# Verdicts of jurors.
VERDICT_INCONCLUSIVE: constant(uint8) = 0
VERDICT_MATCH: constant(uint8) = 1
VERDICT_MISMATCH: constant(uint8) = 2
ANY_VERDICT: constant(uint8) = 255

SEATS: constant(uint256) = 5
QUORUM: constant(uint256) = 3

# A jury is drawn on its first block's hash and on one bit of each of these next ones.
BITS: constant(uint256) = 16

# How many blocks back the EVM still knows hashes.
HASHES_KEPT: constant(uint256) = 256

# A case that was decided in one transaction has no challenge of its own.
DECIDED_AT_ONCE: constant(uint256) = max_value(uint256)

# Half the group order of secp256k1: of the two signatures s and n - s only the lower counts.
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
DOMAIN_NAME: constant(bytes32) = keccak256("AOS")
DOMAIN_VERSION: constant(bytes32) = keccak256("1")
RESULT_TYPE: constant(bytes32) = keccak256(
    "Result(bytes32 jobId,address dispatcher,address operator,string role,string tag,string position,uint256 counter,uint256 registryBlock,bytes32 answer,bytes32 transcript,bytes32 model,bytes32 params,bytes32 vrfProof,bytes32 clock,bytes32 attestation)"
)
SEAT_TYPE: constant(bytes32) = keccak256(
    "Seat(bytes32 jobId,address operator,string role,string tag,string position,uint256 registryBlock)"
)
VOTE_TYPE: constant(bytes32) = keccak256("Vote(uint256 challenge,address operator,uint8 verdict)")

registry: public(immutable(Registry))
sortition: public(immutable(Sortition))
bond: public(immutable(uint256))
answerWindow: public(immutable(uint256))
voteWindow: public(immutable(uint256))
maxAge: public(immutable(uint256))

lastChallenge: public(uint256)
credit: public(HashMap[address, uint256])
burned: public(uint256)

# By what was challenged (ground, and what identifies the fault): the last challenge of it, or DECIDED_AT_ONCE.
caseOf: public(HashMap[bytes32, uint256])

_challenges: HashMap[uint256, Case]

# Each one packed: the score's upper 88 bits, the juror, the verdict. So the worst seat is the greatest word.
_seats: HashMap[uint256, DynArray[uint256, SEATS]]


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
    registry = Registry(registry_)
    sortition = Sortition(sortition_)
    assert staticcall registry.slasher() == self, "the registry has another slasher"
    assert staticcall sortition.REGISTRY() == registry_, "sortition has another registry"
    # Less could not be divided among winner and jurors.
    assert bond_ >= 8 * SEATS, "the bond is too small"
    assert answer_window > 0 and vote_window > 0 and max_age > 0, "a window is empty"
    bond = bond_
    answerWindow = answer_window
    voteWindow = vote_window
    maxAge = max_age


# Faults that one transaction proves


@external
@nonreentrant
def proveEquivocation(claim_a: Claim, signature_a: Bytes[65], claim_b: Claim, signature_b: Bytes[65]):
    """
    @notice Two different results that one operator signed for the same entry of its clock with one dispatcher.
    """
    operator: address = claim_a.operator
    assert claim_b.operator == operator, "the results are of two operators"
    assert claim_b.dispatcher == claim_a.dispatcher, "the results are for two dispatchers"
    assert claim_b.counter == claim_a.counter, "the results have two counters"
    hash_a: bytes32 = self._result_hash(claim_a)
    hash_b: bytes32 = self._result_hash(claim_b)
    assert hash_a != hash_b, "it is the same result"
    self._only_signed_by(operator, hash_a, signature_a)
    self._only_signed_by(operator, hash_b, signature_b)
    self._convict(
        operator,
        EQUIVOCATION,
        keccak256(abi_encode(EQUIVOCATION, operator, claim_a.dispatcher, claim_a.counter)),
        hash_a,
    )


@external
@nonreentrant
def proveInvalidProof(
    claim: Claim,
    signature: Bytes[65],
    public_key: uint256[2],
    alpha: Bytes[96],
    proof: Bytes[81],
    hints: Hints,
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
    hash: bytes32 = self._result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    self._only_ticket_of(claim, public_key, alpha, proof)
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall sortition.verify(public_key, alpha, proof, hints)
    assert not valid, "the proof holds"
    self._convict(
        claim.operator, INVALID_PROOF, keccak256(abi_encode(INVALID_PROOF, claim.operator, claim.vrfProof)), hash
    )


@external
@nonreentrant
def proveForeignSignature(claim: Claim, signature: Bytes[65]):
    """
    @notice A result that was signed by another operator than the one it names. Whoever signed it is convicted.
    """
    hash: bytes32 = self._result_hash(claim)
    signer: address = self._signer(hash, signature)
    assert signer != claim.operator, "the operator signed it itself"
    self._convict(signer, FOREIGN_SIGNATURE, keccak256(abi_encode(FOREIGN_SIGNATURE, signer, hash)), hash)


# Challenges with windows


@external
@payable
@nonreentrant
def challengeMembership(
    claim: Claim,
    signature: Bytes[65],
    public_key: uint256[2],
    alpha: Bytes[96],
    proof: Bytes[81],
    hints: Hints,
) -> uint256:
    """
    @notice A result of an operator whose ticket holds and selects nobody. The dispatcher's Seat answers it.
    @dev The parameters are those of proveInvalidProof; the bond is paid with the call.
    @return The challenge's id
    """
    hash: bytes32 = self._result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    self._only_ticket_of(claim, public_key, alpha, proof)
    self._only_recent(claim.registryBlock)
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall sortition.verify(public_key, alpha, proof, hints)
    assert valid, "the proof does not hold: prove that"
    assert not staticcall sortition.selected(
        claim.operator, claim.registryBlock, claim.tag, claim.position, output
    ), "the ticket selects the operator"
    return self._open(MEMBERSHIP, claim, hash, self._seat_hash(claim))


@external
@payable
@nonreentrant
def challengeMismatch(claim: Claim, signature: Bytes[65]) -> uint256:
    """
    @notice A result that the model did not give. The operator has the answer window to stand by it, then a jury votes.
    @dev The bond is paid with the call. A result is signed afresh whenever it is sent: what is judged, and only once, is
         what stays the same.
    @return The challenge's id
    """
    hash: bytes32 = self._result_hash(claim)
    self._only_signed_by(claim.operator, hash, signature)
    self._only_recent(claim.registryBlock)
    assert claim.transcript != empty(bytes32), "there is no transcript to judge"
    judged: bytes32 = keccak256(
        abi_encode(claim.jobId, claim.operator, claim.answer, claim.transcript, claim.model, claim.params)
    )
    return self._open(MISMATCH, claim, hash, judged)


@external
@nonreentrant
def answer(id: uint256):
    """
    @notice Stand by a result: its operator calls for the jury, which is drawn on the hashes of this block and the next.
    @dev The operator pays nothing now, so that nobody can make it run out of ether by many challenges at once. It stakes as
         much as the challenger, out of the bond that the registry holds.
    """
    self._only_answerable(id, MISMATCH)
    assert msg.sender == self._challenges[id].operator, "only the operator"
    deadline: uint256 = block.timestamp + voteWindow
    self._challenges[id].state = VOTING
    self._challenges[id].drawBlock = block.number
    self._challenges[id].deadline = deadline
    log ChallengeAnswered(id=id, deadline=deadline)


@external
@nonreentrant
def answerSeat(id: uint256, seat_signature: Bytes[65]):
    """
    @notice Show the dispatcher's signature over the Seat that the operator held; anybody may.
    """
    self._only_answerable(id, MEMBERSHIP)
    self._only_signed_by(self._challenges[id].dispatcher, self._challenges[id].subject, seat_signature)
    operator: address = self._challenges[id].operator
    self.credit[operator] += bond // 2
    self._finish(id, REJECTED, 0, bond - bond // 2)


@external
@nonreentrant
def draw(id: uint256):
    """
    @notice Fix the jury's seed while the hashes of its blocks are known. When nobody did so in time, let later blocks draw the
            jury, and start the vote window anew.
    """
    self._only_voting(id)
    assert self._challenges[id].seed == empty(bytes32), "the jury is drawn"
    if block.number - self._challenges[id].drawBlock <= HASHES_KEPT:
        self._fix_seed(id)
        return
    deadline: uint256 = block.timestamp + voteWindow
    self._challenges[id].drawBlock = block.number
    self._challenges[id].deadline = deadline
    log JuryDrawn(id=id, drawBlock=block.number, seed=empty(bytes32), deadline=deadline)


@external
@nonreentrant
def vote(
    id: uint256,
    juror: address,
    verdict: uint8,
    vote_signature: Bytes[65],
    public_key: uint256[2],
    proof: Bytes[81],
    hints: Hints,
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
    self._only_voting(id)
    assert verdict <= VERDICT_MISMATCH, "no such verdict"
    self._only_juror(id, juror)
    self._only_signed_by(juror, keccak256(abi_encode(VOTE_TYPE, id, juror, verdict)), vote_signature)
    assert self._address(public_key) == juror, "the public key is not the juror's"
    if self._challenges[id].seed == empty(bytes32):
        self._fix_seed(id)
    start: uint256 = 0
    end: uint256 = 0
    start, end = staticcall registry.rangeAt(juror, self._challenges[id].juryBlock)
    assert end > start, "the juror had no range before the challenge"
    valid: bool = False
    output: bytes32 = empty(bytes32)
    valid, output = staticcall sortition.verify(public_key, self._alpha(id), proof, hints)
    assert valid, "the juror's proof does not hold"
    # A range counts by its width alone: widened, the narrowest ones would hold nearly every seat.
    evicted: address = self._seat(id, juror, verdict, convert(output, uint256) // (end - start))
    log Voted(id=id, juror=juror, verdict=verdict, evicted=evicted)


@external
@nonreentrant
def close(id: uint256):
    """
    @notice Decide a challenge whose window is over; anybody may. An operator that did not answer has lost.
    """
    state: uint8 = self._challenges[id].state
    assert state == OPEN or state == VOTING, "the challenge is not open"
    assert block.timestamp >= self._challenges[id].deadline, "the window is not over"
    if state == VOTING:
        self._close_by_votes(id)
    elif self._challenges[id].ground == MEMBERSHIP:
        self._uphold(id, max_value(uint256), 0)
    else:
        self._uphold(id, self._half_of_bond(id), 0)


# Payments


@external
@nonreentrant
def withdraw():
    """
    @notice Pay the sender its credit.
    """
    amount: uint256 = self.credit[msg.sender]
    assert amount > 0, "no credit"
    self.credit[msg.sender] = 0
    log Withdrawn(account=msg.sender, amount=amount)
    # All gas goes along: an account with code may need more than a stipend.
    raw_call(msg.sender, b"", value=amount)


@external
@payable
def __default__():
    """
    @dev The registry pays what it slashes by a plain transfer, in the middle of a call of ours: hence not nonreentrant.
    """
    assert msg.sender == registry.address, "only the registry pays without a call"


# Reading


@external
@view
def challenge(id: uint256) -> Case:
    """
    @notice A challenge as it stands; state 0: there is none of this id.
    """
    return self._challenges[id]


@external
@view
def seats(id: uint256) -> DynArray[Seat, SEATS]:
    """
    @notice The jury as far as it has voted, in no order.
    """
    jury: DynArray[Seat, SEATS] = []
    for packed: uint256 in self._seats[id]:
        jury.append(
            Seat(
                juror=self._juror_of(packed),
                verdict=self._verdict_of(packed),
                score=packed >> 168,
            )
        )
    return jury


@external
@view
def juryAlpha(id: uint256) -> Bytes[64]:
    """
    @notice What jurors prove their tickets on: the draw's seed, then what stands for this challenge alone. Reverts before all
            of the draw's blocks are there, and when they are forgotten and nobody fixed the seed.
    """
    return self._alpha(id)


# Who and what is admitted


@internal
@view
def _only_signed_by(signer: address, struct_hash: bytes32, signature: Bytes[65]):
    assert self._signer(struct_hash, signature) == signer, "the signature is another key's"


@internal
@view
def _only_ticket_of(claim: Claim, public_key: uint256[2], alpha: Bytes[96], proof: Bytes[81]):
    assert self._address(public_key) == claim.operator, "the public key is not the operator's"
    # A digest does not tell where alpha ends: with other lengths a good proof could be cut into a bad one.
    assert len(alpha) == 96 and len(proof) == 81, "alpha has 96 bytes, a proof 81"
    assert sha256(concat(alpha, proof)) == claim.vrfProof, "the result is not bound to this proof"


@internal
@view
def _only_recent(registry_block: uint256):
    assert registry_block < block.number, "the registry block has not come yet"
    assert block.number - registry_block <= maxAge, "the result is too old"


@internal
@view
def _only_answerable(id: uint256, ground: uint8):
    assert self._challenges[id].state == OPEN, "the challenge waits for no answer"
    assert self._challenges[id].ground == ground, "another ground: see answer and answerSeat"
    assert block.timestamp < self._challenges[id].deadline, "the answer window is over"


@internal
@view
def _only_voting(id: uint256):
    assert self._challenges[id].state == VOTING, "the challenge has no jury"
    assert block.timestamp < self._challenges[id].deadline, "the vote window is over"


@internal
@view
def _only_juror(id: uint256, juror: address):
    assert juror != self._challenges[id].operator, "the operator is a party"
    assert juror != self._challenges[id].challenger, "the challenger is a party"
    assert juror != self._challenges[id].dispatcher, "the dispatcher is a party"


# Cases


@internal
def _take_case(key: bytes32, taker: uint256):
    """A fault is decided once. Of those that a jury left undecided another challenge may follow."""
    last: uint256 = self.caseOf[key]
    assert last == 0 or self._challenges[last].state == UNDECIDED, "challenged already"
    self.caseOf[key] = taker


@internal
@payable
def _open(ground: uint8, claim: Claim, claim_hash: bytes32, subject: bytes32) -> uint256:
    assert msg.value == bond, "pay exactly the bond"
    assert staticcall registry.bondOf(claim.operator) > 0, "the operator has no bond"
    id: uint256 = self.lastChallenge + 1
    self.lastChallenge = id
    self._take_case(keccak256(abi_encode(ground, claim.dispatcher, subject)), id)
    deadline: uint256 = block.timestamp + answerWindow
    self._challenges[id] = Case(
        ground=ground,
        state=OPEN,
        operator=claim.operator,
        challenger=msg.sender,
        dispatcher=claim.dispatcher,
        subject=subject,
        deadline=deadline,
        juryBlock=block.number - 1,
        drawBlock=0,
        seed=empty(bytes32),
    )
    extcall registry.lock(claim.operator)
    log ChallengeOpened(
        id=id,
        operator=claim.operator,
        challenger=msg.sender,
        ground=ground,
        dispatcher=claim.dispatcher,
        jobId=claim.jobId,
        claim=claim_hash,
        deadline=deadline,
    )
    return id


@internal
def _convict(operator: address, ground: uint8, key: bytes32, claim_hash: bytes32):
    """Takes the whole bond at once: half for whoever showed the fault, half burned."""
    assert staticcall registry.bondOf(operator) > 0, "the operator has no bond"
    self._take_case(key, DECIDED_AT_ONCE)
    slashed: uint256 = extcall registry.slash(operator, max_value(uint256))
    self.credit[msg.sender] += slashed // 2
    lost: uint256 = slashed - slashed // 2
    log Convicted(
        operator=operator, challenger=msg.sender, ground=ground, claim=claim_hash, slashed=slashed, burned=lost
    )
    self._burn(lost)


@internal
def _close_by_votes(id: uint256):
    votes: uint256[3] = [0, 0, 0]
    for packed: uint256 in self._seats[id]:
        votes[self._verdict_of(packed)] += 1
    if votes[VERDICT_MISMATCH] >= QUORUM:
        self._uphold(id, self._half_of_bond(id) + bond, bond)
    elif votes[VERDICT_MATCH] >= QUORUM:
        operator: address = self._challenges[id].operator
        self.credit[operator] += bond // 2
        paid: uint256 = self._pay_jurors(id, VERDICT_MATCH, bond // 4)
        self._finish(id, REJECTED, 0, bond - bond // 2 - paid)
    elif votes[VERDICT_INCONCLUSIVE] >= QUORUM:
        self._give_back(id, INCONCLUSIVE, VERDICT_INCONCLUSIVE)
    else:
        self._give_back(id, UNDECIDED, ANY_VERDICT)


@internal
def _uphold(id: uint256, amount: uint256, stake: uint256):
    """The operator has lost: of what is taken, the stake is shared with the jurors; half of all goes to the challenger."""
    challenger: address = self._challenges[id].challenger
    slashed: uint256 = extcall registry.slash(self._challenges[id].operator, amount)
    staked: uint256 = min(stake, slashed)
    won: uint256 = staked // 2 + (slashed - staked) // 2
    paid: uint256 = self._pay_jurors(id, VERDICT_MISMATCH, staked // 4)
    self.credit[challenger] += bond + won
    self._finish(id, UPHELD, slashed, slashed - won - paid)


@internal
def _give_back(id: uint256, state: uint8, paid_verdict: uint8):
    """Nobody has lost. The challenger bears the jurors' work: an eighth, else he could hold an operator here for nothing."""
    fee: uint256 = bond // 8
    paid: uint256 = self._pay_jurors(id, paid_verdict, fee)
    self.credit[self._challenges[id].challenger] += bond - fee
    self._finish(id, state, 0, fee - paid)


@internal
def _finish(id: uint256, state: uint8, slashed: uint256, lost: uint256):
    operator: address = self._challenges[id].operator
    self._challenges[id].state = state
    extcall registry.unlock(operator)
    log ChallengeClosed(
        id=id,
        operator=operator,
        challenger=self._challenges[id].challenger,
        state=state,
        slashed=slashed,
        burned=lost,
    )
    self._burn(lost)


@internal
@view
def _half_of_bond(id: uint256) -> uint256:
    """Half of the operator's bond in the registry, rounded up."""
    held: uint256 = staticcall registry.bondOf(self._challenges[id].operator)
    return held - held // 2


@internal
def _pay_jurors(id: uint256, verdict: uint8, pot: uint256) -> uint256:
    """Equal parts of the pot for the seats of this verdict; returns what they took."""
    winners: DynArray[address, SEATS] = []
    for packed: uint256 in self._seats[id]:
        if verdict == ANY_VERDICT or self._verdict_of(packed) == verdict:
            winners.append(self._juror_of(packed))
    if len(winners) == 0:
        return 0
    part: uint256 = pot // len(winners)
    for juror: address in winners:
        self.credit[juror] += part
    return part * len(winners)


@internal
def _burn(amount: uint256):
    self.burned += amount
    send(empty(address), amount)


# The jury


@internal
def _fix_seed(id: uint256):
    number: uint256 = self._challenges[id].drawBlock
    seed: bytes32 = self._seed_from(number)
    self._challenges[id].seed = seed
    log JuryDrawn(id=id, drawBlock=number, seed=seed, deadline=self._challenges[id].deadline)


@internal
@view
def _seed_from(first: uint256) -> bytes32:
    """Who builds a block can try millions of hashes of it. Of the first block's hash he does not know what it will be worth, and
    each later builder chooses between two seeds at most."""
    assert block.number > first + BITS, "the jury's blocks are not all there yet"
    assert block.number - first <= HASHES_KEPT, "the jury's blocks are forgotten: call draw"
    bits: uint256 = 0
    for offset: uint256 in range(1, BITS + 1):
        bits = bits << 1 | convert(blockhash(first + offset), uint256) & 1
    return keccak256(abi_encode(blockhash(first), bits))


@internal
@view
def _alpha(id: uint256) -> Bytes[64]:
    assert self._challenges[id].drawBlock != 0, "the challenge has no jury"
    seed: bytes32 = self._challenges[id].seed
    if seed == empty(bytes32):
        seed = self._seed_from(self._challenges[id].drawBlock)
    return concat(seed, keccak256(abi_encode(self, id)))


@internal
def _seat(id: uint256, juror: address, verdict: uint8, score: uint256) -> address:
    """Seats a juror; returns who lost the seat for it."""
    word: uint256 = score >> 168 << 168 | convert(juror, uint256) << 8 | convert(verdict, uint256)
    count: uint256 = len(self._seats[id])
    worst: uint256 = 0
    worst_at: uint256 = 0
    for index: uint256 in range(count, bound=SEATS):
        packed: uint256 = self._seats[id][index]
        assert self._juror_of(packed) != juror, "the juror has voted"
        if packed > worst:
            worst = packed
            worst_at = index
    if count < SEATS:
        self._seats[id].append(word)
        return empty(address)
    assert word < worst, "five better tickets hold the seats"
    self._seats[id][worst_at] = word
    return self._juror_of(worst)


@internal
@pure
def _juror_of(packed: uint256) -> address:
    return convert(packed >> 8 & convert(max_value(uint160), uint256), address)


@internal
@pure
def _verdict_of(packed: uint256) -> uint8:
    return convert(packed & 255, uint8)


# Signatures


@internal
@view
def _signer(struct_hash: bytes32, signature: Bytes[65]) -> address:
    """Who signed this struct in the network's domain; chain id and all are read anew, should the chain ever be split."""
    assert len(signature) == 65, "a signature has 65 bytes"
    s: uint256 = convert(extract32(signature, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    assert s <= HALF_ORDER, "the signature's s is high"
    assert v == 27 or v == 28, "the signature's v is not 27 or 28"
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, registry.address))
    digest: bytes32 = keccak256(concat(b"\x19\x01", domain, struct_hash))
    signer: address = ecrecover(digest, v, convert(extract32(signature, 0), uint256), s)
    assert signer != empty(address), "the signature is no key's"
    return signer


@internal
@pure
def _result_hash(claim: Claim) -> bytes32:
    return keccak256(
        abi_encode(
            RESULT_TYPE,
            claim.jobId,
            claim.dispatcher,
            claim.operator,
            keccak256(claim.role),
            keccak256(claim.tag),
            keccak256(claim.position),
            claim.counter,
            claim.registryBlock,
            claim.answer,
            claim.transcript,
            claim.model,
            claim.params,
            claim.vrfProof,
            claim.clock,
            claim.attestation,
        )
    )


@internal
@pure
def _seat_hash(claim: Claim) -> bytes32:
    return keccak256(
        abi_encode(
            SEAT_TYPE,
            claim.jobId,
            claim.operator,
            keccak256(claim.role),
            keccak256(claim.tag),
            keccak256(claim.position),
            claim.registryBlock,
        )
    )


@internal
@pure
def _address(point: uint256[2]) -> address:
    return convert(convert(keccak256(abi_encode(point)), uint256) & convert(max_value(uint160), uint256), address)
