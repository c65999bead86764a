"""The exceptions of the chain package; web3's are translated into these, once, in `client`."""


class ChainError(Exception):
    """What keeps the chain from being used, in a sentence that says what to do."""


class ChainUnavailable(ChainError):
    """The RPC endpoint does not answer; another try may succeed."""


class Reverted(ChainError):
    """A contract refused a call; the message is the contract's own reason."""
