"""What an audit cannot even begin with. That something does not hold is no exception: it is a check that fails."""


class AuditorError(Exception):
    """This cannot be audited; the message says what to do."""


class NotAuditable(AuditorError):
    """What was given is no job id, no evidence document, and no file that can be read."""


class Unreachable(AuditorError):
    """Nothing answers at this address; another try may succeed."""


class Refused(AuditorError):
    """A server refused the request; the message is its own, `code` the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class BadAnswer(AuditorError):
    """What answers is not what was expected there, or its answer cannot be read."""


class BadState(AuditorError):
    """A monitor's state file cannot be used."""
