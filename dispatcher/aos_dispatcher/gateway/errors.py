"""Every way a request under /v1 can fail, and the one form in which OpenAI's clients and DBC's are told."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aos_dispatcher.errors import ApiError
from aos_dispatcher.tables import JsonObject

PREFIX = "/v1/"
"""Below this path, errors have a form of their own."""

_PATHS: Final = "/v1/chat/completions, /v1/completions, /v1/models, /v1/images/generations, /v1/images/edits and /v1/conversations"


class GatewayError(ApiError):
    """Base of what only /v1 says: `param` is the field that is meant, `name` what OpenAI calls this kind of error."""

    name: str | None = None

    def __init__(self, message: str = "", *, param: str | None = None, name: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.name = name or self.name


class BadRequest(GatewayError):
    """The request asks for something that is not understood, or not supported here; the message names the field."""

    status = 400
    name = "invalid_value"


class UnknownModel(GatewayError):
    """There is no such model; GET /v1/models lists those that are served."""

    status = 404
    name = "model_not_found"


class NotServed(GatewayError):
    """No operator that serves this model is connected now; try again, or choose another one of GET /v1/models."""

    status = 503
    name = "model_unavailable"
    retry_after = 5


class JobFailed(GatewayError):
    """The network has no answer to give: the job failed, was cancelled, or came to its deadline."""

    status = 502
    name = "job_failed"

    def __init__(self, message: str, *, job_id: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.details = {"job_id": job_id}


@dataclass(frozen=True)
class _Kind:
    type: str
    name: str | None


_KINDS: dict[int, _Kind] = {
    HTTPStatus.UNAUTHORIZED: _Kind("authentication_error", "invalid_api_key"),
    HTTPStatus.FORBIDDEN: _Kind("permission_error", "permission_denied"),
    HTTPStatus.TOO_MANY_REQUESTS: _Kind("rate_limit_error", "rate_limit_exceeded"),
}


def error_body(path: str, error: ApiError) -> JsonObject:
    """Return the JSON of an error, in the form of whatever is at this path."""
    if not path.startswith(PREFIX):
        return {"code": error.status, "message": str(error)} | error.details
    return gateway_body(error)


def said_plainly(path: str, status: int, message: str) -> JsonObject:
    """Return the JSON of an error that is no `ApiError`, in the form of whatever is at this path; under /v1, what is not there is told what is."""
    if not path.startswith(PREFIX):
        return {"code": status, "message": message}
    nowhere = status == HTTPStatus.NOT_FOUND
    return _body(status, f"there is no {path} here, but {_PATHS}" if nowhere else message)


def gateway_body(error: ApiError) -> JsonObject:
    """Return the JSON of an error under /v1: OpenAI's `error`, and beside it DBC's `code` (here the HTTP status) and `message`."""
    said = (error.param, error.name) if isinstance(error, GatewayError) else (None, None)
    return _body(error.status, str(error), *said) | error.details


def _body(status: int, message: str, param: str | None = None, name: str | None = None) -> JsonObject:
    server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    kind = _KINDS.get(status, _Kind("server_error" if server else "invalid_request_error", None))
    error = {"message": message, "type": kind.type, "param": param, "code": name or kind.name}
    return {"error": error, "code": int(status), "message": message}
