# pragma version 0.4.3
"""
@title Puppet
@notice An account with code, for tests: it calls what it is told to, and receives ether badly when it is told to.
@dev Compiled by hand, since it is no part of the product: Puppet.json beside this file holds what
     `vyper -f abi,bytecode --evm-version cancun --no-bytecode-metadata` prints for it.
"""

ACCEPT: constant(uint256) = 0
REFUSE: constant(uint256) = 1
RE_ENTER: constant(uint256) = 2

manner: uint256
target: address
payload: Bytes[8192]

# What became of the call that was made while ether came in.
attempts: public(uint256)
successes: public(uint256)
answer: public(Bytes[256])


@external
@payable
def act(target: address, payload: Bytes[8192]) -> Bytes[32]:
    """
    @notice Call somebody, with what ether came along.
    """
    return raw_call(target, payload, max_outsize=32, value=msg.value)


@external
def receive_by(manner: uint256, target: address, payload: Bytes[8192]):
    """
    @notice How ether is received from now on; target and payload are called in between, if it is RE_ENTER.
    """
    self.manner = manner
    self.target = target
    self.payload = payload


@external
@view
def read(targets: DynArray[address, 64], payloads: DynArray[Bytes[36], 64]) -> DynArray[uint256, 64]:
    """
    @notice What many calls answer, a word each, in one.
    """
    words: DynArray[uint256, 64] = []
    for index: uint256 in range(len(targets), bound=64):
        words.append(
            convert(raw_call(targets[index], payloads[index], max_outsize=32, is_static_call=True), uint256)
        )
    return words


@external
@payable
def __default__():
    assert self.manner != REFUSE, "no ether, please"
    if self.manner == RE_ENTER:
        self.attempts += 1
        success: bool = False
        answer: Bytes[256] = b""
        success, answer = raw_call(self.target, self.payload, max_outsize=256, revert_on_failure=False)
        self.answer = answer
        if success:
            self.successes += 1
