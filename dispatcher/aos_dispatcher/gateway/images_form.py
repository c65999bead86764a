"""Reading a form with an image (multipart/form-data, RFC 7578): bounded in size and time while it arrives, and held in memory alone."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from aos_dispatcher.errors import Malformed, TooLarge, TooSlow
from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.settings import Limits

MOST_FIELDS: Final = 32
_FIELD_BYTES: Final = 64 << 10
_FILES: Final = 17
"""As many as OpenAI takes, with a mask: those that are too many are refused by their names."""

_BESIDE_IMAGE: Final = 256 << 10
"""What all of a form has at most besides its image: fields, and the lines around them."""

IMAGE_NAMES: Final = frozenset({"image", "image[]"})
"""What the image's field is called; the second is OpenAI's for several, of which one is taken."""


@dataclass(frozen=True)
class Form:
    """The fields of a form that are text, by name, and its image."""

    fields: dict[str, str]
    image: bytes


logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a form, its sender is told


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 30  # no file: what is larger than allowed is refused before

    def discard(self) -> None:
        """Let go of all that has come; by itself, it does so for some errors only."""
        for file in self._files_to_close_on_error:
            file.close()


def is_form(request: Request) -> bool:
    """Whether a request brings a form, by its own word."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def read_form(request: Request, limits: Limits) -> Form:
    """Return the form of a request. Raises `TooLarge`, `TooSlow`, `Malformed`, and `BadRequest` unless it has one image and every field once."""
    bounded = _bounded(request, limits.upload_bytes + _BESIDE_IMAGE)
    parser = _InMemory(
        request.headers, bounded, max_files=_FILES, max_fields=MOST_FIELDS, max_part_size=_FIELD_BYTES
    )
    try:
        async with asyncio.timeout(limits.body_timeout):
            form = await parser.parse()
        return await _checked(form, limits.upload_bytes)
    except TimeoutError:
        raise TooSlow(f"the form was not complete within {limits.body_timeout:g} seconds") from None
    except ClientDisconnect:
        raise Malformed("the connection ended before the form did") from None
    except (MultiPartException, FormParserError) as error:
        raise Malformed(f"the form cannot be read: {error}") from None
    finally:
        parser.discard()


async def _checked(form: FormData, most: int) -> Form:
    fields: dict[str, str] = {}
    image: bytes | None = None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in IMAGE_NAMES:
                raise BadRequest(
                    f"a file is taken as image only, not as {name!r}",
                    param=name,
                    name="unsupported_parameter",
                )
            if image is not None:
                raise BadRequest(
                    "several images are not supported here, but one",
                    param=name,
                    name="unsupported_parameter",
                )
            image = await value.read()
        elif name in fields or name in IMAGE_NAMES:
            raise BadRequest(f"{name} must be there once, and image as a file", param=name)
        else:
            fields[name] = value
    if not image:
        raise BadRequest(
            "image is missing: send it as a file of the form, or its URL in a JSON body", param="image"
        )
    if len(image) > most:
        raise TooLarge(f"the image is larger than {most} bytes")
    return Form(fields, image)


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    too_large = TooLarge(f"the form is larger than {most} bytes")
    if announced.isdigit() and int(announced) > most:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > most:
            raise too_large
        yield chunk
