# pragma version 0.4.3
"""
@title OperatorRegistry
@notice Who serves the network, under which number, for which share of [0, MAX_RANGE), and with what bond.
@dev Ranges are half open and never overlap. They are found by a bitmap tree over their starts: 256 children a node, three
     levels for 600,000 values, so that the greatest start at or below a value takes at most four words of storage, however
     many operators there are. Nobody administers this contract: what depends on the network is fixed when it is created.

     Ether comes in by registering and updating only, so the balance is the sum of the bonds (and what somebody forces on
     us by destroying a contract, which belongs to nobody and does no harm).
"""

event OperatorRegistered:
    operator: indexed(address)
    number: indexed(uint256)
    start: uint256
    end: uint256
    bond: uint256

event RangeUpdated:
    operator: indexed(address)
    start: uint256
    end: uint256
    bond: uint256

event OperatorLeft:
    operator: indexed(address)
    withdrawable_at: uint256

event OperatorRemoved:
    operator: indexed(address)

event BondWithdrawn:
    operator: indexed(address)
    amount: uint256

event OperatorSlashed:
    operator: indexed(address)
    amount: uint256
    bond: uint256

event LocksChanged:
    operator: indexed(address)
    locks: uint256


MAX_RANGE: public(constant(uint256)) = 600000

# In every clock 1 is the dispatcher.
FIRST_NUMBER: constant(uint256) = 2

# Room for the changes of one operator's range; nobody can pay for that many.
MAX_CHANGES: constant(uint256) = 2**32

slasher: public(immutable(address))
bondPerSlot: public(immutable(uint256))
leaveDelay: public(immutable(uint256))

operatorNumber: public(HashMap[address, uint256])
operatorAt: public(HashMap[uint256, address])
lastNumber: public(uint256)
getNumOperators: public(uint256)
bondOf: public(HashMap[address, uint256])
leavesAt: public(HashMap[address, uint256])
locks: public(HashMap[address, uint256])

# The operator's ranges, oldest first, each packed with the block that set it. The last one is in force; (0, 0) is none.
_history: HashMap[address, DynArray[uint256, MAX_CHANGES]]

# By its start: who holds a range, and its end, packed in one word.
_spans: HashMap[uint256, uint256]

# The bitmap tree over the starts. A bit of _leaves stands for a start, a bit of _branches for a leaf that is not empty, a
# bit of _root for such a branch.
_leaves: HashMap[uint256, uint256]
_branches: HashMap[uint256, uint256]
_root: uint256


@deploy
def __init__(slasher_: address, bond_per_slot: uint256, leave_delay: uint256):
    """
    @notice Fix the terms of this network.
    @param slasher_ The only account that may lock and slash: the Challenge contract
    @param bond_per_slot Wei of bond for each of the MAX_RANGE values that an operator holds
    @param leave_delay Seconds from leaving to the bond's release: time to challenge what the operator did before
    """
    assert slasher_ != empty(address), "a slasher is needed"
    # Who has no bond has nothing to lose by cheating, and could not be removed by a slash.
    assert bond_per_slot > 0, "a bond is needed"
    slasher = slasher_
    bondPerSlot = bond_per_slot
    leaveDelay = leave_delay
    self.lastNumber = FIRST_NUMBER - 1


# Joining and moving


@external
@payable
@nonreentrant
def registerOperator(operator: address, start: uint256, end: uint256):
    """
    @notice Take the range [start, end). What is paid adds to the bond, which may rest from an earlier time; the number of
            the first registration is kept.
    @param operator The sender
    @param start First value of the range
    @param end First value after the range, at most MAX_RANGE
    """
    assert msg.sender == operator, "only the operator itself"
    assert not self._has_range(operator), "registered: update the range"

    number: uint256 = self.operatorNumber[operator]
    if number == 0:
        number = self.lastNumber + 1
        self.lastNumber = number
        self.operatorNumber[operator] = number
        self.operatorAt[number] = operator

    bond: uint256 = self._add_bond(operator, start, end)
    self.leavesAt[operator] = 0
    self.getNumOperators += 1
    self._place(operator, start, end)
    log OperatorRegistered(operator=operator, number=number, start=start, end=end, bond=bond)


@external
@payable
@nonreentrant
def updateOperatorRange(operator: address, start: uint256, end: uint256):
    """
    @notice Move to the range [start, end), which may touch the old one. What is paid adds to the bond; a narrower range
            gives nothing back until the operator leaves, since what it did with the wider one can still be challenged.
            The same range again is a way to pay into the bond.
    @param operator The sender
    @param start First value of the new range
    @param end First value after it, at most MAX_RANGE
    """
    assert msg.sender == operator, "only the operator itself"
    assert self._has_range(operator), "not registered"

    bond: uint256 = self._add_bond(operator, start, end)
    self._free(operator)
    self._place(operator, start, end)
    log RangeUpdated(operator=operator, start=start, end=end, bond=bond)


# Leaving


@external
@nonreentrant
def leave():
    """
    @notice Give up the range at once. The bond can be withdrawn after leaveDelay seconds.
    """
    assert self._has_range(msg.sender), "not registered"
    self._vacate(msg.sender)
    log OperatorLeft(operator=msg.sender, withdrawable_at=self.leavesAt[msg.sender])


@external
@nonreentrant
def withdraw():
    """
    @notice Pay the sender the bond of its own that it left behind, once the delay is over and no challenge holds it.
    """
    leaves_at: uint256 = self.leavesAt[msg.sender]
    assert leaves_at != 0, "leave first"
    assert block.timestamp >= leaves_at, "the leave delay is not over"
    assert self.locks[msg.sender] == 0, "locked by a challenge"
    bond: uint256 = self.bondOf[msg.sender]
    assert bond > 0, "no bond"

    self.bondOf[msg.sender] = 0
    self.leavesAt[msg.sender] = 0
    log BondWithdrawn(operator=msg.sender, amount=bond)
    # All gas goes along: an account with code may need more than a stipend, and there is nothing left to re-enter for.
    raw_call(msg.sender, b"", value=bond)


# The slasher's part


@external
@nonreentrant
def lock(operator: address):
    """
    @notice Hold the operator's bond for one more challenge.
    @param operator Who has ever registered
    """
    self._only_slasher()
    assert self.operatorNumber[operator] != 0, "unknown operator"
    self._set_locks(operator, self.locks[operator] + 1)


@external
@nonreentrant
def unlock(operator: address):
    """
    @notice Undo one lock.
    @param operator Who is locked
    """
    self._only_slasher()
    locks: uint256 = self.locks[operator]
    assert locks > 0, "not locked"
    self._set_locks(operator, locks - 1)


@external
@nonreentrant
def slash(operator: address, amount: uint256) -> uint256:
    """
    @notice Take from an operator's bond and pay it to the slasher. An operator whose bond no longer covers its range loses
            the range and counts as leaving from now.
    @param operator Who lost a challenge
    @param amount Wei to take; all of the bond when it is less
    @return Wei that were taken and paid
    """
    self._only_slasher()
    bond: uint256 = self.bondOf[operator]
    taken: uint256 = min(amount, bond)
    if taken == 0:
        return 0

    bond -= taken
    self.bondOf[operator] = bond
    log OperatorSlashed(operator=operator, amount=taken, bond=bond)
    start: uint256 = 0
    end: uint256 = 0
    start, end = self._range(operator)
    if bond < (end - start) * bondPerSlot:
        self._vacate(operator)
        log OperatorRemoved(operator=operator)
    raw_call(msg.sender, b"", value=taken)
    return taken


# Reading


@external
@view
def operatorRanges(operator: address) -> (uint256, uint256):
    """
    @notice The range that is in force now.
    @param operator Any address
    @return start and end of [start, end); (0, 0) without a range
    """
    return self._range(operator)


@external
@view
def getOperatorsInRange(slot: uint256) -> DynArray[address, 1]:
    """
    @notice Who holds the range that a value lies in.
    @param slot The value, below MAX_RANGE
    @return One operator, or none
    """
    assert slot < MAX_RANGE, "the value is not below MAX_RANGE"
    span: uint256 = self._span_up_to(slot)
    if self._end_of(span) > slot:
        return [self._holder_of(span)]
    return []


@external
@view
def rangeAt(operator: address, blockNumber: uint256) -> (uint256, uint256):
    """
    @notice The range as it was after a block. Asked within that block it is the range so far: who decides something by the
            answer must ask about a block that is over.
    @param operator Any address
    @param blockNumber At most the present block
    @return start and end of [start, end); (0, 0) without a range
    """
    assert blockNumber <= block.number, "the block has not come yet"
    # Greatest index with a block at or before the one asked for, by bisection: low is the first that is after it.
    low: uint256 = 0
    high: uint256 = len(self._history[operator])
    for _: uint256 in range(33):
        if low == high:
            break
        middle: uint256 = (low + high) // 2
        if self._history[operator][middle] >> 64 > blockNumber:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return 0, 0
    return self._unpacked(self._history[operator][low - 1])


# Bonds and ranges


@internal
@view
def _only_slasher():
    assert msg.sender == slasher, "only the slasher"


@internal
def _set_locks(operator: address, locks: uint256):
    self.locks[operator] = locks
    log LocksChanged(operator=operator, locks=locks)


@internal
@payable
def _add_bond(operator: address, start: uint256, end: uint256) -> uint256:
    """Checks the new range by itself, and that the bond covers it. Returns the bond with what was paid."""
    assert start < end, "the range is empty"
    assert end <= MAX_RANGE, "the range ends after MAX_RANGE"
    bond: uint256 = self.bondOf[operator] + msg.value
    assert bond >= (end - start) * bondPerSlot, "the bond does not cover the range"
    self.bondOf[operator] = bond
    return bond


@internal
def _vacate(operator: address):
    """Frees the range for good: the operator is leaving from now."""
    self._free(operator)
    self._remember(operator, 0, 0)
    self.leavesAt[operator] = block.timestamp + leaveDelay
    self.getNumOperators -= 1


@internal
def _place(operator: address, start: uint256, end: uint256):
    """Makes [start, end) the operator's; it must have none, or have had it freed."""
    # Of all that start before our end, the last one ends last, since they do not overlap: it alone can reach into ours.
    span: uint256 = self._span_up_to(end - 1)
    assert self._end_of(span) <= start, "the range overlaps another one"
    self._mark(start)
    self._spans[start] = end << 160 | convert(operator, uint256)
    self._remember(operator, start, end)


@internal
def _free(operator: address):
    """Takes the operator's range out of the tree; the history is the caller's to write."""
    start: uint256 = 0
    end: uint256 = 0
    start, end = self._range(operator)
    self._unmark(start)
    self._spans[start] = 0


@internal
def _remember(operator: address, start: uint256, end: uint256):
    """Writes the range in force; of several in one block the last one stays."""
    entry: uint256 = block.number << 64 | start << 32 | end
    count: uint256 = len(self._history[operator])
    if count > 0 and self._history[operator][count - 1] >> 64 == block.number:
        self._history[operator][count - 1] = entry
    else:
        self._history[operator].append(entry)


@internal
@view
def _has_range(operator: address) -> bool:
    start: uint256 = 0
    end: uint256 = 0
    start, end = self._range(operator)
    return end > 0


@internal
@view
def _range(operator: address) -> (uint256, uint256):
    count: uint256 = len(self._history[operator])
    if count == 0:
        return 0, 0
    return self._unpacked(self._history[operator][count - 1])


@internal
@pure
def _unpacked(entry: uint256) -> (uint256, uint256):
    return entry >> 32 & (2**32 - 1), entry & (2**32 - 1)


@internal
@pure
def _end_of(span: uint256) -> uint256:
    return span >> 160


@internal
@pure
def _holder_of(span: uint256) -> address:
    return convert(span & (2**160 - 1), address)


# The bitmap tree


@internal
@view
def _span_up_to(slot: uint256) -> uint256:
    """The span that starts last among those that start at or before `slot`; 0 when there is none."""
    leaf: uint256 = slot >> 8
    bits: uint256 = self._leaves[leaf] & (max_value(uint256) >> (255 - (slot & 255)))
    if bits == 0:
        branch: uint256 = slot >> 16
        below: uint256 = self._branches[branch] & ((1 << (leaf & 255)) - 1)
        if below == 0:
            before: uint256 = self._root & ((1 << branch) - 1)
            if before == 0:
                return 0
            branch = self._highest_bit(before)
            below = self._branches[branch]
        leaf = branch << 8 | self._highest_bit(below)
        bits = self._leaves[leaf]
    return self._spans[leaf << 8 | self._highest_bit(bits)]


@internal
def _mark(start: uint256):
    """Adds a start. A node above changes only when the one below was empty."""
    leaf: uint256 = start >> 8
    bits: uint256 = self._leaves[leaf]
    self._leaves[leaf] = bits | 1 << (start & 255)
    if bits != 0:
        return
    branch: uint256 = start >> 16
    below: uint256 = self._branches[branch]
    self._branches[branch] = below | 1 << (leaf & 255)
    if below == 0:
        self._root |= 1 << branch


@internal
def _unmark(start: uint256):
    """Takes a start away that is there."""
    leaf: uint256 = start >> 8
    bits: uint256 = self._leaves[leaf] ^ 1 << (start & 255)
    self._leaves[leaf] = bits
    if bits != 0:
        return
    branch: uint256 = start >> 16
    below: uint256 = self._branches[branch] ^ 1 << (leaf & 255)
    self._branches[branch] = below
    if below == 0:
        self._root ^= 1 << branch


@internal
@pure
def _highest_bit(word: uint256) -> uint256:
    """Position of the highest bit of a word that is not zero."""
    position: uint256 = 0
    step: uint256 = 128
    for _: uint256 in range(8):
        # No overflow: the steps add up to 255.
        if word >> unsafe_add(position, step) != 0:
            position = unsafe_add(position, step)
        step >>= 1
    return position
