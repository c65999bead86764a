"""The answer to a request for images: it follows its job, and gives it up when the client leaves. Images are sent as they are read."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aos_dispatcher.blobs import Blobs
from aos_dispatcher.following import Answered, Broken, Following
from aos_dispatcher.gateway.chunks import SUCCESS, ending
from aos_dispatcher.gateway.errors import JobFailed
from aos_dispatcher.gateway.responses import unless_left
from aos_dispatcher.gateway.throttle import told
from aos_dispatcher.tables import JsonObject
from aos_protocol.messages import JobResult
from aos_protocol.record import ImageRecord
from aos_protocol.shown import read_record, unscorable

log = structlog.get_logger()

_LEFT: Final = "its client left before the answer was there"


@dataclass(frozen=True)
class Painting:
    """A job for images that was submitted, and how its answer is told: by URLs that begin with `base`, or with the images in it."""

    job_id: str
    prompt: str
    created: int
    base: str
    inline: bool
    headers: dict[str, str]


class ImagesAnswer(Response):
    """One JSON document, once the job has its answer. Raises `JobFailed` when it has none."""

    def __init__(self, following: Following, blobs: Blobs, painting: Painting) -> None:
        super().__init__()
        self._following = following
        self._blobs = blobs
        self._painting = painting

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        with told(self._painting.headers):
            await unless_left(receive, self._run(send))

    async def _run(self, send: Send) -> None:
        result = await self._result()
        images = read_record(result.record).images or []
        kept = [await self._blobs.of_result(result.job_id, result.operator, image.sha256) for image in images]
        told = document(self._painting, result, images)
        headers = self._painting.headers | {"content-type": "application/json"}
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        if self._painting.inline:
            async for part in _with_images(told, [self._blobs.read(one.id) for one in kept]):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    async def _result(self) -> JobResult:
        """Wait for the answer; a job that nobody waits for any more is given up."""
        job, over = self._painting.job_id, False
        try:
            async with self._following.follow(job) as news:
                async for said in news:
                    over = isinstance(said, Answered | Broken)
                    if isinstance(said, Answered):
                        return said.result
                    if isinstance(said, Broken):
                        raise JobFailed(
                            f"job {job} has no images: {said.reason}", job_id=job, status=said.status
                        )
        finally:
            if not over:
                log.info("a job is given up", job_id=job, why=_LEFT)
                await self._following.abandon(job, _LEFT, failed=False)
        raise JobFailed(f"job {job} was followed to no end", job_id=job, status=500)


def document(painting: Painting, result: JobResult, images: list[ImageRecord]) -> JsonObject:
    """Return the answer in OpenAI's form and DBC's at once, yet without images in it: of `b64_json` and `url`, the one that is not asked for is empty."""
    data = [
        {
            "b64_json": "",
            "url": "" if painting.inline else f"{painting.base}/v1/images/{image.sha256}",
            "revised_prompt": painting.prompt,
        }
        for image in images
    ]
    facts = ending(result, ()).aos | {
        "verdict": "inconclusive",
        "reason": unscorable(read_record(result.record), result.model),
        "images": [image.to_json() for image in images],
    }
    return {"created": painting.created, "data": data, "aos": facts} | SUCCESS


async def _with_images(told: JsonObject, images: list[AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    """Yield a document's JSON piece by piece, with each image's bytes as its `b64_json`."""
    entries = told.pop("data")
    yield json.dumps(told).encode()[:-1] + b', "data": ['
    for number, (entry, image) in enumerate(zip(entries, images, strict=True)):
        rest = json.dumps({name: value for name, value in entry.items() if name != "b64_json"}).encode()
        yield (b", " if number else b"") + b'{"b64_json": "'
        async for part in _base64(image):
            yield part
        yield b'", ' + rest[1:]
    yield b"]}"


async def _base64(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the base64 of bytes that come in pieces of any length."""
    rest = b""
    async for chunk in chunks:
        data = rest + chunk
        whole = len(data) // 3 * 3
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)
