# pragma version 0.4.3
"""
@title LinearRanges
@notice NOT OURS TO USE: what benchmarks/gas_registry.py compares the OperatorRegistry with. The shape of the original's
        OperatorRangeManager in our own words: an owner writes ranges, a look-up walks through all of them.
"""

struct Span:
    start: uint256
    end: uint256

MAX_RANGE: public(constant(uint256)) = 600000
MAX_OPERATORS: constant(uint256) = 2000

owner: public(address)
operators: public(DynArray[address, MAX_OPERATORS])
operatorRanges: public(HashMap[address, Span])


@deploy
def __init__():
    self.owner = msg.sender


@external
def registerOperator(operator: address, start: uint256, end: uint256):
    assert msg.sender == self.owner, "only the owner"
    assert start < end and end <= MAX_RANGE, "no range"
    self.operators.append(operator)
    self.operatorRanges[operator] = Span(start=start, end=end)


@external
def updateOperatorRange(operator: address, start: uint256, end: uint256):
    assert msg.sender == self.owner, "only the owner"
    assert start < end and end <= MAX_RANGE, "no range"
    self.operatorRanges[operator] = Span(start=start, end=end)


@external
@view
def getNumOperators() -> uint256:
    return len(self.operators)


@external
@view
def getOperatorsInRange(slot: uint256) -> DynArray[address, MAX_OPERATORS]:
    found: DynArray[address, MAX_OPERATORS] = []
    for place: uint256 in range(len(self.operators), bound=MAX_OPERATORS):
        operator: address = self.operators[place]
        # The start alone decides for most: an end is read for those that begin before the value.
        if self.operatorRanges[operator].start <= slot and slot < self.operatorRanges[operator].end:
            found.append(operator)
    return found
