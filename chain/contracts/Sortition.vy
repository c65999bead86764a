# pragma version 0.4.3
"""
@title Sortition
@notice Decides on chain whether a VRF proof holds, and whether its output selects an operator of the registry.
@dev ECVRF-SECP256K1-SHA256-TAI (RFC 9381, suite 0xFE). The EVM has no multiplication on secp256k1, but
     `ecrecover(m, v, r, s)` is the address of (s * R - m * B) / r, R having the x-coordinate r. So it tells the
     address of any sum of multiples, which is compared with that of a hinted point. Square roots and the sum of two
     points are hinted likewise. Anybody can compute the hints, and every hint is checked: a wrong one reverts, and
     with the right ones the answer is definite.
     Addresses have 160 bits. An output that is not the key's needs a hint with the very address of one given point;
     two points of one address (2^80 tries) only let a prover put his own good proof in doubt.
"""

from lib import vrf

interface Registry:
    def MAX_RANGE() -> uint256: view
    def rangeAt(operator: address, blockNumber: uint256) -> (uint256, uint256): view

# The field of secp256k1, and the order of its group.
P: constant(uint256) = 115792089237316195423570985008687907853269984665640564039457584007908834671663
N: constant(uint256) = 115792089237316195423570985008687907852837564279074904382605163141518161494337

# The constants of aos_protocol.sortition: slots of the registry, and by how many each side of a range is widened.
MAX_RANGE: constant(uint256) = 600_000
SUSPICION: constant(uint256) = 18_000
MALICIOUS: constant(uint256) = 60_000

REGISTRY: public(immutable(Registry))


@deploy
def __init__(registry: address):
    """
    @param registry The OperatorRegistry; its MAX_RANGE must be that of the selection rule.
    """
    REGISTRY = Registry(registry)
    assert staticcall REGISTRY.MAX_RANGE() == MAX_RANGE, "registry: another MAX_RANGE"


@external
@view
def verify(
    public_key: uint256[2], alpha: Bytes[256], proof: Bytes[81], hints: vrf.Hints
) -> (bool, bytes32):
    """
    @notice Verify a proof (RFC 9381 section 5.3). False proves that it does not hold; the output is empty then.
    @dev Reverts on a wrong hint, and on a public key that is no point. What ecrecover cannot compute counts as
         invalid: c = 0, s = 0, and x >= N of Gamma or H. Honest provers meet each with a probability of 2^-128, and
         to make it happen takes as many tries.
    @param public_key The prover's point Y: x, y.
    @param alpha What was proved.
    @param proof Gamma (33 bytes, compressed), c (16) and s (32).
    @return Whether the proof holds, and the VRF's output.
    """
    # 1. The key is a point. (No point has x = 0, and ecrecover takes no x >= N.)
    assert public_key[0] < N and public_key[1] < P, "public key: not on the curve"
    assert self._squared(public_key[1]) == self._y_squared(public_key[0]), "public key: not on the curve"

    # 2. Decode the proof (section 5.4.4).
    if len(proof) != 81:
        return False, empty(bytes32)
    gamma: uint256[2] = [convert(extract32(proof, 1), uint256), hints.gamma_y]
    c: uint256 = convert(extract32(proof, 33), uint256) >> 128
    s: uint256 = convert(extract32(proof, 49), uint256)
    prefix: uint256 = convert(extract32(proof, 0), uint256) >> 248
    if (prefix != 2 and prefix != 3) or gamma[0] >= N or c == 0 or s == 0 or s >= N:
        return False, empty(bytes32)
    if not self._is_point(gamma, prefix & 1):
        return False, empty(bytes32)

    # 3. H is the point that key and alpha hash to.
    key: Bytes[33] = self._compressed(public_key)
    h: uint256 = self._encode_to_curve(key, alpha, hints.roots)
    if h >= N:
        return False, empty(bytes32)

    # 4. U = s * B - c * Y.
    u: address = self._multiply_add_base(N - c, public_key[0], public_key[1] & 1, s)
    if u == empty(address):
        return False, empty(bytes32)  # infinity
    assert self._address(hints.u) == u, "bad hint: u"

    # 5. V = s * H - c * Gamma; neither term is infinity, since c and s are not 0.
    assert self._address(hints.s_h) == self._multiply_add_base(s, h, 0, 0), "bad hint: s_h"
    assert self._address(hints.c_gamma) == self._multiply_add_base(c, gamma[0], gamma[1] & 1, 0), "bad hint: c_gamma"
    if hints.s_h[0] == hints.c_gamma[0] and hints.s_h[1] == hints.c_gamma[1]:
        return False, empty(bytes32)  # infinity
    assert self._is_difference(hints.v, hints.s_h, hints.c_gamma), "bad hint: v"

    # 6. The challenge binds all five points (section 5.4.3), the output Gamma (section 5.2).
    gamma_string: Bytes[33] = slice(proof, 0, 33)
    challenge: bytes32 = sha256(
        concat(
            b"\xfe\x02",
            key,
            b"\x02",
            convert(h, bytes32),
            gamma_string,
            self._compressed(hints.u),
            self._compressed(hints.v),
            b"\x00",
        )
    )
    if convert(challenge, uint256) >> 128 != c:
        return False, empty(bytes32)
    return True, sha256(concat(b"\xfe\x03", gamma_string, b"\x00"))


@external
@pure
def value(output: bytes32) -> uint256:
    """
    @notice The slot in [0, MAX_RANGE) that an output falls on: output * MAX_RANGE >> 256, exactly.
    """
    return self._value(output)


@external
@pure
def threshold(start: uint256, end: uint256, tag: String[16], position: String[16]) -> uint256:
    """
    @notice How many slots select an operator whose range is [start, end); 0 without a range.
    @dev Reverts for a tag and position that the protocol does not know together.
    """
    return self._threshold(start, end, tag, position)


@external
@view
def selected(
    operator: address, blockNumber: uint256, tag: String[16], position: String[16], output: bytes32
) -> bool:
    """
    @notice Whether an output selects an operator by the range that it had after a block.
    @dev That the output is the operator's own must be verified besides.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = staticcall REGISTRY.rangeAt(operator, blockNumber)
    return self._value(output) < self._threshold(start, end, tag, position)


@internal
@pure
def _value(output: bytes32) -> uint256:
    # The 276 bits of the product in two halves; dropping the lower one's fraction first changes no whole number.
    number: uint256 = convert(output, uint256)
    low: uint256 = (number & convert(max_value(uint128), uint256)) * MAX_RANGE
    return ((number >> 128) * MAX_RANGE + (low >> 128)) >> 128


@internal
@pure
def _threshold(start: uint256, end: uint256, tag: String[16], position: String[16]) -> uint256:
    widen: uint256 = 0
    if tag == "suspicion" and (position == "before" or position == "after"):
        widen = SUSPICION
    elif tag == "malicious" and position == "before":
        widen = MALICIOUS
    elif tag == "malicious" and position == "after":
        widen = SUSPICION
    else:
        assert tag == "" and position == "", "no selection rule for this tag at this position"
    if end <= start:
        return 0
    return end - start + 2 * widen


@internal
@pure
def _encode_to_curve(key: Bytes[33], alpha: Bytes[256], roots: DynArray[uint256, 64]) -> uint256:
    # Try-and-increment (section 5.4.1.1): x of the first counter whose hash is one. P = 3 mod 4, and no point has
    # y = 0, so either x^3 + 7 or its negative is a square, never both: a root of the latter refuses a counter.
    assert len(roots) > 0, "bad hint: roots"
    last: uint256 = len(roots) - 1
    start: Bytes[291] = concat(b"\xfe\x01", key, alpha)
    for counter: uint256 in range(last, bound=63):
        x: uint256 = self._candidate(start, counter)
        if x < P:
            assert self._squared(roots[counter]) == P - self._y_squared(x), "bad hint: roots"
    found: uint256 = self._candidate(start, last)
    assert found < P and self._is_point([found, roots[last]], 0), "bad hint: roots"
    return found


@internal
@pure
def _candidate(start: Bytes[291], counter: uint256) -> uint256:
    return convert(sha256(concat(start, convert(convert(counter, uint8), bytes1), b"\x00")), uint256)


@internal
@pure
def _is_point(point: uint256[2], parity: uint256) -> bool:
    # Whether there is a point of this x, its y (of this parity) being the hint; else a root of -(x^3 + 7) is.
    right: uint256 = self._y_squared(point[0])
    left: uint256 = self._squared(point[1])
    if left == right:
        assert point[1] < P and point[1] & 1 == parity, "bad hint: y"
        return True
    assert left == P - right, "bad hint: y"
    return False


@internal
@pure
def _multiply_add_base(scalar: uint256, x: uint256, parity: uint256, base: uint256) -> address:
    # The address of scalar * (x, y) + base * B, empty for infinity; for 0 < scalar < N and 0 < x < N on the curve.
    message: bytes32 = convert(uint256_mulmod(N - base, x, N), bytes32)
    return ecrecover(message, 27 + parity, x, uint256_mulmod(scalar, x, N))


@internal
@pure
def _is_difference(v: uint256[2], a: uint256[2], b: uint256[2]) -> bool:
    # Whether v = a - b, for points whose difference is not infinity: the line through a and -b, of slope
    # rise / run, meets the curve in -v. With rise and run on either side of the equations nothing is inverted.
    minus: uint256 = P - b[1]
    run: uint256 = uint256_addmod(b[0], P - a[0], P)
    rise: uint256 = uint256_addmod(minus, P - a[1], P)
    if run == 0:  # a = -b: the tangent
        run = uint256_addmod(a[1], a[1], P)
        rise = uint256_mulmod(3, self._squared(a[0]), P)
    if v[0] >= P or v[1] >= P:
        return False
    xs: uint256 = uint256_addmod(uint256_addmod(v[0], a[0], P), b[0], P)
    if uint256_mulmod(xs, self._squared(run), P) != self._squared(rise):
        return False
    down: uint256 = uint256_addmod(a[0], P - v[0], P)
    return uint256_mulmod(uint256_addmod(v[1], a[1], P), run, P) == uint256_mulmod(rise, down, P)


@internal
@pure
def _address(point: uint256[2]) -> address:
    return convert(convert(keccak256(abi_encode(point)), uint256) & convert(max_value(uint160), uint256), address)


@internal
@pure
def _compressed(point: uint256[2]) -> Bytes[33]:
    return concat(convert(convert(2 + (point[1] & 1), uint8), bytes1), convert(point[0], bytes32))


@internal
@pure
def _squared(number: uint256) -> uint256:
    return uint256_mulmod(number, number, P)


@internal
@pure
def _y_squared(x: uint256) -> uint256:
    return uint256_addmod(uint256_mulmod(self._squared(x), x, P), 7, P)
