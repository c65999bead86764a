"""The `inference-worker` command: check the model file, load it, serve it."""

import asyncio
import socket

import typer

from aos_inference import digest, gguf, loading, server
from aos_inference.errors import StartupError
from aos_inference.options import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_SLOTS,
    CacheTypeOption,
    ContextOption,
    FimOption,
    HostOption,
    LogLevelOption,
    ModelOption,
    NameOption,
    PortOption,
    ServeOptions,
    SlotsOption,
    SocketOption,
    TelemetryOption,
    ThreadsOption,
)
from aos_inference.worker import Worker
from aos_service.errors import TelemetryError
from aos_service.hardening import keep_memory_private
from aos_service.logs import configure_logs
from aos_service.tracing import exporting

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def serve(
    *,
    model: ModelOption,
    name: NameOption = "",
    host: HostOption = DEFAULT_HOST,
    port: PortOption = DEFAULT_PORT,
    uds: SocketOption = None,
    context: ContextOption = None,
    slots: SlotsOption = DEFAULT_SLOTS,
    threads: ThreadsOption = None,
    cache_type: CacheTypeOption = "F16",
    fim: FimOption = None,
    otlp_endpoint: TelemetryOption = None,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve one GGUF model over HTTP, with output that others can check.

    Example:

      inference-worker --model models/aos-demo-5m.F16.gguf --port 5005

      curl -s http://127.0.0.1:5005/v1/models
    """
    keep_memory_private()
    configure_logs("inference-worker", level=log_level)
    options = ServeOptions(
        path=model,
        name=name or model.name,
        context=context,
        slots=slots,
        threads=threads,
        cache_type=cache_type,
        fim=fim,
    )
    try:
        gguf.check(model)
        listener = server.listen_unix(uds) if uds else server.listen_tcp(host, port)
        try:
            with exporting("inference-worker", otlp_endpoint):
                _load_and_serve(options, listener)
        finally:
            listener.close()
            if uds:
                uds.unlink(missing_ok=True)
    except (StartupError, TelemetryError) as error:
        typer.secho(f"inference-worker: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def _load_and_serve(options: ServeOptions, listener: socket.socket) -> None:
    with loading.loaded(options, digest.cache_folder()) as ready:
        asyncio.run(server.serve(Worker(*ready), listener))
