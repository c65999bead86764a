"""Whether this machine can run AOS: Python, a compiler, the port, the embedded servers, the model."""

import importlib.util
import platform
import shutil
import time
from contextlib import closing
from pathlib import Path

from aos_cli import ports
from aos_cli.checks import file_digest
from aos_cli.data import DataFolder, temporary_folder
from aos_cli.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from aos_cli.errors import CliError
from aos_cli.failures import PortTaken
from aos_cli.findings import Findings, NotLookedAt, find
from aos_cli.models import model_file
from aos_inference import gguf

_COMPILERS = ("c++", "g++", "clang++")
_OLDEST_PYTHON = (3, 11)


async def machine_findings(model: Path | None, port: int, data: DataFolder) -> Findings:
    """Look at this machine; the embedded servers are started for a moment, on data of their own."""

    async def python() -> str:
        version = platform.python_version_tuple()
        if tuple(map(int, version[:2])) < _OLDEST_PYTHON:
            raise CliError(f"Python {platform.python_version()} is too old: install 3.11 or newer")
        return f"{platform.python_implementation()} {platform.python_version()}"

    async def compiler() -> str:
        found = next(filter(None, map(shutil.which, _COMPILERS)), None)
        if found:
            return found
        if importlib.util.find_spec("llama_cpp") is not None:
            raise NotLookedAt("there is none, and none is needed: llama-cpp-python is built already")
        raise CliError("there is none to build llama-cpp-python with: install g++ (apt install g++)")

    async def free_port() -> str:
        running = data.running()
        try:
            with closing(ports.reserve(port)):
                return f"{port} is free"
        except PortTaken:
            if running is not None and running.url.endswith(f":{port}"):
                return f"{port} is that of the running `aos up`"
            raise

    async def whole_model() -> str:
        path = model_file(model)
        header = gguf.check(path)
        return f"{path}: {header.tensors} tensors, {path.stat().st_size:,} bytes, SHA-256 {file_digest(path)}"

    yield await find("Python", python)
    yield await find("compiler", compiler)
    yield await find("port", free_port)
    with temporary_folder("doctor") as folder:
        for server in (
            EmbeddedPostgres(folder / "postgres", durable=False),
            EmbeddedValkey(folder / "valkey", durable=False),
        ):
            yield await find(f"embedded {server.name}", lambda: _starts(server))  # noqa: B023 (awaited at once)
    yield await find("model file", whole_model)


async def _starts(server: EmbeddedServer) -> str:
    started = time.monotonic()
    async with server:
        return f"starts, in {time.monotonic() - started:.1f} s"
