"""Fakes of model servers, in the shape of each one's public API documents, so that adapters can be tried where the real ones cannot run.

None of them runs a model: they answer `WORDS`, whatever is asked, and remember what that was.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

WORDS = ("Fire", " is", " hot", ".")
KEY = "sk-only-for-the-server"


@dataclass(frozen=True)
class Asked:
    """One request: its path, its headers in lower case, and its JSON."""

    path: str
    headers: dict[str, str]
    body: Any


class FakeServer:
    """Speaks HTTP. `override` are bytes that a path answers in place of what the server would; `key` must come as a Bearer token.

    With `endless`, text never ends; `left` is set when a client leaves in the middle.
    """

    key: str | None = None

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.override: dict[str, tuple[int, bytes]] = {}
        self.endless = False
        self.left = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        """Listen on loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    def get(self, path: str) -> Any:
        """The JSON that answers a GET; None where there is nothing."""
        raise NotImplementedError

    def stream(self, path: str, body: dict[str, Any]) -> Iterable[bytes] | None:
        """What answers a POST, piece by piece; None where there is nothing."""
        raise NotImplementedError

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of what was posted."""
        return [asked.body for asked in self.asked if asked.body is not None]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *rest = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
            path = first.split(" ")[1]
            self.asked.append(Asked(path, headers, json.loads(raw) if raw else None))
            await self._answer(path, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = self.asked[-1]
        if path in self.override:
            status, said = self.override[path]
            return _send(writer, status, said)
        if self.key is not None and asked.headers.get("authorization") != f"Bearer {self.key}":
            return _send(writer, 401, b'{"error": {"message": "Incorrect API key provided", "code": 401}}')
        if asked.body is None:
            said = self.get(path)
            if said is None:
                return _send(writer, 404, b'{"detail": "Not Found"}')
            return _send(writer, 200, json.dumps(said).encode())
        pieces = self.stream(path, asked.body)
        if pieces is None:
            return _send(writer, 404, b'{"detail": "Not Found"}')
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        gone = asyncio.ensure_future(reader.read())
        for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
            if gone.done():
                self.left.set()
                return None
        gone.cancel()
        writer.write(b"0\r\n\r\n")
        return await writer.drain()

    def words(self, body: dict[str, Any]) -> Iterable[tuple[int, str]]:
        """The words to say, with their numbers, as many as `max_tokens` of whatever name allows."""
        most = body.get("max_tokens", body.get("options", {}).get("num_predict", 99))
        if self.endless:
            return enumerate(iter(lambda: " on", None))
        return enumerate(WORDS[:most])


def _send(writer: asyncio.StreamWriter, status: int, said: bytes) -> None:
    kind = "Content-Type: application/json"
    head = f"HTTP/1.1 {status} X\r\n{kind}\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + said)


class FakeOllama(FakeServer):
    """A shape-faithful fake of Ollama: docs/api.md of its repository."""

    model = "codellama:7b-code"
    prefix = ""

    def get(self, path: str) -> Any:
        if path == f"{self.prefix}/api/version":
            return {"version": "0.12.11"}
        if path == f"{self.prefix}/api/tags":
            details = {
                "format": "gguf",
                "family": "llama",
                "parameter_size": "7B",
                "quantization_level": "Q4_0",
            }
            tag = {"name": self.model, "model": self.model, "modified_at": "2025-01-01T00:00:00Z"}
            return {"models": [{**tag, "size": 3825898144, "digest": "8df0a30bb1e6" * 5, "details": details}]}
        return None

    def stream(self, path: str, body: dict[str, Any]) -> Iterable[bytes] | None:
        chat = path == f"{self.prefix}/api/chat"
        if not chat and path != f"{self.prefix}/api/generate":
            return None
        return self._lines(body, chat=chat)

    def _lines(self, body: dict[str, Any], *, chat: bool) -> Iterable[bytes]:
        common = {"model": body["model"], "created_at": "2025-01-01T00:00:00.0Z"}
        said = 0
        for said, (_, word) in enumerate(self.words(body), 1):  # noqa: B007
            text = {"message": {"role": "assistant", "content": word}} if chat else {"response": word}
            yield _line({**common, **text, "done": False})
        empty = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
        reason = "stop" if said == len(WORDS) else "length"
        counts = {"prompt_eval_count": 7, "eval_count": said, "total_duration": 1, "eval_duration": 1}
        yield _line({**common, **empty, "done": True, "done_reason": reason, **counts})


class FakeOpenWebUi(FakeOllama):
    """A shape-faithful fake of Open WebUI in front of Ollama: its paths below `/ollama`, with a key of its own."""

    key = KEY
    prefix = "/ollama"


class FakeOpenAi(FakeServer):
    """A shape-faithful fake of a server with OpenAI's API, as its own API reference has it."""

    model = "gpt-of-nobody"
    owner = "somebody"
    more: dict[str, Any] = {}  # noqa: RUF012

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            entry = {"id": self.model, "object": "model", "created": 1, "owned_by": self.owner}
            return {"object": "list", "data": [entry]}
        return None

    def stream(self, path: str, body: dict[str, Any]) -> Iterable[bytes] | None:
        if path not in {"/v1/chat/completions", "/v1/completions"}:
            return None
        return self._events(body, chat=path.endswith("/chat/completions"))

    def ending(self, reason: str) -> dict[str, Any]:
        """What else the last choice has."""
        del reason
        return {}

    def shown(self, number: int, word: str, body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
        """What a choice shows of a token."""
        del number, word, body, chat
        return {"logprobs": None}

    def _events(self, body: dict[str, Any], *, chat: bool) -> Iterable[bytes]:
        kind = "chat.completion.chunk" if chat else "text_completion"
        common = {"id": "x-1", "object": kind, "created": 1, "model": body["model"]}
        if chat:
            yield _event({**common, "choices": [_choice({"delta": {"role": "assistant", "content": ""}})]})
        said = 0
        for said, (number, word) in enumerate(self.words(body), 1):  # noqa: B007
            text = {"delta": {"content": word}} if chat else {"text": word}
            yield _event({**common, "choices": [_choice(text | self.shown(number, word, body, chat=chat))]})
        reason = "stop" if said == len(WORDS) else "length"
        last = ({"delta": {}} if chat else {"text": ""}) | self.ending(reason)
        yield _event({**common, "choices": [_choice(last, reason)]})
        usage = {"prompt_tokens": 7, "completion_tokens": said, "total_tokens": 7 + said}
        yield _event({**common, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


class FakeVllm(FakeOpenAi):
    """A shape-faithful fake of vLLM's server: logprobs, `token_ids` where they are asked for, and `stop_reason`."""

    model = "deepseek-ai/deepseek-coder-6.7b-base"
    owner = "vllm"

    def ending(self, reason: str) -> dict[str, Any]:
        del reason
        return {"stop_reason": None, "token_ids": []}

    def shown(self, number: int, word: str, body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
        ids = [1000 + number] if body.get("return_token_ids") else None
        if not body.get("logprobs"):
            return {"logprobs": None, "token_ids": ids}
        if chat:
            tops = [{"token": word, "logprob": -0.5, "bytes": None}]
            shown: dict[str, Any] = {
                "content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": tops}]
            }
        else:
            shown = {"tokens": [word], "token_logprobs": [-0.5], "text_offset": [0]}
            shown["top_logprobs"] = [{word: -0.5, "?": -2.5}]
        return {"logprobs": shown, "token_ids": ids}


class FakeLmStudio(FakeOpenAi):
    """A shape-faithful fake of LM Studio, which answers 200 with an error for paths that it does not have."""

    model = "codellama-7b.Q5_K_M.gguf"
    owner = "organization_owner"

    def get(self, path: str) -> Any:
        if path == "/api/v0/models":
            entry = {"id": self.model, "object": "model", "type": "llm", "arch": "llama", "state": "loaded"}
            return {"object": "list", "data": [entry]}
        return super().get(path) or {"error": f"Unexpected endpoint or method. (GET {path})"}


class FakeOobabooga(FakeOpenAi):
    """A shape-faithful fake of text-generation-webui's OpenAI extension."""

    model = "starcoder2-3b"
    owner = "user"

    def get(self, path: str) -> Any:
        if path == "/v1/internal/model/info":
            return {"model_name": self.model, "lora_names": []}
        return super().get(path)


class FakeSglang(FakeOpenAi):
    """A shape-faithful fake of SGLang's server, which says by which token or text an answer was ended."""

    model = "Qwen/Qwen2.5-Coder-7B"
    owner = "sglang"

    def ending(self, reason: str) -> dict[str, Any]:
        return {"matched_stop": 151643 if reason == "stop" else None}


class FakeLlamaCpp(FakeServer):
    """A shape-faithful fake of llama.cpp's server with a model that has tokens for filling in, which the demo model has not."""

    def get(self, path: str) -> Any:
        if path == "/props":
            return {"default_generation_settings": {"n_ctx": 512}, "build_info": "b6000-0"}
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": "/models/filler.gguf", "object": "model"}]}
        return None

    def stream(self, path: str, body: dict[str, Any]) -> Iterable[bytes] | None:
        if path not in {"/completion", "/infill"}:
            return None
        last = {"stop": True, "stop_type": "eos", "tokens_predicted": 2, "tokens_evaluated": 7}
        if not body.get("stream"):
            return [json.dumps({**last, "content": "a + b", "tokens": [5, 6]}).encode()]
        piece = {"stop": False, "content": "a + b", "tokens": [6], "tokens_predicted": 2}
        return [_event(piece), _event({**last, "content": "", "tokens": []})]


def _choice(said: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "finish_reason": reason, **said}


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"
