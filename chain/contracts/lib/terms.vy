# pragma version 0.4.3
"""
@title Terms
@notice The terms of challenges in a network, fixed when the contract is created: its neighbours, the bond, the windows.
"""

from lib import jury
from lib import vrf

interface Registry:
    def slasher() -> address: view
    def bondOf(operator: address) -> uint256: view
    def rangeAt(operator: address, blockNumber: uint256) -> (uint256, uint256): view
    def lock(operator: address): nonpayable
    def unlock(operator: address): nonpayable
    def slash(operator: address, amount: uint256) -> uint256: nonpayable

interface Sortition:
    def REGISTRY() -> address: view
    def verify(public_key: uint256[2], alpha: Bytes[256], proof: Bytes[81], hints: vrf.Hints) -> (bool, bytes32): view
    def selected(
        operator: address, blockNumber: uint256, tag: String[16], position: String[16], output: bytes32
    ) -> bool: view

registry: public(immutable(Registry))
sortition: public(immutable(Sortition))
bond: public(immutable(uint256))
answerWindow: public(immutable(uint256))
voteWindow: public(immutable(uint256))
maxAge: public(immutable(uint256))


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
    @notice Fix the terms; Challenge's constructor says what they are. Refuses neighbours that do not belong together.
    """
    registry = Registry(registry_)
    sortition = Sortition(sortition_)
    assert staticcall registry.slasher() == self, "the registry has another slasher"
    assert staticcall sortition.REGISTRY() == registry_, "sortition has another registry"
    # Less could not be divided among winner and jurors.
    assert bond_ >= 8 * jury.SEATS, "the bond is too small"
    assert answer_window > 0 and vote_window > 0 and max_age > 0, "a window is empty"
    bond = bond_
    answerWindow = answer_window
    voteWindow = vote_window
    maxAge = max_age
