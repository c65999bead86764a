# pragma version 0.4.3
"""
@title VRF
@notice What Sortition takes beside a proof, and whoever calls it hands on.
"""

# What verifying would have to compute with big numbers; aos_chain/hints.py does.
struct Hints:
    gamma_y: uint256  # of Gamma's parity; when Gamma's x is not on the curve, a root of -(x^3 + 7)
    roots: DynArray[uint256, 64]  # for each counter tried a root of -(x^3 + 7), for the last one H's even y
    u: uint256[2]  # s * B - c * Y
    s_h: uint256[2]  # s * H
    c_gamma: uint256[2]  # c * Gamma
    v: uint256[2]  # s * H - c * Gamma
