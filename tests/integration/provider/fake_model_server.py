"""A shape-faithful fake of a model server with OpenAI's API (as Ollama's `/v1` has it): no model is behind it.

It streams the last message back, word by word. Its shapes are those of OpenAI's published API.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from aos_cli import ports


@dataclass
class FakeModelServer:
    """What it serves, the key that it wants, and what it was asked; `streams` is False for one that answers in one piece,
    `thinks` is True for one that comes to no answer.

    `listed` are the names that it lists, if those are others. It answers while `go` is set.
    """

    models: list[str] = field(default_factory=lambda: ["llama3:8b"])
    key: str | None = None
    listed: list[str] | None = None
    streams: bool = True
    thinks: bool = False
    broken: bool = False
    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/v1/models", self._models, methods=["GET"])
        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])
        return app

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FakeModelServer"]:
        """Listen on loopback, on the port if it is given."""
        with ports.reserve(port) as holder:
            self.port = ports.number(holder)
            config = uvicorn.Config(
                self.app(), host="127.0.0.1", port=self.port, log_config=None, lifespan="off"
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve())  # leaves signals to the tests
            while not server.started:
                await asyncio.sleep(0.005)
            try:
                yield self
            finally:
                server.should_exit = True
                server.force_exit = True
                await serving

    def _refusal(self, request: Request) -> Response | None:
        self.authorizations.append(request.headers.get("authorization"))
        if self.key is not None and self.authorizations[-1] != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided")
        return None

    async def _models(self, request: Request) -> Response:
        listed = [
            {"id": name, "object": "model", "owned_by": "library"} for name in self.listed or self.models
        ]
        return self._refusal(request) or JSONResponse({"object": "list", "data": listed})

    async def _chat(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        body = await request.json()
        self.asked.append(body)
        await self.go.wait()
        if body["model"] not in self.models:
            return _error(404, f"model '{body['model']}' not found")
        if self.broken:
            return _error(500, "the runner has ended unexpectedly")
        words = body["messages"][-1]["content"].split(" ")[: body["max_tokens"]]
        if not self.streams:
            message = {"role": "assistant", "content": " ".join(words)}
            whole = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({"id": "chatcmpl-1", "object": "chat.completion", "choices": [whole]})
        return StreamingResponse(self._chunks(body["model"], words), media_type="text/event-stream")

    async def _chunks(self, model: str, words: list[str]) -> AsyncIterator[str]:
        def event(**parts: Any) -> str:
            head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
            return f"data: {json.dumps(head | parts)}\n\n"

        def delta(content: str, reason: str | None = None) -> dict[str, Any]:
            return {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": reason}

        texts = [word if not place else f" {word}" for place, word in enumerate(words)]
        for text in [] if self.thinks else texts:
            yield event(choices=[delta(text)])
        for text in texts if self.thinks else []:
            yield event(choices=[delta("") | {"delta": {"content": None, "reasoning_content": text}}])
        yield event(choices=[delta("", "length" if self.thinks else "stop")])
        used = {
            "prompt_tokens": 7,
            "completion_tokens": len(words) + 1,
            "total_tokens": len(words) + 8,
        }
        yield event(choices=[], usage=used)
        yield "data: [DONE]\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "api_error", "code": None}}, status)
