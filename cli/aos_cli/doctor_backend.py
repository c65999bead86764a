"""What model server listens at a URL, whether it can be put behind an operator, and with which settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from aos_cli.errors import CliError
from aos_cli.findings import Finding, Findings, NotLookedAt, find
from aos_operator.backends.build import open_backend
from aos_operator.backends.detect import Found, detect
from aos_operator.backends.protocol import Backend, Piece, Queued
from aos_operator.backends.settings import BackendSettings
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_protocol.job import ChatMessage, JobSpec, Params
from aos_protocol.messages import ServedModel

_TIMEOUT_S = 120.0
_SEED = "5a" * 32
_PROVER = "0x" + "00" * 20
_TOKENS = 24
_SHOWN_CHARACTERS = 60
_QUESTION = [ChatMessage(role="user", content="What is AI?")]
_SAID_NOTHING = f"the model said nothing in {_TOKENS} tokens: so do those that think first"
_KEY_VARIABLE = "${BACKEND_KEY}"


@dataclass
class _Server:
    """What is known so far of the server, from one finding to the next."""

    found: Found
    key: SecretStr | None
    models: list[ServedModel] = field(default_factory=list)
    evidence: str | None = None

    def settings(self, **more: Any) -> BackendSettings:  # noqa: ANN401 - the fields' own types
        said = {"kind": self.found.kind, "url": self.found.url, "api_key": self.key} | more
        return BackendSettings.model_validate(
            {name: value for name, value in said.items() if value is not None}
        )

    @property
    def model(self) -> ServedModel:
        """The model to try: the first that does not look like one for embeddings."""
        return next((model for model in self.models if "embed" not in model.name.lower()), self.models[0])

    @asynccontextmanager
    async def backend(self, **more: Any) -> AsyncIterator[Backend]:  # noqa: ANN401 - as above
        backend = open_backend(self.settings(**more), _TIMEOUT_S)
        try:
            yield backend
        finally:
            await backend.close()


async def backend_findings(url: str, key_file: Path | None) -> Findings:
    """Look at the model server at this URL; the last finding has the settings for it, if it is of use."""
    key = None if key_file is None else SecretStr(_first_line(key_file))
    recognised: list[Found] = []

    async def recognise() -> str:
        recognised.append(await detect(url, key))
        return f"{recognised[0].url} is {recognised[0].kind}: {recognised[0].why}"

    yield await find("backend", recognise)
    if not recognised:
        return
    server = _Server(recognised[0], key)
    yield (listed := await find("backend models", lambda: _list(server)))
    if listed.status != "PASS":
        return
    yield (chat := await find("backend chat", lambda: _chat(server)))
    yield await find("backend streaming", lambda: _stream(server))
    yield await find("backend logprobs", lambda: _logprobs(server))
    yield await find("backend filling in", lambda: _fill_in(server))
    if chat.status == "PASS":
        yield Finding("PASS", "backend settings", _entry(server))


async def _list(server: _Server) -> str:
    async with server.backend() as backend:
        server.models = list(await backend.models())
    if not server.models:
        raise CliError("it serves no model now: load one")
    names = ", ".join(model.name for model in server.models)
    return f"{names}; tried is {server.model.name}"


async def _chat(server: _Server) -> str:
    async with server.backend() as backend:
        answer = await backend.generate(_job(server, messages=_QUESTION), _SEED, _PROVER)
    level = answer["record"]["level"] if "record" in answer else "fingerprints"
    return f"answers {_short(answer['text'])}, showing {level}"


async def _stream(server: _Server) -> str:
    pieces: list[str] = []
    began = asyncio.Event()

    def hear(news: Piece | Queued) -> None:
        if isinstance(news, Piece):
            pieces.append(news.text)
            began.set()

    async with server.backend() as backend:
        meanwhile = asyncio.create_task(_ask_besides(began, backend))
        try:
            await backend.generate(_job(server, messages=_QUESTION, stream=True), _SEED, _PROVER, hear=hear)
        finally:
            meanwhile.cancel()
            await asyncio.wait([meanwhile])
    if not pieces:
        raise NotLookedAt(_SAID_NOTHING)
    if len(pieces) < 2:
        raise CliError(f"the answer came in {len(pieces)} piece: the server does not stream")
    return f"the answer came in {len(pieces)} pieces"


async def _ask_besides(began: asyncio.Event, backend: Backend) -> None:
    """Ask for the models once an answer has begun: some servers break it off then, and an operator asks now and then."""
    await began.wait()
    with suppress(WorkerUnavailable):
        await backend.models()


async def _logprobs(server: _Server) -> str:
    if "logprobs" not in server.model.able and server.settings().kind == "worker":
        raise NotLookedAt("this worker shows none")
    more = {} if "logprobs" in server.model.able else {"evidence": "logprobs"}
    async with server.backend(**more) as backend:
        try:
            chat = await backend.generate(_job(server, messages=_QUESTION, logprobs=1), _SEED, _PROVER)
            raw = await backend.generate(_job(server, prompt="What is AI?", logprobs=1), _SEED, _PROVER)
        except WorkerRefused as error:
            raise NotLookedAt(
                f"none are shown ({error}), so its answers are evidence of level text"
            ) from None
    if not (chat["logprobs"] and raw["logprobs"]):
        raise NotLookedAt(_SAID_NOTHING)
    server.evidence = more.get("evidence")
    return f"{len(chat['logprobs'])} tokens with theirs"


async def _fill_in(server: _Server) -> str:
    if "fim" not in server.model.able:
        how = "start it with --fim" if server.found.kind == "worker" else "set fim"
        raise NotLookedAt(
            f"no template is known by the name of {server.model.name}: {how}, if the model was trained for it"
        )
    job = _job(server, prompt="def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n")
    async with server.backend() as backend:
        answer = await backend.generate(job, _SEED, _PROVER)
    return f"fills in {_short(answer['text'])}"


def _job(server: _Server, **asked: Any) -> JobSpec:  # noqa: ANN401 - as above
    return JobSpec(
        tag="opml", model=server.model.name, params=Params(temperature=0, max_tokens=_TOKENS), **asked
    )


def _entry(server: _Server) -> str:
    entry: dict[str, object] = {"kind": server.found.kind, "url": server.found.url}
    if server.key is not None:
        entry["api_key"] = _KEY_VARIABLE
    if server.evidence is not None:
        entry["evidence"] = server.evidence
    lines = yaml.safe_dump({"backends": [entry]}, sort_keys=False).rstrip()
    return f"in place of net.worker_url, for operator-runner -c FILE:\n{lines}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def _first_line(file: Path) -> str:
    try:
        line = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(
            f"--api-key-file {file} cannot be read ({error}): give a file whose first line is the key"
        ) from error
    if not line:
        raise CliError(f"--api-key-file {file}: its first line is empty, and should be the key")
    return line
