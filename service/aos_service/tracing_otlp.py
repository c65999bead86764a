"""Spans to an OTLP receiver over HTTP, by OpenTelemetry's SDK: imported only where an endpoint is configured."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from aos_service.tracing import Sink, Span, Where

_MOST_WAITING: Final = 16_384
"""Spans that wait for the receiver; beyond that they are dropped: nothing here may slow down for being watched."""

_EVERY_MS: Final = 1000
_TIMEOUT_S: Final = 3.0
"""For one batch; and for all that is left when the process ends."""

_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


@contextmanager
def otlp_sink(program: str, endpoint: str) -> Iterator[Sink]:
    """Open the way to `endpoint` (the receiver's base URL); what waits is sent in batches by a thread, and the rest at the end."""
    exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=_TIMEOUT_S)
    processor = BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING, schedule_delay_millis=_EVERY_MS)
    resource = Resource.create({"service.name": f"aos-{program}", "process.pid": os.getpid()})
    scope = InstrumentationScope("aos")

    def send(span: Span, at_ns: int) -> None:
        processor.on_end(_readable(span, at_ns, resource, scope))

    try:
        yield send
    finally:
        # A receiver that is away must not keep the process from ending: its exporter is closed under the last batches then.
        late = threading.Timer(_TIMEOUT_S, exporter.shutdown)
        late.start()
        processor.shutdown()  # type: ignore[no-untyped-call]
        late.cancel()


def _readable(span: Span, at_ns: int, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        context=None if span.at is None else _context(span.at, remote=False),
        parent=None if span.parent is None else _context(span.parent, remote=True),
        resource=resource,
        attributes={f"aos.{name}": value for name, value in span.attributes.items()},
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.started,
        end_time=at_ns,
        instrumentation_scope=scope,
    )


def _context(place: Where, *, remote: bool) -> SpanContext:
    return SpanContext(place.trace, place.span, is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))
