"""The command-line options of every program that serves a model."""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import typer
from pydantic import BaseModel, ConfigDict

from aos_inference.cache import CacheType

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 5005
DEFAULT_SLOTS: Final = 8

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

ModelOption = Annotated[Path, typer.Option("--model", help="The GGUF file to serve.")]
NameOption = Annotated[
    str, typer.Option("--name", help="What requests call the model. Default: the file's name.")
]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen on.")]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0 takes a free one.")]
SocketOption = Annotated[
    Path | None, typer.Option("--uds", help="Listen on this unix socket in place of TCP.")
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context", min=16, help="Tokens a request, prompt and output. Default: the model's, at most 4096."
    ),
]
SlotsOption = Annotated[int, typer.Option("--slots", min=1, max=48, help="Jobs that run at the same time.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Default: 1, and 1 more each 256 MiB of model, at most the processors.",
    ),
]
CacheTypeOption = Annotated[
    CacheType,
    typer.Option(
        "--cache-type",
        help="How keys and values are kept; Q8_0 takes half the memory, and verifiers can tell.",
    ),
]
FimOption = Annotated[
    str | None,
    typer.Option(
        "--fim",
        help="How a model without tokens of its own for it fills in between two texts: codellama, deepseek, starcoder, codegemma, or "
        "custom:TEXT with {prefix} and {suffix}. All who serve the model must say the same.",
    ),
]
TelemetryOption = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        envvar="AOS_OTLP_ENDPOINT",
        help="Send this worker's part of jobs' traces to an OpenTelemetry receiver, as http://127.0.0.1:4318.",
    ),
]
LogLevelOption = Annotated[LogLevel, typer.Option("--log-level", help="Least level to log.")]


class ServeOptions(BaseModel):
    """Which model to serve and how: what the options above say, checked by them; None takes their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    name: str
    context: int | None = None
    slots: int = DEFAULT_SLOTS
    threads: int | None = None
    cache_type: CacheType = "F16"
    fim: str | None = None
