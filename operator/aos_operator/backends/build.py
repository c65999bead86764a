"""Makes the backends that settings name."""

from collections.abc import Sequence

from aos_operator.backends.images import ImagesBackend
from aos_operator.backends.router import Router
from aos_operator.backends.settings import BackendSettings
from aos_operator.backends.text import TextBackend
from aos_operator.backends.worker import HttpWorker
from aos_protocol.fields import ModelKind

_IMAGE_PATHS: dict[ModelKind, str] = {1: "/images/generations", 2: "/images/edits"}


def open_backend(entry: BackendSettings, timeout: float) -> HttpWorker | TextBackend | ImagesBackend:
    """Return the backend of one entry; `timeout` is for one answer, in seconds. Nothing is connected yet."""
    if entry.kind == "worker":
        return HttpWorker(entry.url or "", timeout)
    source = entry.source(timeout)
    if entry.makes_images:
        endpoints = {kind: source.base + _IMAGE_PATHS[kind] for kind in entry.kinds}
        return ImagesBackend(endpoints, entry.models, entry.api_key, timeout)
    return TextBackend(source)


def open_backends(entries: Sequence[BackendSettings], timeout: float) -> Router:
    """Return all of them as one, each under its number in the list."""
    router = Router()
    for number, entry in enumerate(entries):
        router.put(number, open_backend(entry, timeout))
    return router
