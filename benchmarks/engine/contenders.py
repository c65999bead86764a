"""What is measured, each as a process of its own that answers the same orders: generate from these prompts, all at once."""

import asyncio
import json
import os
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import environments
import httpx
from figures import Spent

from aos_cli.ports import number, reserve

_HERE: Final = Path(__file__).parent
_WORKER: Final = ("-c", "from aos_inference.main import app; app()")
_START_S: Final = 120
_PATIENCE_S: Final = 1800
_SAMPLING: Final = {"temperature": 0.8, "top_p": 0.95}
PROVER: Final = "0x" + "00" * 20

Tokens = list[list[int]]
_Kind = TypeVar("_Kind", bound="Worker")


class Failed(Exception):
    """A contender did not do what it was asked for; there is nothing to measure."""


@dataclass(frozen=True)
class Setting:
    """What all contenders share: the file, threads, and sequences (at once, and tokens each). `python` runs worker and bare loop."""

    python: str
    model: Path
    threads: int
    slots: int
    length: int

    def arguments(self) -> list[str]:
        """For the scripts of this folder."""
        return [str(self.model), str(self.slots), str(self.length), str(self.threads)]


class Contender(ABC):
    """A process that is up."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @abstractmethod
    async def generate(self, prompts: Sequence[str], output: int) -> Spent:
        """What it takes until every prompt has `output` more tokens, all asked for at the same time."""

    def now(self) -> Spent:
        """The clock, and the process' time so far on all processors: two of these make a difference."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime and stime in proc(5)
        return Spent(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"))


class Bare(Contender):
    """`bare.py`."""

    async def generate(self, prompts: Sequence[str], output: int) -> Spent:
        """See Contender."""
        return await self._order(do="generate", prompts=prompts, output=output)

    async def score(self, prompts: Tokens, outputs: Tokens) -> Spent:
        """One pass over prompts and outputs."""
        return await self._order(do="score", prompts=prompts, outputs=outputs)

    async def _order(self, **order: object) -> Spent:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        answer: dict[str, float] = json.loads(await self._process.stdout.readline())
        return Spent(**answer)


class Http(Contender):
    """A server on loopback. `body` makes the request from prompt, number of tokens, and number of the request."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient, path: str) -> None:
        super().__init__(process)
        self._client = client
        self._path = path
        self.answers: list[dict[str, Any]] = []

    async def generate(self, prompts: Sequence[str], output: int) -> Spent:
        """See Contender. The answers are kept in `answers`."""
        bodies = [self._body(prompt, output, index) for index, prompt in enumerate(prompts)]
        start = self.now()
        answers = await asyncio.gather(*(self._ask(body) for body in bodies))
        spent = self.now() - start
        for answer in answers:
            if self._count(answer) != output:
                raise Failed(f"{type(self).__name__} wrote {self._count(answer)} tokens, not {output}")
        self.answers = list(answers)
        return spent

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self.post(self._path, body)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request; any status but 200 ends the benchmark."""
        answer = await self._client.post(path, json=body)
        if answer.status_code != 200:
            raise Failed(f"{path}: {answer.status_code} {answer.text[:500]}")
        decoded: dict[str, Any] = answer.json()
        return decoded

    @abstractmethod
    def _body(self, prompt: str, output: int, index: int) -> dict[str, Any]: ...

    @abstractmethod
    def _count(self, answer: dict[str, Any]) -> int: ...


class Worker(Http):
    """`inference-worker`."""

    def _body(self, prompt: str, output: int, index: int) -> dict[str, Any]:
        params = _SAMPLING | {"max_tokens": output}
        return {"model": "m", "prompt": prompt, "params": params, "seed": f"{index:064x}", "prover": PROVER}

    def _count(self, answer: dict[str, Any]) -> int:
        return len(answer["transcript"]["output_tokens"])


class PlainWorker(Worker):
    """`inference-worker` without anything verifiable (`start_plain_worker.py`)."""

    def _count(self, answer: dict[str, Any]) -> int:
        return int(answer["tokens"])


class LlamaServer(Http):
    """llama.cpp's server (`start_xllamacpp.py`)."""

    def _body(self, prompt: str, output: int, index: int) -> dict[str, Any]:
        return _SAMPLING | {
            "prompt": prompt,
            "n_predict": output,
            "seed": index,
            "ignore_eos": True,
            "cache_prompt": False,
        }

    def _count(self, answer: dict[str, Any]) -> int:
        return int(answer["tokens_predicted"])


class LlamaCppServer(Http):
    """`llama_cpp.server`, which runs one request after the other."""

    def _body(self, prompt: str, output: int, index: int) -> dict[str, Any]:
        return _SAMPLING | {"prompt": prompt, "max_tokens": output, "seed": index}

    def _count(self, answer: dict[str, Any]) -> int:
        return int(answer["usage"]["completion_tokens"])


@asynccontextmanager
async def bare(setting: Setting, *, pool: bool) -> AsyncIterator[Bare]:
    """The bare loop, whose sequences share one `pool` of cells or have a cache each."""
    command = [setting.python, str(_HERE / "bare.py"), *setting.arguments(), *(["--pool"] if pool else [])]
    async with _process(command) as process:
        yield Bare(process)


@asynccontextmanager
async def worker(setting: Setting, kind: type[_Kind], start: Sequence[str] = _WORKER) -> AsyncIterator[_Kind]:
    """An inference worker; `start` stands for its program, `kind` for what is done with its answers."""
    command = [setting.python, *start, "--model", str(setting.model), "--name", "m"]
    command += ["--slots", str(setting.slots), "--context", str(setting.length)]
    command += ["--threads", str(setting.threads), "--log-level", "warning"]
    async with _server(command, "/healthz") as (process, client):
        yield kind(process, client, "/v1/generate")


@asynccontextmanager
async def xllamacpp(setting: Setting) -> AsyncIterator[LlamaServer]:
    """llama.cpp's own server, as the package xllamacpp has it."""
    python = await asyncio.to_thread(environments.interpreter, "xllamacpp")
    async with _process([python, str(_HERE / "start_xllamacpp.py"), *setting.arguments()]) as process:
        assert process.stdout is not None
        address = (await asyncio.wait_for(process.stdout.readline(), _START_S)).decode().strip()
        async with httpx.AsyncClient(base_url=address, timeout=_PATIENCE_S) as client:
            yield LlamaServer(process, client, "/completion")


@asynccontextmanager
async def llama_cpp_server(setting: Setting) -> AsyncIterator[LlamaCppServer]:
    """`llama_cpp.server` of llama-cpp-python."""
    python = await asyncio.to_thread(environments.interpreter, "llama_cpp_server")
    threads = str(setting.threads)
    command = [
        python,
        "-m",
        "llama_cpp.server",
        "--model",
        str(setting.model),
        "--n_ctx",
        str(setting.length),
    ]
    command += ["--n_threads", threads, "--n_threads_batch", threads, "--flash_attn", "true"]
    command += ["--interrupt_requests", "false"]
    async with _server(command, "/v1/models") as (process, client):
        yield LlamaCppServer(process, client, "/v1/completions")


@asynccontextmanager
async def _server(
    command: Sequence[str], ready: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """A server that takes `--port`, once `ready` answers."""
    with reserve(0) as listener:
        port = number(listener)
    async with (
        _process([*command, "--port", str(port)]) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S) as client,
    ):
        async with asyncio.timeout(_START_S):
            while not await _answers(client, ready):
                if process.returncode is not None:
                    raise Failed(f"{command} ended with {process.returncode}")
                await asyncio.sleep(0.2)
        yield process, client


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == 200
    except httpx.TransportError:
        return False


@asynccontextmanager
async def _process(command: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process with pipes; its errors are shown if it fails; ended by its pid."""
    with tempfile.TemporaryFile() as errors:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=errors, limit=2**26
        )
        try:
            yield process
        finally:
            if process.returncode not in (None, 0):
                errors.seek(0)
                sys.stderr.write(errors.read()[-4000:].decode("utf-8", "replace"))
            if process.returncode is None:
                process.terminate()
                await process.communicate()
