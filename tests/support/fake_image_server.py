"""A shape-faithful FAKE of a server that makes images by OpenAI's API, or in DBC's way. It makes real PNGs of the asked size, of one colour.

No model is behind it: the colour is that of a digest of what was asked, so that the same question has the same image.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from support.pictures import png

Bend = Callable[[dict[str, Any]], dict[str, Any]]


class FakeImageServer:
    """`requests` are the bodies that came, `uploads` the images to be edited. `bend` changes an answer, `status` is its status.

    With `by_url`, images are at addresses (under `host`, if that is set) whatever was asked for; without `takes_forms` it wants JSON.
    """

    def __init__(self) -> None:
        self.url = ""
        self.host = ""
        self.requests: list[dict[str, Any]] = []
        self.uploads: list[bytes] = []
        self.keys: list[str | None] = []
        self.made: dict[str, bytes] = {}
        self.files: dict[str, Response] = {}
        self.bend: Bend = lambda answer: answer
        self.status = 200
        self.by_url = False
        self.takes_forms = True
        self.size: tuple[int, int] | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeImageServer"]:
        """Listen on loopback."""
        routes = [
            Route("/v1/images/generations", self._generate, methods=["POST"]),
            Route("/v1/images/edits", self._edit, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/made/{name}", self._file),
            Route("/file/{name}", self._file),
        ]
        config = uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            yield self
        finally:
            self.go.set()
            server.should_exit = True
            await serving

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "sd-fake", "object": "model"}]})

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name in self.files:
            return self.files[name]
        if name == "again":
            return RedirectResponse(request.query_params["to"])
        return Response(self.made[name], media_type="image/png")

    async def _generate(self, request: Request) -> Response:
        return await self._answer(request, await request.json(), b"")

    async def _edit(self, request: Request) -> Response:
        if request.headers["content-type"].startswith("application/json"):
            asked = await request.json()
            source = base64.b64decode(asked["image"].partition(",")[2])
            return await self._answer(request, asked, source)
        if not self.takes_forms:
            return JSONResponse({"code": 415, "message": "send JSON"}, 415)
        async with request.form() as form:
            file = form["image"]
            assert isinstance(file, UploadFile)
            asked = {name: value for name, value in form.items() if isinstance(value, str)}
            source = await file.read()
        return await self._answer(request, asked | {"n": int(str(asked["n"]))}, source)

    async def _answer(self, request: Request, asked: dict[str, Any], source: bytes) -> Response:
        self.requests.append(asked)
        self.keys.append(request.headers.get("authorization"))
        self.asked.set()
        if source:
            self.uploads.append(source)
        await self.go.wait()
        width, height = self.size or map(int, asked["size"].split("x"))
        images = [self._paint(asked, number, source, width, height) for number in range(asked["n"])]
        if self.by_url or asked.get("response_format") == "url":
            data = [
                {"b64_json": "", "url": f"{self.host or self.url}/made/{name}"}
                for name in map(self._put, images)
            ]
        else:
            data = [{"b64_json": base64.b64encode(image).decode(), "url": ""} for image in images]
        said = {"code": 0, "message": "success", "created": 1_700_000_000, "data": data}
        return JSONResponse(self.bend(said), self.status)

    def _put(self, image: bytes) -> str:
        name = hashlib.sha256(image).hexdigest()[:16]
        self.made[name] = image
        return name

    def _paint(self, asked: dict[str, Any], number: int, source: bytes, width: int, height: int) -> bytes:
        named = f"{asked['model']} {asked['prompt']} {number}".encode() + source
        red, green, blue = hashlib.sha256(named).digest()[:3]
        return png(width, height, (red, green, blue))
