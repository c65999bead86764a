"""The `inference-worker` command: check the model file, load it, serve it."""

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import structlog
import typer

from aos_inference import digest, gguf, memory, server
from aos_inference.cache import CacheType
from aos_inference.chat import ChatFormat
from aos_inference.engine import Engine
from aos_inference.errors import ContextTooLarge, InvalidField, StartupError
from aos_inference.progress import Progress
from aos_inference.scheduler import Limits
from aos_inference.schemas import ModelCard
from aos_inference.worker import Worker
from aos_service.logs import configure_logs

if TYPE_CHECKING:
    from aos_inference import llama

_DEFAULT_CONTEXT: Final = 4096
_QUEUE_PER_SLOT: Final = 8
_MOST_QUEUED_TOKENS: Final = 2**20
"""Tokens that may wait, unless the slots alone hold more: token ids take 8 bytes each."""
_BYTES_PER_THREAD: Final = 256 * 2**20

_log = structlog.get_logger(__name__)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class _Options:
    path: Path
    name: str
    context: int | None
    slots: int
    threads: int | None
    cache_type: CacheType


@app.command()
def serve(
    *,
    model: Annotated[Path, typer.Option(help="The GGUF file to serve.")],
    name: Annotated[str, typer.Option(help="What requests call the model. Default: the file's name.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")] = 5005,
    uds: Annotated[Path | None, typer.Option(help="Listen on this unix socket in place of TCP.")] = None,
    context: Annotated[
        int | None,
        typer.Option(min=16, help="Tokens a request, prompt and output. Default: the model's, at most 4096."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=48, help="Jobs that run at the same time.")] = 8,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Default: 1, and 1 more each 256 MiB of model, at most the processors."),
    ] = None,
    cache_type: Annotated[
        CacheType,
        typer.Option(
            help="How keys and values are kept; Q8_0 takes half the memory, and verifiers can tell."
        ),
    ] = "F16",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least level to log.")
    ] = "info",
) -> None:
    """Serve one GGUF model over HTTP, with output that others can check.

    Example:

      inference-worker --model models/aos-demo-5m.F16.gguf --port 5005

      curl -s http://127.0.0.1:5005/v1/models
    """
    configure_logs("inference-worker", level=log_level)
    try:
        gguf.check(model)
        listener = server.listen_unix(uds) if uds else server.listen_tcp(host, port)
        try:
            _load_and_serve(
                _Options(model, name or model.name, context, slots, threads, cache_type), listener
            )
        finally:
            listener.close()
            if uds:
                uds.unlink(missing_ok=True)
    except StartupError as error:
        typer.secho(f"inference-worker: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


def _load_and_serve(options: _Options, listener: socket.socket) -> None:
    # OpenMP's threads otherwise spin while they wait for each other: where another process wants the processors
    # too, a token then takes up to a hundred times as long. OpenMP reads this when llama.cpp is loaded, below.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Python's own handler would raise inside llama.cpp's callbacks, where exceptions get lost.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aos_inference import llama

    path, slots = options.path, options.slots
    sha256 = digest.of_file(path, digest.cache_folder(), Progress(f"Hashing {path.name}"))
    model = llama.Model(path, Progress(f"Loading {path.name}"))
    length = _context_length(options.context, model.trained_context)
    _check_memory(model.cache_bytes(length, slots, options.cache_type), length, slots)
    threads = options.threads or _threads(path)
    backend = llama.Context(model, length, slots, threads, cache_type=options.cache_type)
    _log.info("loaded", context=length, slots=slots, threads=threads, cache_type=options.cache_type)
    card = ModelCard(
        name=options.name,
        sha256=sha256,
        size=path.stat().st_size,
        context=length,
        vocabulary=model.vocabulary,
        engine=llama.engine_name(),
    )
    limits = Limits(
        slots=slots,
        requests=_QUEUE_PER_SLOT * slots,
        tokens=max(_MOST_QUEUED_TOKENS, length * slots),
        rows=backend.rows,
        outputs=backend.outputs,
    )
    engine = Engine(backend, model, length, limits)
    asyncio.run(server.serve(Worker(card, engine, model, _chat_format(model)), listener))
    backend.close()
    model.close()


def _threads(path: Path) -> int:
    """As many as the model's size is worth: a small one loses more by handing over than it gains."""
    return min(len(os.sched_getaffinity(0)), 1 + path.stat().st_size // _BYTES_PER_THREAD)


def _context_length(asked: int | None, trained: int) -> int:
    if asked is None:
        return min(trained, _DEFAULT_CONTEXT)
    if asked > trained:
        raise ContextTooLarge(
            f"--context {asked:,} exceeds the {trained:,} tokens that the model was trained for."
        )
    return asked


def _check_memory(needed: int, context: int, slots: int) -> None:
    """Refuse caches that the machine cannot hold: Linux would grant them and kill the process later."""
    available = memory.available()
    if available is not None and needed > available:
        fitting = context * available // needed
        raise ContextTooLarge(
            f"{slots} slots of {context:,} tokens need {needed / 2**30:.1f} GiB beside the model, and "
            f"{available / 2**30:.1f} GiB are free. Give --context {fitting} or less, or fewer --slots."
        )


def _chat_format(model: "llama.Model") -> ChatFormat | None:
    """The model's chat format; None, with a word in the log, if it has none that works."""
    if model.chat_template is None:
        return None
    try:
        return ChatFormat(model.chat_template, model)
    except InvalidField as error:
        _log.warning("chat is off", reason=str(error))
        return None
