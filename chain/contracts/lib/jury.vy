# pragma version 0.4.3
"""
@title Jury
@notice The seats of a challenge's jury: the five best scores of all that were brought in, with their verdicts.
@dev Who may sit, and what a score is, is decided before anybody comes here.
"""

struct Seat:
    juror: address
    verdict: uint8
    score: uint256  # lower is better

INCONCLUSIVE: constant(uint8) = 0
MATCH: constant(uint8) = 1
MISMATCH: constant(uint8) = 2
ANY: constant(uint8) = 255

SEATS: constant(uint256) = 5
QUORUM: constant(uint256) = 3

# Each one packed: the score's upper 88 bits, the juror, the verdict. So the worst seat is the greatest word.
_seats: HashMap[uint256, DynArray[uint256, SEATS]]


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


@internal
def take_seat(id: uint256, juror: address, verdict: uint8, score: uint256) -> address:
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
@view
def tally(id: uint256) -> uint256[3]:
    """How many seats each verdict has."""
    votes: uint256[3] = [0, 0, 0]
    for packed: uint256 in self._seats[id]:
        votes[self._verdict_of(packed)] += 1
    return votes


@internal
@view
def jurors(id: uint256, verdict: uint8) -> DynArray[address, SEATS]:
    """Who voted so; with ANY, all of them."""
    found: DynArray[address, SEATS] = []
    for packed: uint256 in self._seats[id]:
        if verdict == ANY or self._verdict_of(packed) == verdict:
            found.append(self._juror_of(packed))
    return found


@internal
@pure
def _juror_of(packed: uint256) -> address:
    return convert(packed >> 8 & convert(max_value(uint160), uint256), address)


@internal
@pure
def _verdict_of(packed: uint256) -> uint8:
    return convert(packed & 255, uint8)
