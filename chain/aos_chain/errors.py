"""The exceptions of the chain package; web3's are translated into these, once, in `translation`."""


class ChainError(Exception):
    """What keeps the chain from being used, in a sentence that says what to do."""


class ChainUnavailable(ChainError):
    """The RPC endpoint does not answer; another try may succeed."""


class Reverted(ChainError):
    """A contract refused a call; the message is the contract's own reason."""


class Unconfirmed(ChainError):
    """A transaction was sent and its receipt never came: it may still be mined, so look it up before sending it again."""

    def __init__(self, transaction: str, reason: str) -> None:
        super().__init__(
            f"no receipt for transaction {transaction}: {reason}; look it up before sending it again"
        )
        self.transaction = transaction
