"""Every adapter against the server that it is for, as far as its public documents say how that speaks."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from structlog.testing import capture_logs

from aos_operator.backends.detect import detect
from aos_operator.backends.dialects import DIALECTS, Source
from aos_operator.backends.protocol import Execution, Piece, Queued
from aos_operator.backends.text import TextBackend, integer_seed
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.fields import EvidenceLevel
from aos_protocol.fim import TEMPLATES, custom, render
from aos_protocol.job import ChatMessage, ImageSpec, JobSpec, Params
from aos_protocol.record import Record, named_model_digest
from aos_protocol.typed_data import Domain
from integration.operator.model_servers import (
    KEY,
    WORDS,
    FakeLlamaCpp,
    FakeLmStudio,
    FakeOllama,
    FakeOobabooga,
    FakeOpenAi,
    FakeOpenWebUi,
    FakeServer,
    FakeSglang,
    FakeVllm,
)

TEXT = "".join(WORDS)
SEED = "ab" * 32
PROVER = "0x" + "11" * 20
SERVERS: dict[str, type[FakeServer]] = {
    "ollama": FakeOllama,
    "openwebui": FakeOpenWebUi,
    "openai": FakeOpenAi,
    "vllm": FakeVllm,
    "sglang": FakeSglang,
    "lmstudio": FakeLmStudio,
    "oobabooga": FakeOobabooga,
    "litellm": FakeOpenAi,
}
FAMILY = {
    "ollama": "codellama",
    "openwebui": "codellama",
    "vllm": "deepseek",
    "sglang": "codegemma",
    "lmstudio": "codellama",
    "oobabooga": "starcoder",
}
"""The template that each fake's model is known by; the others have models of no family."""


class Servers:
    """Starts fakes, and closes them with the backends on them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def start(self, kind: str, fake: type[FakeServer] | None = None) -> FakeServer:
        server = (fake or SERVERS[kind])()
        return await self._stack.enter_async_context(server.serving())

    def backend(self, kind: str, server: FakeServer, **more: Any) -> TextBackend:
        key = SecretStr(server.key) if server.key else None
        backend = TextBackend(Source(kind=kind, url=server.url, key=key, timeout=30, **more))
        self._stack.push_async_callback(backend.close)
        return backend


@pytest_asyncio.fixture
async def servers() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(stack)


async def job_for(backend: TextBackend, **asked: Any) -> JobSpec:
    (model,) = await backend.models()
    asked = asked or {"prompt": "What is fire?"}
    return JobSpec(tag="opml", model=model.name, **{"params": Params(max_tokens=9), **asked})


async def heard(backend: TextBackend, job: JobSpec) -> tuple[dict[str, Any], list[Piece]]:
    pieces: list[Piece] = []

    def hear(news: Piece | Queued) -> None:
        assert isinstance(news, Piece)
        pieces.append(news)

    return await backend.generate(job, SEED, PROVER, hear=hear), pieces


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_prompt_is_answered_and_told_as_it_comes(servers: Servers, kind: str) -> None:
    backend = servers.backend(kind, await servers.start(kind))
    answer, pieces = await heard(backend, await job_for(backend))
    record = Record.model_validate(answer["record"])
    assert answer["text"] == TEXT
    assert [piece.text for piece in pieces] == list(WORDS)
    assert (record.backend, record.finish_reason) == (kind, "eos")
    assert (record.prompt_tokens, record.completion_tokens) == (7, len(WORDS))


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_conversation_goes_to_where_that_kind_takes_one(servers: Servers, kind: str) -> None:
    server = await servers.start(kind)
    backend = servers.backend(kind, server)
    job = await job_for(backend, messages=[ChatMessage(role="user", content="What is fire?")])
    answer, pieces = await heard(backend, job)
    assert answer["text"] == "".join(piece.text for piece in pieces) == TEXT
    assert server.asked[-1].path == DIALECTS[kind].prefix + DIALECTS[kind].chat
    assert server.asked[-1].body["messages"] == [{"role": "user", "content": "What is fire?"}]


@pytest.mark.parametrize("kind", SERVERS)
async def test_sampling_is_passed_on_with_a_seed_of_the_jobs_and_nothing_of_the_servers_own(
    servers: Servers, kind: str
) -> None:
    server = await servers.start(kind)
    backend = servers.backend(kind, server)
    params = Params(temperature=0.5, top_p=0.25, max_tokens=2, stop=["\n"])
    answer, _ = await heard(backend, await job_for(backend, prompt="x", params=params))
    body = server.asked[-1].body
    asked = body["options"] if DIALECTS[kind].tongue == "ollama" else body
    assert {name: asked[name] for name in ("temperature", "top_p", "seed", "stop")} == {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": integer_seed(SEED),
        "stop": ["\n"],
    }
    assert asked.items() >= DIALECTS[kind].neutral.items()
    assert answer["text"] == "".join(WORDS[:2])
    assert answer["record"]["finish_reason"] == "length"


@pytest.mark.parametrize("kind", SERVERS)
async def test_who_asked_for_stops_does_not_know_whether_one_ended_it_unless_the_server_says(
    servers: Servers, kind: str
) -> None:
    backend = servers.backend(kind, await servers.start(kind))
    job = await job_for(backend, prompt="x", params=Params(max_tokens=9, stop=["\n"]))
    answer, _ = await heard(backend, job)
    assert answer["record"]["finish_reason"] == ("eos" if kind in {"vllm", "sglang"} else "stop")


@pytest.mark.parametrize("kind", FAMILY)
async def test_a_gap_is_filled_by_the_template_of_the_models_family(servers: Servers, kind: str) -> None:
    server = await servers.start(kind)
    backend = servers.backend(kind, server)
    (model,) = await backend.models()
    assert "fim" in model.able
    template = TEMPLATES[FAMILY[kind]]
    await heard(backend, await job_for(backend, prompt="def f(", suffix="): pass"))
    asked = server.asked[-1]
    assert asked.path == DIALECTS[kind].prefix + DIALECTS[kind].completion
    assert asked.body["prompt"] == render(template, "def f(", "): pass")
    stops = asked.body["options"]["stop"] if DIALECTS[kind].tongue == "ollama" else asked.body["stop"]
    assert stops == list(template.stops)
    if DIALECTS[kind].tongue == "ollama":
        assert asked.body["raw"] is True


async def test_a_setting_beats_the_models_name_and_without_either_a_gap_is_refused_by_name(
    servers: Servers,
) -> None:
    server = await servers.start("openai")
    ignorant = servers.backend("openai", server)
    with pytest.raises(WorkerRefused, match="no template for filling in is known for gpt-of-nobody: set fim"):
        await heard(ignorant, await job_for(ignorant, prompt="a", suffix="b"))
    told = servers.backend("openai", server, template=custom("<{prefix}|{suffix}>"))
    await heard(told, await job_for(told, prompt="a", suffix="b"))
    assert server.asked[-1].body["prompt"] == "<a|b>"


async def test_llama_cpp_fills_in_by_the_tokens_of_its_model(servers: Servers) -> None:
    server = await servers.start("llamacpp", FakeLlamaCpp)
    backend = servers.backend("llamacpp", server)
    (model,) = await backend.models()
    assert model.name == "filler.gguf"  # where the file lies is nobody's business
    assert model.able == ["chat", "fim", "logprobs"]
    answer = await backend.generate(await job_for(backend, prompt="return ", suffix=";"), SEED, PROVER)
    assert answer["text"] == "a + b"
    assert server.asked[-1].path == "/infill"
    asked = server.asked[-1].body
    assert (asked["input_prefix"], asked["input_suffix"], asked["prompt"]) == ("return ", ";", "")
    assert [path for path in (asked.path for asked in server.asked) if path == "/infill"] == ["/infill"] * 2


EVIDENCE: list[tuple[str, EvidenceLevel, EvidenceLevel]] = [
    ("ollama", "text", "text"),
    ("openwebui", "text", "text"),
    ("openai", "text", "text"),
    ("lmstudio", "text", "text"),
    ("oobabooga", "text", "text"),
    ("litellm", "text", "text"),
    ("vllm", "logprobs", "token_ids"),
]


@pytest.mark.parametrize(("kind", "offered", "shown"), EVIDENCE)
async def test_each_offers_and_shows_what_it_can(
    servers: Servers, kind: str, offered: str, shown: str
) -> None:
    backend = servers.backend(kind, await servers.start(kind))
    (model,) = await backend.models()
    assert model.evidence == offered
    assert ("logprobs" in model.able) == (offered == "logprobs")
    assert model.sha256 == named_model_digest(model.name)
    answer, _ = await heard(backend, await job_for(backend))
    assert answer["record"]["level"] == shown
    assert ("output_tokens" in answer["record"]) == (shown == "token_ids")
    assert "logprobs" not in answer


@pytest.mark.parametrize("asked", [{"prompt": "x"}, {"messages": [ChatMessage(role="user", content="x")]}])
async def test_logprobs_are_shown_and_told_as_many_as_the_job_wants(
    servers: Servers, asked: dict[str, Any]
) -> None:
    backend = servers.backend("vllm", await servers.start("vllm"))
    answer, pieces = await heard(backend, await job_for(backend, **asked, logprobs=1))
    assert [token["logprob"] for token in answer["logprobs"]] == [-0.5] * len(WORDS)
    assert [token["top"] for token in answer["logprobs"]] == [[(word, -0.5)] for word in WORDS]
    assert [piece.logprobs[0].token for piece in pieces] == list(WORDS)
    bare, _ = await heard(backend, await job_for(backend, **asked, logprobs=0))
    assert [token["top"] for token in bare["logprobs"]] == [[]] * len(WORDS)


async def test_a_server_that_shows_no_logprobs_refuses_who_wants_them_and_settings_that_promise_them(
    servers: Servers,
) -> None:
    server = await servers.start("openai")
    honest = servers.backend("openai", server)
    with pytest.raises(WorkerRefused, match="openai shows no logprobs of gpt-of-nobody"):
        await heard(honest, await job_for(honest, prompt="x", logprobs=1))
    boasting = servers.backend("openai", server, evidence="logprobs")
    with pytest.raises(WorkerRefused, match="showed no logprobs, though its settings say logprobs"):
        await heard(boasting, await job_for(boasting, prompt="x", logprobs=1))
    answer, _ = await heard(boasting, await job_for(boasting, prompt="x"))
    assert answer["record"]["level"] == "text"  # less than was offered: the operator refuses to sign it


async def test_names_on_the_network_are_mapped_and_models_that_are_gone_are_not_offered(
    servers: Servers, tmp_path: Path
) -> None:
    server = await servers.start("ollama")
    names = {"code-7b": "codellama:7b-code", "gone": "mistral:7b"}
    backend = servers.backend("ollama", server, models=names)
    assert [model.name for model in await backend.models()] == ["code-7b"]
    await heard(backend, await job_for(backend))
    assert server.asked[-1].body["model"] == "codellama:7b-code"
    with pytest.raises(WorkerRefused, match="does not serve gone now"):
        await heard(backend, JobSpec(tag="opml", prompt="x", model="gone"))


async def test_a_server_without_a_list_is_believed_to_have_what_settings_name(servers: Servers) -> None:
    server = await servers.start("openai")
    server.override["/v1/models"] = (404, b"")
    named = servers.backend("openai", server, models={"mine": "theirs"})
    await heard(named, await job_for(named))
    assert server.asked[-1].body["model"] == "theirs"
    with pytest.raises(WorkerUnavailable, match="does not list its models"):
        await servers.backend("openai", server).models()


async def test_a_known_file_lets_token_ids_be_offered_and_then_answers_come_whole(
    servers: Servers, tmp_path: Path
) -> None:
    file = tmp_path / "filler.gguf"
    file.write_bytes(b"GGUF")
    server = await servers.start("llamacpp", FakeLlamaCpp)
    backend = servers.backend("llamacpp", server, files={"filler.gguf": file})
    (model,) = await backend.models()
    assert model.evidence == "token_ids"
    assert model.sha256 != named_model_digest(model.name)
    answer, pieces = await heard(backend, await job_for(backend))
    assert answer["record"]["output_tokens"] == [5, 6]
    assert [piece.text for piece in pieces] == ["a + b"]
    assert server.asked[-1].body["stream"] is False


async def test_a_stream_that_hides_token_ids_shows_none(servers: Servers) -> None:
    """llama.cpp tells the last token only of a character that several make up."""
    server = await servers.start("llamacpp", FakeLlamaCpp)
    backend = servers.backend("llamacpp", server)
    job = await job_for(backend)
    server.override["/completion"] = (
        200,
        b'data: {"content": "\\u263a", "tokens": [9], "tokens_predicted": 3, "stop": false}\n\n'
        b'data: {"content": "", "tokens": [], "tokens_predicted": 3, "stop": true, "stop_type": "eos"}\n\n',
    )
    answer, _ = await heard(backend, job)
    assert (answer["text"], answer["record"]["level"]) == ("\u263a", "text")


async def test_a_file_that_is_replaced_is_another_model(servers: Servers, tmp_path: Path) -> None:
    file = tmp_path / "filler.gguf"
    server = await servers.start("llamacpp", FakeLlamaCpp)
    backend = servers.backend("llamacpp", server, files={"filler.gguf": file})
    announced = []
    for content in (b"GGUF one", b"GGUF one", b"GGUF the other"):
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
        (model,) = await backend.models()
        announced.append(model.sha256)
    one, other = (hashlib.sha256(content).hexdigest() for content in (b"GGUF one", b"GGUF the other"))
    assert announced == [one, one, other]


async def test_a_missing_file_is_named(servers: Servers, tmp_path: Path) -> None:
    server = await servers.start("llamacpp", FakeLlamaCpp)
    backend = servers.backend("llamacpp", server, files={"filler.gguf": tmp_path / "away.gguf"})
    with pytest.raises(WorkerUnavailable, match=r"away\.gguf cannot be read"):
        await backend.models()


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [(kind, prefix) for kind in SERVERS if kind != "litellm" for prefix in ("", DIALECTS[kind].prefix)],
)
async def test_it_is_recognised_with_and_without_its_prefix(servers: Servers, kind: str, prefix: str) -> None:
    server = await servers.start(kind)
    key = SecretStr(server.key) if server.key else None
    found = await detect(server.url + prefix, key)
    assert (found.kind, found.url) == (kind, server.url)
    assert "GET /" in found.why


async def test_llama_cpp_and_litellm_are_recognised(servers: Servers) -> None:
    assert (await detect((await servers.start("", FakeLlamaCpp)).url, None)).kind == "llamacpp"
    proxy = await servers.start("litellm")
    proxy.override["/health/liveliness"] = (200, b'"I\'m alive!"')
    assert (await detect(proxy.url, None)).kind == "litellm"


async def test_what_nobody_knows_is_refused_and_nobody_there_is_said(servers: Servers) -> None:
    server = await servers.start("openai")
    server.override["/v1/models"] = (200, b"<html>")
    with pytest.raises(WorkerRefused, match=r"no server that is known here: .* sent what cannot be read"):
        await detect(server.url, None)
    with pytest.raises(WorkerUnavailable, match="cannot be reached"):
        await detect("http://127.0.0.1:1", None)


@pytest.mark.parametrize("kind", SERVERS)
async def test_who_leaves_ends_the_servers_work(servers: Servers, kind: str) -> None:
    server = await servers.start(kind)
    server.endless = True
    backend = servers.backend(kind, server)
    begun = asyncio.Event()
    job = await job_for(backend)
    running = asyncio.create_task(backend.generate(job, SEED, PROVER, hear=lambda _: begun.set()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await server.left.wait()


async def test_its_key_goes_to_the_server_and_nowhere_else(servers: Servers) -> None:
    server = await servers.start("openwebui")
    backend = servers.backend("openwebui", server)
    with capture_logs() as logs:
        answer, _ = await heard(backend, await job_for(backend))
        server.override["/ollama/api/chat"] = (403, f'{{"detail": "{KEY} may not"}}'.encode())
        with pytest.raises(WorkerRefused) as refused:
            await heard(backend, await job_for(backend, messages=[ChatMessage(role="user", content="x")]))
    assert all(asked.headers["authorization"] == f"Bearer {KEY}" for asked in server.asked)
    assert str(refused.value).endswith("does not take the api_key: *** may not (HTTP 403, /ollama/api/chat)")
    assert KEY not in str([answer, logs, backend.__dict__, refused.value.__dict__])


async def test_proxies_of_the_environment_are_not_used(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    backend = servers.backend("openai", await servers.start("openai"))
    answer, _ = await heard(backend, await job_for(backend))
    assert answer["text"] == TEXT


STATUSES = [
    (400, WorkerRefused),
    (401, WorkerRefused),
    (404, WorkerRefused),
    (422, WorkerRefused),
    (500, WorkerRefused),
    (301, WorkerRefused),
    (408, WorkerUnavailable),
    (502, WorkerUnavailable),
    (504, WorkerUnavailable),
    (429, WorkerBusy),
    (503, WorkerBusy),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_a_status_says_whether_trying_again_may_help(
    servers: Servers, status: int, kind: type[Exception]
) -> None:
    server = await servers.start("openai")
    backend = servers.backend("openai", server)
    job = await job_for(backend)
    server.override["/v1/completions"] = (status, b'{"error": {"message": "its own words"}}')
    with pytest.raises(kind) as problem:
        await heard(backend, job)
    assert isinstance(problem.value, WorkerBusy) == (kind is WorkerBusy)
    assert ("redirects (HTTP 301)" if status == 301 else "its own words") in str(problem.value)
    server.override["/v1/models"] = (status, b"")
    with pytest.raises(WorkerUnavailable):
        await backend.models()


async def test_what_is_not_for_such_a_server_is_refused(servers: Servers) -> None:
    backend = servers.backend("ollama", await servers.start("ollama"))
    job = await job_for(backend)
    for other, execution in (
        (job, Execution("ab" * 32, Domain(1, "0x" + "00" * 20))),
        (JobSpec(tag="opml", prompt="x", model=job.model, image=ImageSpec()), None),
    ):
        with pytest.raises(WorkerRefused, match="prompts and messages of opml jobs only"):
            await backend.generate(other, SEED, PROVER, execution)
    with pytest.raises(WorkerRefused, match="cannot score"):
        await backend.score(job, Subject("ab" * 32, job.claim))  # type: ignore[arg-type]
    with pytest.raises(WorkerRefused, match="no enclave"):
        await backend.attestation("ab" * 32)
