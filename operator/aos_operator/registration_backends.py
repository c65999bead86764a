"""What speaks to a model that registered itself: its API is OpenAI's, and it need not list its models."""

from collections.abc import Sequence
from typing import Final

from aos_operator.backends.dialects import Source
from aos_operator.backends.images import ImagesBackend
from aos_operator.backends.text import TextBackend
from aos_operator.registration_place import Place
from aos_operator.registration_store import Registered
from aos_protocol.messages import Instance, ServedModel
from aos_protocol.record import named_model_digest

_PATIENCE_S: Final = 900.0


class _Text(TextBackend):
    def __init__(self, registered: Registered, place: Place) -> None:
        name = registered.key.model
        super().__init__(Source("openai", place.base, models={name: name}, timeout=_PATIENCE_S))
        self._registered = registered

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`. Whether it is there, is looked after by `registration`."""
        return [_offer(self._registered)]


class _Images(ImagesBackend):
    def __init__(self, registered: Registered) -> None:
        name = registered.key.model
        super().__init__({registered.kind: registered.api}, {name: name}, None, _PATIENCE_S)
        self._registered = registered

    async def models(self) -> Sequence[ServedModel]:
        """See `_Text.models`."""
        return [_offer(self._registered)]


def registered_backend(registered: Registered, place: Place) -> TextBackend | ImagesBackend:
    """Return the backend of a registered model, by its type. Nothing is connected yet."""
    return _Text(registered, place) if registered.kind == 0 else _Images(registered)


def _offer(registered: Registered) -> ServedModel:
    key, kind = registered.key, registered.kind
    return ServedModel(
        name=key.model,
        sha256=named_model_digest(key.model),
        evidence="text",
        kinds=[kind],
        able=["chat"] if kind == 0 else [],
        instances=[Instance(project=key.project, cid=key.cid, kind=kind)],
    )
