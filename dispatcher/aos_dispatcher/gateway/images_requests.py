"""What /v1/images/generations and /v1/images/edits take: OpenAI's and DBC's bodies, checked strictly, and the job that they ask for. No I/O."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.unsupported import Neutral, without_neutral
from aos_dispatcher.gateway.wrong import bad_request
from aos_dispatcher.tables import JsonObject
from aos_protocol.canonical import JsonValue
from aos_protocol.fields import ShortText, describe, storable
from aos_protocol.job import MAX_IMAGES, ImageSpec

DEFAULT_SIZE: Final = (1024, 1024)
"""Width and height of an image for which none, or the size `auto`, is asked."""

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_LOOKS = "what an image looks like, the prompt alone says here"
_PNG = "an image comes as its server made it"
_ONE = "there is one way here from a request to an image"

NEUTRAL: Final[Neutral] = {
    "background": (("auto",), _LOOKS),
    "input_fidelity": ((), _LOOKS),
    "mask": ((), "the prompt alone says what to change of an image"),
    "moderation": (("auto",), "nobody moderates images"),
    "output_compression": ((), _PNG),
    "output_format": (("png",), _PNG),
    "partial_images": ((0,), "images are not streamed"),
    "quality": (("auto", "standard"), _LOOKS),
    "seed": ((), "servers for images take none by this API"),
    "stream": ((False,), "images are not streamed"),
    "style": ((), _LOOKS),
}
"""OpenAI's fields that have no effect here, each with the values with which it asks for nothing, and why others are refused."""

_NUMBERS: Final = frozenset({"n", "width", "height", "partial_images", "output_compression", "seed"})
_TRUTHS: Final = {"true": True, "false": False}

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=32_000), AfterValidator(storable)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class ImagesRequest(BaseModel):
    """The body of POST /v1/images/generations. `width` and `height` together count, else `size` does, which is WIDTHxHEIGHT or auto."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: ShortText
    prompt: Prompt
    n: int = Field(1, ge=1, le=MAX_IMAGES)
    size: str = Field("auto", max_length=16)
    width: int | None = None
    height: int | None = None
    response_format: Literal["url", "b64_json"] = "url"
    user: ShortText | None = None

    def to_job(self, source: str | None) -> JsonObject:
        """Return the job that this comes to; `source` is the digest of the image to be edited. Raises `BadRequest` for a size that none has."""
        width, height = _size(self.size, self.width, self.height)
        image: JsonObject = {"n": self.n, "width": width, "height": height}
        image |= {} if source is None else {"source": source}
        try:
            ImageSpec.model_validate(image)
        except ValidationError as error:
            raise BadRequest(f"size {width}x{height}: {describe(error)}", param="size") from None
        return {"tag": "opml", "prompt": self.prompt, "model": self.model, "image": image}


class EditsRequest(ImagesRequest):
    """The body of POST /v1/images/edits in JSON: `image` is the URL of the image to be edited. As a form, it is the image itself."""

    image: Url


R = TypeVar("R", bound=ImagesRequest)


def parse_images(kind: type[R], body: JsonObject) -> R:
    """Check a body. Raises `BadRequest`, which names the first field that is wrong or not supported."""
    given = without_neutral(body, frozenset(kind.model_fields), NEUTRAL)
    try:
        asked = kind.model_validate(given)
    except ValidationError as error:
        raise bad_request(error) from None
    asked.to_job(None)
    return asked


def typed(fields: Mapping[str, str]) -> JsonObject:
    """Return the fields of a form, where all is text, with the types that JSON would have given them. One that is empty is not there."""
    return {name: _typed(name, text) for name, text in fields.items() if text}


def _typed(name: str, text: str) -> JsonValue:
    if name in _NUMBERS and text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    return _TRUTHS.get(text.lower(), text) if name == "stream" else text


def _size(size: str, width: int | None, height: int | None) -> tuple[int, int]:
    """Return width and height: those that are given together, else those of `size`. Raises `BadRequest` for one of them without the other."""
    if width is not None and height is not None:
        return width, height
    if width is not None or height is not None:
        missing, given = ("height", "width") if height is None else ("width", "height")
        raise BadRequest(
            f"{given} is given without {missing}: send both, or size in their place", param=missing
        )
    if size == "auto":
        return DEFAULT_SIZE
    found = _SIZE.fullmatch(size)
    if found is None:
        raise BadRequest(
            f"size must be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto, not {size!r}", param="size"
        )
    return int(found[1]), int(found[2])
