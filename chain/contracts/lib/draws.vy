# pragma version 0.4.3
"""
@title Draws
@notice What a jury is drawn on: the seed that the hashes of the blocks after the answer give, and the jurors' VRF input.
@dev docs/challenges.md says what somebody who builds blocks can make of it.
"""

from lib import cases
from lib import terms

uses: cases
uses: terms

event JuryDrawn:
    id: indexed(uint256)
    drawBlock: uint256
    seed: bytes32
    deadline: uint256

# A jury is drawn on its first block's hash and on one bit of each of these next ones.
BITS: constant(uint256) = 16

# How many blocks back the EVM still knows hashes.
HASHES_KEPT: constant(uint256) = 256


@external
@view
def juryAlpha(id: uint256) -> Bytes[64]:
    """
    @notice What jurors prove their tickets on: the draw's seed, then what stands for this challenge alone. Reverts before all
            of the draw's blocks are there, and when they are forgotten and nobody fixed the seed.
    """
    return self.alpha(id)


@internal
@view
def alpha(id: uint256) -> Bytes[64]:
    """What jurors prove their tickets on: see juryAlpha."""
    assert cases.of[id].drawBlock != 0, "the challenge has no jury"
    seed: bytes32 = cases.of[id].seed
    if seed == empty(bytes32):
        seed = self._seed_from(cases.of[id].drawBlock)
    return concat(seed, keccak256(abi_encode(self, id)))


@internal
def fix(id: uint256):
    """Stores the seed, unless that was done, before its hashes are forgotten."""
    if cases.of[id].seed != empty(bytes32):
        return
    number: uint256 = cases.of[id].drawBlock
    seed: bytes32 = self._seed_from(number)
    cases.of[id].seed = seed
    log JuryDrawn(id=id, drawBlock=number, seed=seed, deadline=cases.of[id].deadline)


@internal
def fix_or_repeat(id: uint256):
    """Stores the seed; where its hashes are forgotten, the draw and the vote window begin anew with this block."""
    assert cases.of[id].seed == empty(bytes32), "the jury is drawn"
    if block.number - cases.of[id].drawBlock <= HASHES_KEPT:
        self.fix(id)
        return
    deadline: uint256 = block.timestamp + terms.voteWindow
    cases.of[id].drawBlock = block.number
    cases.of[id].deadline = deadline
    log JuryDrawn(id=id, drawBlock=block.number, seed=empty(bytes32), deadline=deadline)


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
