"""One job's trace through every process, as OpenTelemetry spans; off, and nothing of it imported, unless `exporting` is given an endpoint.

A trace's id is the first half of the job's id, and a place that another process must name has an id that follows from its name
(`where`). So nothing travels in frames, and what is signed stays as it is; only a worker, who knows no job, gets a W3C `traceparent`.

    with exporting("dispatcher", settings.telemetry.otlp_endpoint):
        ...
        with span("draw", parent=where(job_id, "submit"), model=name) as drawing:
            ...
            drawing.note(members=3)

No span holds a prompt, an answer, a user or a token.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator

from aos_service.errors import TelemetryError

Kind: TypeAlias = Literal["internal", "server", "client", "producer", "consumer"]
Attribute: TypeAlias = str | int | float | bool

_NO_ENDPOINT: Final = "must be http://host:port or https://host, without /v1/traces"
_HEADER: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Telemetry(BaseModel):
    """Where traces go: the base URL of an OTLP receiver over HTTP, as http://127.0.0.1:4318; none: nothing is traced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    otlp_endpoint: str | None = None

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is not None and not _is_endpoint(url):
            raise ValueError(_NO_ENDPOINT)
        return url


@dataclass(frozen=True)
class Where:
    """A place in a trace: the ids of the trace (16 bytes) and of a span (8 bytes), as numbers."""

    trace: int
    span: int

    @classmethod
    def from_header(cls, header: str | None) -> "Where | None":
        """Read a `traceparent` (W3C Trace Context, version 00); None for anything else, as the recommendation wants."""
        found = _HEADER.fullmatch(header or "")
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            return None
        return cls(int(found[1], 16), int(found[2], 16))

    def inside(self) -> "Where":
        """Return a new place, by chance, in the same trace."""
        return Where(self.trace, int.from_bytes(os.urandom(8)))

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header that makes this the parent of what its receiver does."""
        return {"traceparent": f"00-{self.trace:032x}-{self.span:016x}-01"}


def where(job_id: str, *path: object) -> Where | None:
    """Return the place in a job's trace (id: 64 hex digits) that this path names, in every process the same; None while nothing is traced."""
    if _sink is None:
        return None
    named = "/".join(["aos/span/1", job_id, *map(str, path)])
    return Where(int(job_id[:32], 16), int.from_bytes(hashlib.sha256(named.encode()).digest()[:8]))


@dataclass
class Span:
    """A piece of work under way; `at` is None while nothing is traced."""

    name: str
    at: Where | None = None
    parent: Where | None = None
    kind: Kind = "internal"
    attributes: dict[str, Attribute] = field(default_factory=dict)
    started: int = field(default_factory=time.time_ns)
    error: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP request carries to be part of this: nothing, while nothing is traced."""
        return {} if self.at is None else self.at.headers

    def note(self, **attributes: Attribute) -> None:
        """Add what is known only later."""
        if self.at is not None:
            self.attributes |= attributes


Sink: TypeAlias = Callable[[Span, int], None]
"""Takes a span that ended, and when, in nanoseconds since 1970."""

_NOTHING: Final = nullcontext(Span("nothing"))
_current: ContextVar[Where | None] = ContextVar("aos_span", default=None)
_sink: Sink | None = None


@contextmanager
def exporting(program: str, endpoint: str | None) -> Iterator[None]:
    """Send the spans of this process to `endpoint` while the block runs, and at its end what is left, for a few seconds at most.

    Raises:
        TelemetryError: when there is an endpoint, and it is no URL, or the extra `otel` is not installed.
    """
    if endpoint is None:
        yield
        return
    if not _is_endpoint(endpoint):
        raise TelemetryError(f"the endpoint of an OTLP receiver {_NO_ENDPOINT}")
    try:
        from aos_service.tracing_otlp import otlp_sink
    except ImportError as error:
        raise TelemetryError(
            f"telemetry.otlp_endpoint needs {error.name}, which is not installed: install aos with the extra `otel`, "
            "or leave the endpoint out"
        ) from error
    with otlp_sink(program, endpoint) as sink, sending_to(sink):
        yield


@contextmanager
def sending_to(sink: Sink) -> Iterator[None]:
    """Give every span of this process to `sink` while the block runs."""
    global _sink  # noqa: PLW0603 - a process has one, like its log
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before


def span(
    name: str,
    *,
    at: Where | None = None,
    parent: Where | None = None,
    kind: Kind = "internal",
    **attributes: Attribute,
) -> AbstractContextManager[Span]:
    """Trace the block as `name`, below `parent` or else below the span that it runs in; with neither, and no place, not at all.

    `at` is its place where other processes must name it. An exception that leaves the block marks it as failed.
    """
    if _sink is None:
        return _NOTHING
    above = parent or _current.get()
    at = at or (above and above.inside())
    return _NOTHING if at is None else _traced(Span(name, at, above, kind, attributes))


def ended(name: str, at: Where | None, started: int, **attributes: Attribute) -> None:
    """Trace what has no parent and got its place only at its end; `started` is of `time.time_ns()`."""
    if _sink is not None:
        _sink(Span(name, at, None, "server", attributes, started), time.time_ns())


def _is_endpoint(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


@contextmanager
def _traced(one: Span) -> Iterator[Span]:
    token = _current.set(one.at)
    try:
        yield one
    except BaseException as error:
        one.error = type(error).__name__  # its text may quote what no trace is to hold
        raise
    finally:
        _current.reset(token)
        if _sink is not None:
            _sink(one, time.time_ns())
