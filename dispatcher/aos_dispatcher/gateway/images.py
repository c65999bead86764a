"""POST /v1/images/generations and /v1/images/edits, and GET /v1/images/{sha256}: images as OpenAI's clients and DBC's ask for them (docs/images.md)."""

import re
import time
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Request
from starlette.responses import Response, StreamingResponse

from aos_dispatcher.api import IdempotencyKey, Service, Token
from aos_dispatcher.blobs import Kept
from aos_dispatcher.body import json_body
from aos_dispatcher.errors import NotFetched, NotFound, TooLarge
from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.images_answer import ImagesAnswer, Painting
from aos_dispatcher.gateway.images_form import is_form, read_form
from aos_dispatcher.gateway.images_requests import EditsRequest, ImagesRequest, parse_images, typed
from aos_dispatcher.gateway.served import Served, find
from aos_dispatcher.gateway.shapes import ERRORS, ImagesDocument, answered_images
from aos_dispatcher.gateway.submitting import job_headers, name_of, submit_one
from aos_dispatcher.gateway.throttle import admit, told
from aos_dispatcher.openapi import json_request
from aos_dispatcher.service import Dispatcher
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Hex32, ModelKind
from aos_protocol.images import Header, read_header

router = APIRouter(prefix="/v1", tags=["gateway"], responses=ERRORS)

LARGEST_SIDE: Final = 8192
"""Pixels of an image to be edited, in width or height: who decodes a larger one may run out of memory."""

_OWN_IMAGE = re.compile(r"/v1/images/([0-9a-f]{64})")
_MAKES: Final = {1: "makes no images of texts", 2: "edits no images"}
_FORM: Final = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["model", "prompt", "image"],
            "properties": {
                name: {"type": "string"}
                for name in ("model", "prompt", "n", "size", "width", "height", "response_format", "user")
            }
            | {"image": {"type": "string", "format": "binary"}},
        }
    }
}


def _json_or_form() -> dict[str, object]:
    described = json_request(EditsRequest)
    described["requestBody"]["content"] |= _FORM
    return described


@router.post(
    "/images/generations",
    response_model=None,
    responses=answered_images(ImagesDocument),
    openapi_extra=json_request(ImagesRequest),
)
async def generations(
    request: Request, service: Service, token: Token, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make images of a prompt. They are one job, whose result is signed as any, and not scored."""
    project = await service.projects.owner(token, "submit")
    asked = parse_images(ImagesRequest, await json_body(request))
    headers = await admit(request, service, project, asked.n)
    with told(headers):
        model = await _model(service, asked.model, 1)
        return await _answer(
            request, service, token, asked, model=model, headers=headers, key=idempotency_key
        )


@router.post(
    "/images/edits",
    response_model=None,
    responses=answered_images(ImagesDocument),
    openapi_extra=_json_or_form(),
)
async def edits(
    request: Request, service: Service, token: Token, idempotency_key: IdempotencyKey = None
) -> Response:
    """Change an image as a prompt says: one that comes in a form, or that a JSON body names by its URL."""
    project = await service.projects.owner(token, "submit")
    image: bytes | None = None
    asked: ImagesRequest
    if is_form(request):
        form = await read_form(request, service.settings.limits)
        asked, image = parse_images(ImagesRequest, typed(form.fields)), form.image
    else:
        asked = parse_images(EditsRequest, await json_body(request))
    headers = await admit(request, service, project, asked.n)
    with told(headers):
        model = await _model(service, asked.model, 2)
        if image is None and isinstance(asked, EditsRequest):
            image = await _fetched(request, service, project, asked.image)
        source = await service.images.blobs.keep(project, image or b"", _header(image or b""))
        return await _answer(
            request,
            service,
            token,
            asked,
            model=model,
            source=source,
            headers=headers,
            key=idempotency_key,
        )


@router.get("/images/{sha256}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def image(service: Service, sha256: Annotated[Hex32, Path()], token: Token) -> Response:
    """Read an image that an answer names, while it is kept. One of a private project needs that project's token, as one to be edited does."""
    kept = await service.images.blobs.find(sha256)
    found = next((one for one in kept if one.public), None)
    if found is None and kept and token is not None:
        project = await service.projects.owner(token, "read")
        found = next((one for one in kept if one.project == project), None)
    if found is None:
        raise NotFound(
            f"there is no image {sha256} here, or not any more, that may be read without its project's token"
        )
    return _image(service, found, sha256)


def _image(service: Dispatcher, kept: Kept, sha256: str) -> Response:
    headers = {
        "content-length": str(kept.size),
        "content-disposition": f'inline; filename="{sha256[:16]}.{kept.media_type.partition("/")[2]}"',
        "etag": f'"{sha256}"',
    }
    return StreamingResponse(service.images.blobs.read(kept.id), headers=headers, media_type=kept.media_type)


async def _answer(
    request: Request,
    service: Dispatcher,
    token: str | None,
    asked: ImagesRequest,
    *,
    model: Served,
    headers: dict[str, str],
    key: str | None,
    source: str | None = None,
) -> Response:
    project = await service.projects.owner(token, "submit")
    body = {"from": project, "tag": "", "user": asked.user or name_of(token), "job": asked.to_job(source)}
    accepted = await submit_one(service, body, model, key)
    job_id = accepted.receipt.job_id
    painting = Painting(
        job_id=job_id,
        prompt=asked.prompt,
        created=int(time.time()),
        base=str(request.base_url).rstrip("/"),
        inline=asked.response_format == "b64_json",
        headers=headers | accepted.headers | job_headers([job_id]),
    )
    return ImagesAnswer(service.following, service.images.blobs, painting)


async def _model(service: Dispatcher, name: str, kind: ModelKind) -> Served:
    """Return a model that makes images of this kind. Raises `UnknownModel`, `NotServed`, or `BadRequest` for one that does not."""
    model = await find(service, name)
    if kind not in model.kinds or model.job_type != "opml":
        raise BadRequest(
            f"model {name!r} {_MAKES[kind]}; GET /v1/models says of each what it does (kinds)", param="model"
        )
    return model


async def _fetched(request: Request, service: Dispatcher, project: str, url: str) -> bytes:
    """Return the image at a URL; one of this dispatcher's own is read here, if this project may."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadRequest("image is no URL", param="image") from None
    own = _OWN_IMAGE.fullmatch(parts.path)
    try:
        if own is not None and (parts.scheme, parts.netloc) == (request.url.scheme, request.url.netloc):
            return await _own(service, project, own[1])
        return await service.images.fetcher.fetch(url)
    except (NotFetched, NotFound) as error:
        raise BadRequest(f"image: {error}", param="image", name="image_not_fetched") from None


async def _own(service: Dispatcher, project: str, sha256: str) -> bytes:
    for one in await service.images.blobs.find(sha256):
        if one.public or one.project == project:
            return b"".join([part async for part in service.images.blobs.read(one.id)])
    raise NotFound(f"there is no image {sha256} here, or not any more")


def _header(image: bytes) -> Header:
    try:
        header = read_header(image)
    except InvalidMessage as error:
        raise BadRequest(f"image: {error}", param="image", name="invalid_image") from None
    if max(header.width, header.height) > LARGEST_SIDE:
        raise TooLarge(
            f"the image is {header.width} x {header.height} pixels, and {LARGEST_SIDE} a side are taken"
        )
    return header
