"""A receiver of OpenTelemetry traces (OTLP over HTTP) that keeps what it is sent."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """One span: ids in hex, `parent` empty at the root, and what sent it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    failed: bool
    attributes: dict[str, str]


@dataclass
class Receiver:
    """Everything received, read and raw."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, job_id: str) -> list[Received]:
        """The spans of a job's trace."""
        return [span for span in self.spans if span.trace == job_id[:32]]

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until what has arrived is enough."""
        async with self._arrived:
            await self._arrived.wait_for(done)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                assert length is not None
                assert head.startswith(b"POST /v1/traces ")
                await self._take(await reader.readexactly(int(length[1])))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # its process has ended
        finally:
            writer.close()

    async def _take(self, body: bytes) -> None:
        self.raw += body
        async with self._arrived:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                said = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [_read(said["service.name"], span) for span in scope.spans]
            self._arrived.notify_all()


def _read(service: str, span: Any) -> Received:
    return Received(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        failed=span.status.code == 2,
        attributes={pair.key: pair.value.string_value for pair in span.attributes},
    )


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Serve a receiver on a free port."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
