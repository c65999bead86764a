"""Servers that answer in other shapes than OpenAI's, or not as they were asked to: taken where that is harmless, named where it is not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_cli.doctor_backend import backend_findings
from aos_cli.findings import Finding
from aos_operator.backends.detect import detect
from aos_operator.backends.dialects import Source
from aos_operator.backends.router import Router
from aos_operator.backends.text import TextBackend
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_protocol.job import ChatMessage, JobSpec, Params
from integration.operator.model_servers import FakeLlamaCpp, FakeOpenAi, FakeServer

SEED, PROVER = "ab" * 32, "0x" + "11" * 20
WHOLE = {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": "Fire"}}]}
DBC_ERROR = {"code": 1001, "message": "the GPU is out of memory"}
CHAT = [ChatMessage(role="user", content="What is AI?")]


class FakeDbc(FakeOpenAi):
    """A shape-faithful fake of a model server as DBC's AI model interface describes it: its list has `model` and `url`."""

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            entry = {"model": self.model, "url": "http://127.0.0.1:1088/v1/chat/completions"}
            return {"project": "DecentralGPT", "data": [entry]}
        return None


class FakeInterrupted(FakeOpenAi):
    """A fake of `llama_cpp.server` as it is started by default: asked anything else, it ends the answer that it is giving.

    Here it ends none before. The first `whole` answers are given as by any other server.
    """

    def __init__(self, whole: int = 0) -> None:
        super().__init__()
        self.whole = whole
        self.disturbed = asyncio.Event()
        self.answering = False

    def get(self, path: str) -> Any:
        if self.answering:
            self.disturbed.set()
        return super().get(path)

    async def _answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = self.asked[-1].body
        if body is None or self.whole:
            self.whole -= body is not None
            await super()._answer(path, reader, writer)
            return
        self.answering = True
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        delta = {"index": 0, "delta": {"content": "Fire"}, "finish_reason": None}
        writer.write(b"data: " + json.dumps({"choices": [delta]}).encode() + b"\n\n")
        await self.disturbed.wait()
        self.answering = False
        writer.write(b"data: [DONE]\n\n")


class FakeThinker(FakeOpenAi):
    """A shape-faithful fake of a server whose model thinks, as vLLM and DeepSeek show that: `reasoning_content` beside no content."""

    def words(self, body: dict[str, Any]) -> Any:
        return enumerate([""] * body["max_tokens"])

    def shown(self, number: int, word: str, body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
        del number, word, body, chat
        return {"delta": {"content": None, "reasoning_content": "hm"}}


@asynccontextmanager
async def backend_on(server: FakeServer, kind: str = "openai", **more: Any) -> AsyncIterator[TextBackend]:
    async with server.serving():
        backend = TextBackend(Source(kind, server.url, timeout=30, **more))
        yield backend
        await backend.close()


async def ask(backend: TextBackend, model: str = FakeOpenAi.model, hear: Any = None) -> dict[str, Any]:
    job = JobSpec(tag="opml", messages=CHAT, model=model, params=Params(max_tokens=8), stream=True)
    return await backend.generate(job, SEED, PROVER, hear=hear or (lambda _: None))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (WHOLE, "answers, and does not stream"),
        (DBC_ERROR, "broke off: the GPU is out of memory"),
        ({"error": {"message": "the GPU is out of memory"}}, "broke off: the GPU is out of memory"),
    ],
)
async def test_json_in_place_of_a_stream_is_named(said: Any, words: str, indent: int | None) -> None:
    server = FakeOpenAi()
    server.override["/v1/chat/completions"] = 200, json.dumps(said, indent=indent).encode()
    async with backend_on(server) as backend:
        with pytest.raises(WorkerRefused, match=words):
            await ask(backend)


async def test_an_error_of_dbcs_shape_is_one_in_a_stream_too() -> None:
    server = FakeOpenAi()
    server.override["/v1/chat/completions"] = 200, b"data: " + json.dumps(DBC_ERROR).encode() + b"\n\n"
    async with backend_on(server) as backend:
        with pytest.raises(WorkerRefused, match="broke off: the GPU is out of memory"):
            await ask(backend)


async def test_dbcs_code_of_success_is_none() -> None:
    server = FakeOpenAi()
    choice = {"delta": {"content": "Fire"}, "finish_reason": "stop"}
    success = json.dumps({"code": 0, "message": "success", "choices": [choice]}).encode()
    server.override["/v1/chat/completions"] = 200, b"data: " + success + b"\n\ndata: [DONE]\n\n"
    async with backend_on(server) as backend:
        assert (await ask(backend))["text"] == "Fire"


async def test_a_list_of_dbcs_shape_is_read_and_recognised() -> None:
    server = FakeDbc()
    async with backend_on(server) as backend:
        assert [model.name for model in await backend.models()] == [server.model]
        found = await detect(server.url, None)
    assert (found.kind, found.url) == ("openai", server.url)
    assert "as DBC's servers do" in found.why


async def test_a_model_may_be_named_as_it_is_announced() -> None:
    """llama.cpp lists its file by its whole path, of which doctor and the network show the last part."""
    async with backend_on(FakeLlamaCpp(), "llamacpp", models={"ours": "filler.gguf"}) as backend:
        assert [model.name for model in await backend.models()] == ["ours"]
        await backend.generate(JobSpec(tag="opml", prompt="x", model="ours"), SEED, PROVER)


async def test_a_name_that_the_server_does_not_have_is_told_once() -> None:
    async with backend_on(FakeOpenAi(), models={"ours": "gpt-of-somebody"}) as backend:
        with capture_logs() as logs:
            assert await backend.models() == []
            assert await backend.models() == []
    [told] = [log for log in logs if "does not have what settings name" in log["event"]]
    assert (told["models"], told["it_has"]) == (["gpt-of-somebody"], [FakeOpenAi.model])


async def test_a_file_of_a_model_that_is_not_served_is_told(tmp_path: Path) -> None:
    async with backend_on(FakeOpenAi(), files={"filler": tmp_path / "filler.gguf"}) as backend:
        with capture_logs() as logs:
            assert [model.name for model in await backend.models()] == [FakeOpenAi.model]
    assert [log["models"] for log in logs if "does not have what settings name" in log["event"]] == [
        ["filler"]
    ]


async def test_a_server_of_another_kind_than_settings_say_is_to_be_looked_at() -> None:
    async with backend_on(FakeOpenAi(), "ollama") as backend:
        with pytest.raises(WorkerUnavailable, match="`aos doctor --backend` tells which kind that is"):
            await backend.models()


async def test_a_server_that_wants_a_key_is_not_said_to_refuse_one() -> None:
    server = FakeOpenAi()
    server.key = "sk-needed"
    async with backend_on(server) as backend:
        with pytest.raises(WorkerUnavailable, match="wants an api_key"):
            await backend.models()


async def test_an_answer_that_was_broken_off_says_what_to_do() -> None:
    server = FakeInterrupted()
    async with backend_on(server) as backend:
        await backend.models()
        server.disturbed.set()
        with pytest.raises(WorkerRefused, match="--interrupt_requests False"):
            await ask(backend)


async def test_a_server_at_work_is_not_asked_for_what_settings_name() -> None:
    server = FakeInterrupted()
    async with backend_on(server, models={"ours": server.model}) as backend:
        offered = await backend.models()
        began = asyncio.Event()
        asking = asyncio.create_task(ask(backend, "ours", lambda _: began.set()))
        async with asyncio.timeout(20):
            await began.wait()
            assert await backend.models() == offered
            assert not server.disturbed.is_set()
            server.disturbed.set()
            with pytest.raises(WorkerRefused):
                await asking
        asked = len(server.asked)
        assert await backend.models() == offered
        assert len(server.asked) == asked + 1


async def test_a_router_knows_who_is_at_work() -> None:
    server, router = FakeInterrupted(), Router()
    async with backend_on(server) as backend:
        router.put("it", backend)
        await router.models()
        began = asyncio.Event()
        job = JobSpec(tag="opml", messages=CHAT, model=server.model, stream=True)
        asking = asyncio.create_task(router.generate(job, SEED, PROVER, hear=lambda _: began.set()))
        async with asyncio.timeout(20):
            await began.wait()
            assert router.busy("it")
            server.disturbed.set()
            await asyncio.wait([asking])
        assert isinstance(asking.exception(), WorkerRefused)
        assert not router.busy("it")
        assert not router.busy("unknown")


async def findings(url: str) -> dict[str, Finding]:
    return {finding.name: finding async for finding in backend_findings(url, None)}


async def test_doctor_notices_a_server_that_breaks_off_when_it_is_asked_something_else() -> None:
    server = FakeInterrupted(whole=1)  # the question before the stream
    async with server.serving(), asyncio.timeout(20):
        found = await findings(server.url)
    assert found["backend chat"].status == "PASS"
    assert found["backend streaming"].status == "FAIL"
    assert "--interrupt_requests False" in found["backend streaming"].what


async def test_doctor_does_not_say_of_a_model_that_thinks_that_its_server_does_not_stream() -> None:
    server = FakeThinker()
    async with server.serving():
        found = await findings(server.url)
    assert found["backend chat"].status == "PASS"
    for name in ("backend streaming", "backend logprobs"):
        assert found[name].status == "SKIP"
        assert "said nothing in 24 tokens" in found[name].what
    assert "evidence" not in found["backend settings"].what


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "", "unix://no/path"])
async def test_what_is_no_url_is_refused_in_words(url: str) -> None:
    with pytest.raises(WorkerRefused, match=r"http://host:port"):
        await detect(url, None)


async def test_our_own_worker_is_recognised_on_a_unix_socket(tmp_path: Path) -> None:
    worker, socket = FakeServer(), tmp_path / "worker.sock"
    model = {"name": "m", "sha256": "ab" * 32}
    worker.override["/v1/models"] = 200, json.dumps({"models": [model]}).encode()
    server = await asyncio.start_unix_server(worker._serve, socket)
    async with server:
        found = await detect(f"unix://{socket}", None)
    assert (found.kind, found.url) == ("worker", f"unix://{socket}")
    with pytest.raises(WorkerUnavailable, match="cannot be reached"):
        await detect(f"unix://{tmp_path}/nothing.sock", None)
