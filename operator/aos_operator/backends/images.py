"""Servers that make images, as OpenAI's API has it, and DBC's documents after it: `POST /v1/images/generations` and `/v1/images/edits`.

What comes is held against what was asked by whoever asked (`studio`). Nothing shows how an image was made, so an answer's record is of level
text, and nobody can score it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import SecretStr

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.backends.upstream import Upstream, error_words
from aos_operator.boundary import keep_cancellation
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.canonical import JsonValue
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import ModelKind
from aos_protocol.images import decode_image, encode_part, image_record, images_text, read_header
from aos_protocol.job import MAX_IMAGES, ImageSpec, JobSpec
from aos_protocol.messages import ServedModel
from aos_protocol.record import Record, named_model_digest

PATHS: Final[Mapping[ModelKind, str]] = {1: "/v1/images/generations", 2: "/v1/images/edits"}
"""Where such a server makes images of texts, and of images and texts, unless it says otherwise."""

BACKEND: Final = "images"
"""What records call this kind of server."""

_MOST_BYTES: Final = 16 << 20
"""How large an image may be."""

_ANSWER_BYTES: Final = MAX_IMAGES * (_MOST_BYTES * 4 // 3 + 4096) + 65_536
_QUICK_S: Final = 10.0
_GOOD: Final = (None, 0, 200)
_PORTS: Final = {"http": 80, "https": 443}


class ImagesBackend:
    """`Backend` and `Painter` on one server; `endpoints` are its addresses by the kind of job, `models` its names by those on the network.

    `key` goes to it as a Bearer token, `timeout` is for one answer, in seconds. Raises `ValueError` for endpoints of several servers.
    """

    def __init__(
        self,
        endpoints: Mapping[ModelKind, str],
        models: Mapping[str, str],
        key: SecretStr | None,
        timeout: float,
    ) -> None:
        parts = {kind: urlsplit(url) for kind, url in endpoints.items()}
        origins = {_origin(each) for each in parts.values()}
        if len(origins) != 1:
            raise ValueError("the endpoints of a backend for images are of one and the same server")
        [self._origin] = origins
        base = "{0.scheme}://{0.netloc}".format(next(iter(parts.values())))
        self._server = _Server(base, key, timeout)
        self._paths = {
            kind: each.path + (f"?{each.query}" if each.query else "") for kind, each in parts.items()
        }
        self._models = dict(models)
        self._edits_by_form = True

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`. A server that answers is there, whatever it answers: many list no models."""
        await self._server.reach()
        kinds: list[ModelKind] = sorted(self._paths)
        return [
            ServedModel(name=name, sha256=named_model_digest(name), evidence="text", kinds=kinds, able=[])
            for name in self._models
        ]

    async def paint(self, job: JobSpec, image: ImageSpec, source: bytes | None) -> dict[str, Any]:
        """See `Painter.paint`."""
        path, name = self._paths.get(image.kind), self._models.get(job.model)
        if path is None or name is None:
            raise WorkerRefused(f"this server makes no images of kind {image.kind} with model {job.model}")
        asked = {
            "model": name,
            "prompt": job.prompt,
            "n": image.n,
            "size": f"{image.width}x{image.height}",
            "response_format": "b64_json",
        }
        answer = await (self._server.make(path, asked) if source is None else self._edit(path, asked, source))
        made = [await self._bytes(entry) for entry in _entries(answer, image.n)]
        try:
            images = [image_record(data) for data in made]
        except InvalidMessage as error:
            raise WorkerRefused(f"what the server made cannot be used: {error}") from error
        record = Record(level="text", backend=BACKEND, images=images)
        blobs = {one.sha256: data for one, data in zip(images, made, strict=True)}
        return {"text": images_text(images), "record": record.to_json(), "blobs": blobs}

    async def generate(
        self,
        job: JobSpec,
        seed: str,  # noqa: ARG002
        prover: str,  # noqa: ARG002
        execution: Execution | None = None,  # noqa: ARG002
        hear: Hear | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """See `Backend.generate`. Here is no text."""
        raise WorkerRefused(f"model {job.model} makes images, and no text")

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`. Nothing can be scored here."""
        raise WorkerRefused(f"images are not scored, nor is {subject.digest} of model {job.model}")

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`. Here is no enclave."""
        raise WorkerRefused(f"a server for images is no enclave, and attests nothing on {nonce}")

    async def _edit(self, path: str, asked: dict[str, Any], source: bytes) -> JsonValue:
        """Have an image edited: sent as a form, which is OpenAI's way, or to a server that refuses forms in JSON, as a data: URL in DBC's field."""
        media_type = read_header(source).media_type
        if self._edits_by_form:
            try:
                return await self._server.edit(path, asked, source, media_type)
            except WorkerRefused as refused:
                said = refused
        else:
            said = None
        try:
            answer = await self._server.make(
                path, asked | {"image": f"data:{media_type};base64,{encode_part(source)}"}
            )
        except WorkerRefused as refused:
            raise said or refused from None
        self._edits_by_form = False
        return answer

    async def _bytes(self, entry: Mapping[str, Any]) -> bytes:
        """Return an image's bytes, which came with the answer or are at an address of the same server."""
        try:
            if entry.get("b64_json"):
                return decode_image(entry["b64_json"])
            url = entry.get("url")
            if not isinstance(url, str) or not url:
                raise WorkerRefused("the server's answer has neither b64_json nor url for an image")
            if url.startswith("data:"):
                return decode_image(url.partition(";base64,")[2])
        except InvalidMessage as error:
            raise WorkerRefused(f"the server's answer cannot be read: {error}") from error
        return await self._server.fetch("GET", self._path_of(url), _MOST_BYTES)

    def _path_of(self, url: str) -> str:
        """Return the path of an address on this very server. Raises `WorkerRefused` for any other: nobody else is asked."""
        try:
            parts = urlsplit(url)
            bare = not parts.netloc and not parts.scheme
            same = bare or ("@" not in parts.netloc and _origin(parts) == self._origin)
        except ValueError:
            same = False
        if not same or not parts.path.startswith("/"):
            raise WorkerRefused(
                "the server's images are elsewhere, where nothing is fetched from: have it answer b64_json"
            )
        return parts.path + (f"?{parts.query}" if parts.query else "")


class _Server(Upstream):
    """The server, asked for more than text."""

    async def reach(self) -> None:
        """Return if it answers. Raises `WorkerUnavailable`."""
        try:
            async with asyncio.timeout(_QUICK_S):
                await self.fetch("GET", "/v1/models", _MOST_BYTES)
        except TimeoutError as error:
            raise WorkerUnavailable(f"{self.base} does not answer") from error
        except WorkerRefused:
            return

    async def make(self, path: str, asked: Mapping[str, Any]) -> JsonValue:
        """Return the JSON that answers this JSON."""
        return self.read_answer(await self.fetch("POST", path, _ANSWER_BYTES, {"json": dict(asked)}))

    async def edit(self, path: str, asked: Mapping[str, Any], source: bytes, media_type: str) -> JsonValue:
        """Return the JSON that answers a form with an image."""
        name = f"image.{media_type.partition('/')[2]}"
        content = {
            "data": {key: str(value) for key, value in asked.items()},
            "files": {"image": (name, source, media_type)},
        }
        return self.read_answer(await self.fetch("POST", path, _ANSWER_BYTES, content))

    def read_answer(self, body: bytes) -> JsonValue:
        """Return the JSON value of an answer. Raises `WorkerRefused` for an error, DBC's with status 200 among them."""
        answer: JsonValue = self.read(body.decode(errors="replace"))
        if isinstance(answer, dict) and answer.get("code") not in _GOOD:
            raise WorkerRefused(f"{self.base} refused: {self.said(error_words(answer))}")
        return answer

    async def fetch(
        self, method: str, path: str, most: int, content: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return the body of a good answer, of so many bytes at most. `content` is what httpx calls it."""
        with self._translated(lambda: WorkerUnavailable):
            try:
                async with (
                    asyncio.timeout(self._timeout),
                    self._client.stream(method, self.base + path, **(content or {})) as response,
                ):
                    await self._check(response)
                    body = await _bounded(response, most)
            except TimeoutError as error:
                raise WorkerUnavailable(f"{self.base} did not answer within {self._timeout:g} s") from error
        keep_cancellation()
        return body


async def _bounded(response: httpx.Response, most: int) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > most:
            raise WorkerRefused(f"{response.url.path} sent more than {most} bytes: that is no image")
    return bytes(body)


def _entries(answer: object, wanted: int) -> list[dict[str, Any]]:
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise WorkerRefused("the server's answer has no list of images as data")
    if len(entries) != wanted:
        raise WorkerRefused(f"the server made {len(entries)} images, and {wanted} were asked for")
    return entries


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    """Return an address's scheme, host and port (RFC 6454). Raises `ValueError` for one that has none."""
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("an endpoint is http://host:port/path or https://host/path")
    return parts.scheme, parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port
