"""What the client commands and the one-machine stack stop with; the base class is `errors.CliError`."""

import signal

from aos_cli.errors import CliError


class StackError(CliError):
    """The one-machine stack cannot start, or one of its parts ended; the message says which and where its log is."""


class AlreadyRunning(StackError):
    """A stack runs on this data folder already."""


class PortTaken(StackError):
    """Another program listens on the port that the dispatcher was to have."""


class NoDispatcher(CliError):
    """No dispatcher is named, and none of ours runs: start one with `aos up`, or name one with --dispatcher URL."""


class Unreachable(CliError):
    """Nothing answers at the dispatcher's address."""


class ApiError(CliError):
    """The dispatcher refused the request; the message is its own, `code` the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadAnswer(CliError):
    """What answers is no AOS dispatcher, or its answer cannot be read."""


class ReceiptRefused(CliError):
    """The dispatcher's receipt is not one for the request that was sent."""


class NoChain(CliError):
    """No chain answers, or none is named: start one with `aos up --chain`, or name one with --rpc URL."""


class ChainRefused(CliError):
    """The chain or a contract refused; the message has the contract's own reason and says what to do next."""


class Interrupted(Exception):
    """A signal asked the command to stop, and everything that it had started is stopped; no failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number
        """What shells give a program that a signal ended."""
