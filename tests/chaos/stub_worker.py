"""A worker process without a model, over the worker's HTTP: `python stub_worker.py SOCKET NAME SHA256`.

It thinks for a moment about each request, so that faults find work under way.
"""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import uvicorn

from aos_operator.errors import WorkerRefused
from aos_operator.stub import ENGINE, stub_answer, stub_score
from aos_operator.subjects import Subject
from aos_protocol.job import Claim, JobSpec

_THOUGHT_S = 0.2

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]


class StubApp:
    """An ASGI application that serves one model."""

    def __init__(self, name: str, sha256: str) -> None:
        self._sha256 = sha256
        self._card = {"name": name, "sha256": sha256, "size": 1, "engine": ENGINE}

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "http" and (body := await _body(receive)) is not None:
            status, said = await self._answer(scope["path"], body)
            head = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    async def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/v1/models":
            return 200, {"models": [self._card]}
        await asyncio.sleep(random.uniform(0, _THOUGHT_S))
        request = json.loads(body)
        try:
            return 200, self._scored(request) if path == "/v1/score" else self._generated(request)
        except WorkerRefused as error:
            return 422, {"code": 422, "message": str(error)}

    def _generated(self, request: dict[str, Any]) -> dict[str, Any]:
        return stub_answer(_job(request, request), self._sha256, request["seed"], request["prover"])

    def _scored(self, request: dict[str, Any]) -> dict[str, Any]:
        [item] = request["items"]
        claim = Claim.model_validate({name: item[name] for name in Claim.model_fields if name in item})
        return stub_score(_job(item, request), self._sha256, Subject(item["subject"], claim))


async def _body(receive: _Receive) -> bytes | None:
    """The whole body, None of a client that has left before it was there."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _job(asked: dict[str, Any], request: dict[str, Any]) -> JobSpec:
    job = {name: asked[name] for name in ("prompt", "messages", "params") if name in asked}
    return JobSpec.model_validate({**job, "model": request["model"], "tag": "opml"})


if __name__ == "__main__":
    socket, *model = sys.argv[1:]
    uvicorn.run(StubApp(*model), uds=socket, loop="asyncio", lifespan="off", access_log=False)
