# pragma version 0.4.3
"""
@title Claims
@notice What operators, dispatchers and jurors sign, as EIP-712 structs, and what makes two results the same.
@dev The types stand in aos_protocol.typed_data, too. Nothing here has a state.
"""

from lib import signatures

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

RESULT_TYPE: constant(bytes32) = keccak256(
    "Result(bytes32 jobId,address dispatcher,address operator,string role,string tag,string position,uint256 counter,uint256 registryBlock,bytes32 answer,bytes32 transcript,bytes32 model,bytes32 params,bytes32 vrfProof,bytes32 clock,bytes32 attestation)"
)
SEAT_TYPE: constant(bytes32) = keccak256(
    "Seat(bytes32 jobId,address operator,string role,string tag,string position,uint256 registryBlock)"
)
VOTE_TYPE: constant(bytes32) = keccak256("Vote(uint256 challenge,address operator,uint8 verdict)")


@internal
@pure
def result_hash(claim: Claim) -> bytes32:
    """What the operator signs."""
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
def seat_hash(claim: Claim) -> bytes32:
    """What the dispatcher signs when it gives the claim's operator its seat."""
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
def vote_hash(id: uint256, juror: address, verdict: uint8) -> bytes32:
    """What a juror signs."""
    return keccak256(abi_encode(VOTE_TYPE, id, juror, verdict))


@internal
@pure
def judged_hash(claim: Claim) -> bytes32:
    """What a jury judges. A result is signed afresh whenever it is sent: this is what stays the same."""
    return keccak256(
        abi_encode(claim.jobId, claim.operator, claim.answer, claim.transcript, claim.model, claim.params)
    )


@internal
@pure
def check_ticket(claim: Claim, public_key: uint256[2], alpha: Bytes[96], proof: Bytes[81]):
    """Reverts unless the operator has bound its result to this ticket."""
    assert signatures.address_of(public_key) == claim.operator, "the public key is not the operator's"
    # A digest does not tell where alpha ends: with other lengths a good proof could be cut into a bad one.
    assert len(alpha) == 96 and len(proof) == 81, "alpha has 96 bytes, a proof 81"
    assert sha256(concat(alpha, proof)) == claim.vrfProof, "the result is not bound to this proof"
