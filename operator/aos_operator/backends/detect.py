"""Finds out which kind of server listens at a URL, by what only that kind answers; nothing is run for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from aos_operator.backends.dialects import DIALECTS
from aos_operator.backends.upstream import QUICK_S, Upstream
from aos_operator.backends.worker import HttpWorker
from aos_operator.errors import WorkerRefused
from aos_protocol.canonical import JsonValue
from aos_service.errors import WorkerUrlError

_PREFIXES: Final = ("/v1", "/ollama")


@dataclass(frozen=True)
class Found:
    """What listens: its kind, the URL to put into settings, and what gave it away."""

    kind: str
    url: str
    why: str


@dataclass(frozen=True)
class _Probe:
    """A path that a kind of server answers with what `fits`, and others do not; `sign` says what that is."""

    kind: str
    path: str
    fits: Callable[[JsonValue], bool]
    sign: str


def _has(name: str, *others: str) -> Callable[[JsonValue], bool]:
    return lambda said: isinstance(said, dict) and {name, *others} <= set(said)


def _lists(where: str, **members: object) -> Callable[[JsonValue], bool]:
    """Fits an object with a list of objects, the first of which has these members; `...` stands for any value."""

    def fits(said: JsonValue) -> bool:
        listed = said.get(where) if isinstance(said, dict) else None
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
            return False
        first = listed[0]
        return all(name in first and value in {..., first[name]} for name, value in members.items())

    return fits


_PROBES: Final = (
    _Probe("worker", "/v1/models", _lists("models", name=..., sha256=...), "its models have a SHA-256"),
    _Probe(
        "llamacpp", "/props", _has("default_generation_settings"), "it tells its default_generation_settings"
    ),
    _Probe("openwebui", "/ollama/api/version", _has("version"), "it passes Ollama's version on"),
    _Probe("ollama", "/api/version", _has("version"), "it tells a version there"),
    _Probe("lmstudio", "/api/v0/models", _lists("data", id=..., state=...), "its models have a state"),
    _Probe("vllm", "/v1/models", _lists("data", owned_by="vllm"), "its models are owned by vllm"),
    _Probe("sglang", "/v1/models", _lists("data", owned_by="sglang"), "its models are owned by sglang"),
    _Probe("oobabooga", "/v1/internal/model/info", _has("model_name", "lora_names"), "it tells its loras"),
    _Probe("litellm", "/health/liveliness", lambda said: said == "I'm alive!", "it says that it is alive"),
    _Probe(
        "openai",
        "/v1/models",
        _lists("data", id=...),
        "it lists models as OpenAI does, and has no other sign",
    ),
    _Probe("openai", "/v1/models", _lists("data", model=..., url=...), "it lists models as DBC's servers do"),
)
"""In this order: llama.cpp answers some of Ollama's paths, and everybody some of OpenAI's."""


async def detect(url: str, key: SecretStr | None) -> Found:
    """Return what listens at a URL, whether or not that has the kind's own prefix at its end.

    On a unix socket or vsock that is our worker, or nothing. Raises `WorkerUnavailable` when nothing can be reached there, and
    `WorkerRefused` when it is no server that is known here, or no URL.
    """
    scheme = url.partition("://")[0]
    if scheme in {"unix", "vsock"}:
        return await _our_worker(url)
    if scheme not in {"http", "https"}:
        raise WorkerRefused(f"{url} is no URL of a model server: write http://host:port or https://host/path")
    root = url.rstrip("/")
    for prefix in _PREFIXES:
        root = root.removesuffix(prefix)
    upstream = Upstream(root, key, QUICK_S)
    refusals: dict[str, str] = {}
    try:
        for probe in _PROBES:
            try:
                said = await upstream.get(probe.path)
            except WorkerRefused as error:
                refusals[probe.path] = str(error)
                continue
            if probe.fits(said):
                return Found(probe.kind, _named(root, probe.kind), f"GET {probe.path}: {probe.sign}")
    finally:
        await upstream.close()
    reasons = refusals.get("/v1/models", "it answers none of their paths as they do")
    raise WorkerRefused(f"what listens at {root} is no server that is known here: {reasons}")


async def _our_worker(url: str) -> Found:
    try:
        worker = HttpWorker(url, QUICK_S)
    except WorkerUrlError as error:
        raise WorkerRefused(f"{url} {error}") from error
    try:
        await worker.models()
    finally:
        await worker.close()
    return Found("worker", url, "GET /v1/models: its models have a SHA-256")


def _named(root: str, kind: str) -> str:
    """The URL for settings: a server below a path of its own has its prefix spelled out, since only a bare one is completed."""
    bare = root.count("/") == 2
    return root if bare or kind == "worker" else root + DIALECTS[kind].prefix
