"""What can keep a process from starting. Every message says what to do next and holds no secret."""


class ServiceError(Exception):
    """The process cannot start as it is configured."""


class SettingsError(ServiceError):
    """The settings file cannot be used; `problems` lists everything that is wrong with it, one line each.

    A line reads `FILE:LINE: group.key: what is wrong`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class KeyFileError(ServiceError):
    """A private key is missing, given twice, malformed, open to other users, or its keystore does not open."""


class DatabaseError(ServiceError):
    """The database cannot be reached, created or used with these credentials."""


class MigrationError(DatabaseError):
    """The tables cannot be brought to the revision that this program needs."""


class ChildError(ServiceError):
    """A child process did not start, or ended too soon; the message ends with the tail of its log."""


class TlsError(ServiceError):
    """A certificate, its key or a file of authorities cannot be used."""


class WorkerUrlError(ServiceError, ValueError):
    """A worker's URL cannot be used; the message says what it must be. (A `ValueError`, so that settings show it at its line.)"""


class TelemetryError(ServiceError):
    """Traces are to be sent somewhere, and what sends them is not installed."""
