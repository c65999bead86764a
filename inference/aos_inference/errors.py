"""The exceptions of the worker; a class's docstring is its default message and says what to do next.

`StartupError`s end the command; `RequestError`s carry the HTTP status that `app` renders them with.
"""


class InferenceError(Exception):
    """The worker failed; its log says why."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class StartupError(InferenceError):
    """The worker cannot start; see the message above."""


class ModelUnreadable(StartupError):
    """The model file cannot be used; download it again and compare its SHA-256 with the publisher's."""


class ContextTooLarge(StartupError):
    """The context does not fit; lower --context or --slots."""


class FillingRefused(StartupError):
    """The model cannot be told to fill in by this --fim; give the template that it was trained with."""


class AddressInUse(StartupError):
    """Something else listens there; choose another --port or --uds, or stop it."""


class RequestError(InferenceError):
    """The request cannot be served."""

    status = 400


class MalformedBody(RequestError):
    """The body is not JSON in UTF-8; send one JSON object."""


class UnknownModel(RequestError):
    """This worker serves another model; ask GET /v1/models."""

    status = 404


class BodyTooLarge(RequestError):
    """The body is too large; shorten the prompt."""

    status = 413


class InvalidField(RequestError):
    """A field is missing or wrong; correct it and send the request again."""

    status = 422


class PromptTooLong(RequestError):
    """The prompt does not fit the model's context; shorten it."""

    status = 422


class EngineFailed(RequestError):
    """The engine has failed and the worker is going down; send the request again when it is back."""

    status = 503


class EngineStopping(RequestError):
    """The worker is shutting down; send the request to another one."""

    status = 503


class QueueFull(RequestError):
    """All slots are busy and the queue is full; send the request again later."""

    status = 503
    retry_after = 2


class ClientLeft(RequestError):
    """The client closed the connection before the answer; nobody reads this."""

    status = 499


class UnusableLogits(RequestError):
    """The model gave no usable probabilities for this prompt; check the model file, or change the prompt."""

    status = 500


class OutOfMemory(RequestError):
    """The worker has no memory left for this request; send a shorter one, or another worker has to do it."""

    status = 500
