"""Every way a request to the dispatcher can fail; one handler in `app` renders them."""


class ApiError(Exception):
    """Base of what a caller is told: `{"code", "message"}` with the same HTTP status, and `details` and `headers` if there are any."""

    status = 500
    retry_after: int | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").split("\n")[0])
        self.details: dict[str, str | int] = {}
        self.headers: dict[str, str] = {}


class Malformed(ApiError):
    """The body is not one JSON object in UTF-8."""

    status = 400


class Unauthorized(ApiError):
    """The API token is missing or wrong; `dispatcher project create NAME` makes one."""

    status = 401

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": "Bearer"}


class Forbidden(ApiError):
    """The API token does not belong to this project."""

    status = 403


class NotFound(ApiError):
    """There is no such job."""

    status = 404


class Conflict(ApiError):
    """The Idempotency-Key was used with another request; use a new key for a new request."""

    status = 409


class Gone(ApiError):
    """The session has expired, or its job has ended; ask for another."""

    status = 410


class TooSlow(ApiError):
    """The request did not arrive in time."""

    status = 408

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Connection": "close"}


class TooLarge(ApiError):
    """The body is larger than this dispatcher accepts."""

    status = 413


class Unprocessable(ApiError):
    """The request is well-formed, but cannot be served as it stands."""

    status = 422


class TooMany(ApiError):
    """Refused for how many there are: `limit` names which limit. `position` is how many wait, where a queue is full."""

    status = 429

    def __init__(self, message: str, limit: str, retry_after: int, position: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = max(1, retry_after)
        self.details = {"limit": limit} | ({} if position is None else {"position": position})


class TooManyGuesses(ApiError):
    """This address has sent too many API tokens that nobody has; correct the token, and try again after Retry-After."""

    status = 429

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.retry_after = seconds


class Unavailable(ApiError):
    """The database does not answer; try again."""

    status = 503
    retry_after = 2


class NotFetched(ApiError):
    """What the request names by its address is not fetched from there; send it as multipart/form-data."""

    status = 400


class StoreFull(ApiError):
    """There is no room for another image (of this project) at the moment: what expires makes some (limits.blobs_bytes, limits.blob_hours)."""

    status = 503
    retry_after = 60


class NoOperator(ApiError):
    """No operator that is connected can do this now; try again."""

    status = 503
    retry_after = 5


class Busy(ApiError):
    """Too many ask for attestations at the same time; try again."""

    status = 503
    retry_after = 1


class LogDamaged(ApiError):
    """The transparency log is not as it was signed; somebody changed the database."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the transparency log is not as it was signed, and cannot prove anything: {what}")


class DispatcherError(Exception):
    """Base of what ends or stops a dispatcher's own work; the message says what to do."""


class RegistryStale(DispatcherError):
    """The chain has not confirmed the registry for too long; nothing is drawn by it until it does."""


class LeaseLost(DispatcherError):
    """Another dispatcher has taken this round over; this one must not touch it any more."""


class PeerGone(DispatcherError):
    """The operator's connection closed before it replied."""


class ReplyTimeout(DispatcherError):
    """The operator did not reply in time."""


class RedisAway(DispatcherError):
    """Redis does not answer."""


class Refused(DispatcherError):
    """What an operator sent is refused: `code` and message go into the reply (docs/protocol.md)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotConfirmed(Refused):
    """An operator may be registered on the chain, only not as far as is known here: it should come again."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)
