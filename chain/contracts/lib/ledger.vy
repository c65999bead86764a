# pragma version 0.4.3
"""
@title Ledger
@notice Who has what to claim of the contract's ether, and what was burned.
@dev Nothing is sent to anybody who did not ask: a payment is a credit, which its owner withdraws.
"""

event Withdrawn:
    account: indexed(address)
    amount: uint256

credit: public(HashMap[address, uint256])
burned: public(uint256)


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


@internal
def pay(account: address, amount: uint256):
    """Credit an account."""
    self.credit[account] += amount


@internal
def burn(amount: uint256):
    """Send ether out of everybody's reach, and count it."""
    self.burned += amount
    send(empty(address), amount)
