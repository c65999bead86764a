# pragma version 0.4.3
"""
@title Cases
@notice The challenges with windows as a state machine: open, voting, then one of four ends; and that a fault is decided once.
@dev While a case is open or voting its operator is locked in the registry. Money is no matter of this module.
"""

from lib import claims
from lib import terms

uses: terms

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

event ChallengeClosed:
    id: indexed(uint256)
    operator: indexed(address)
    challenger: indexed(address)
    state: uint8
    slashed: uint256
    burned: uint256

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

# A case that was decided in one transaction has no challenge of its own.
DECIDED_AT_ONCE: constant(uint256) = max_value(uint256)

lastChallenge: public(uint256)

# By what was challenged (ground, and what identifies the fault): the last challenge of it, or DECIDED_AT_ONCE.
caseOf: public(HashMap[bytes32, uint256])

of: HashMap[uint256, Case]


@external
@view
def challenge(id: uint256) -> Case:
    """
    @notice A challenge as it stands; state 0: there is none of this id.
    """
    return self.of[id]


# Transitions


@internal
def take(key: bytes32, taker: uint256):
    """A fault is decided once. Of those that a jury left undecided another challenge may follow."""
    last: uint256 = self.caseOf[key]
    assert last == 0 or self.of[last].state == UNDECIDED, "challenged already"
    self.caseOf[key] = taker


@internal
def open(ground: uint8, claim: claims.Claim, claim_hash: bytes32, subject: bytes32) -> uint256:
    """Opens the sender's challenge of a claim; the bond is paid. Returns its id."""
    id: uint256 = self.lastChallenge + 1
    self.lastChallenge = id
    self.take(keccak256(abi_encode(ground, claim.dispatcher, subject)), id)
    deadline: uint256 = block.timestamp + terms.answerWindow
    self.of[id] = Case(
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
    extcall terms.registry.lock(claim.operator)
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
def call_jury(id: uint256):
    """The operator has answered: the vote window begins, and this block is the draw's first."""
    deadline: uint256 = block.timestamp + terms.voteWindow
    self.of[id].state = VOTING
    self.of[id].drawBlock = block.number
    self.of[id].deadline = deadline
    log ChallengeAnswered(id=id, deadline=deadline)


@internal
def finish(id: uint256, state: uint8, slashed: uint256, lost: uint256):
    """The end in one of its four states, with what was taken from the operator's bond, and what of all is burned."""
    operator: address = self.of[id].operator
    self.of[id].state = state
    extcall terms.registry.unlock(operator)
    log ChallengeClosed(
        id=id,
        operator=operator,
        challenger=self.of[id].challenger,
        state=state,
        slashed=slashed,
        burned=lost,
    )


# When they are allowed


@internal
@view
def only_recent(registry_block: uint256):
    """Operators keep the evidence of a result for maxAge blocks, so it cannot be challenged for longer."""
    assert registry_block < block.number, "the registry block has not come yet"
    assert block.number - registry_block <= terms.maxAge, "the result is too old"


@internal
@view
def only_answerable(id: uint256, ground: uint8):
    """Each ground has its own answer, in the answer window."""
    assert self.of[id].state == OPEN, "the challenge waits for no answer"
    assert self.of[id].ground == ground, "another ground: see answer and answerSeat"
    assert block.timestamp < self.of[id].deadline, "the answer window is over"


@internal
@view
def only_voting(id: uint256):
    """Votes and draws need a jury that was called, in the vote window."""
    assert self.of[id].state == VOTING, "the challenge has no jury"
    assert block.timestamp < self.of[id].deadline, "the vote window is over"


@internal
@view
def only_over(id: uint256):
    """A case can be closed from the second on in which its window is over; before that it can be answered, or voted on."""
    state: uint8 = self.of[id].state
    assert state == OPEN or state == VOTING, "the challenge is not open"
    assert block.timestamp >= self.of[id].deadline, "the window is not over"


@internal
@view
def only_juror(id: uint256, juror: address):
    """Nobody judges its own case."""
    assert juror != self.of[id].operator, "the operator is a party"
    assert juror != self.of[id].challenger, "the challenger is a party"
    assert juror != self.of[id].dispatcher, "the dispatcher is a party"
