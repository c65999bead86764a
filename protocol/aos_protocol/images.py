"""Images that are answers: what an answer says of them, how large one is by its header, and how its bytes travel on `/ws`.

Headers are parsed, and nothing else: no image is decoded anywhere in this network. So a header's size is what a reader of the image would
begin with, and no word about what the image shows.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints

from aos_protocol.canonical import canonical
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Base64, Hex32, Message
from aos_protocol.record import ImageRecord

MediaType: TypeAlias = Literal["image/png", "image/jpeg", "image/webp"]

MAX_PART_CHARACTERS: Final = 1 << 20
"""How many characters of base64 one frame brings of an image."""

PART_BYTES: Final = 384 << 10
"""How many bytes of an image whoever sends them puts into one frame: a divisor of what is allowed, so that other frames need not wait for long."""

MAX_IMAGE_BYTES: Final = 1 << 26
"""No image is larger, whatever a dispatcher's own limit is."""

Part = Annotated[Base64, StringConstraints(max_length=MAX_PART_CHARACTERS)]
Offset = Annotated[int, Field(ge=0, le=MAX_IMAGE_BYTES)]


class BlobPut(Message):
    """`blob_put` (operator to dispatcher): some bytes of an image that the answer to a job will name, from `offset` on; it has `size` bytes in all.

    It has no clock: it says nothing that could be held against its sender, and a repetition changes nothing.
    """

    job_id: Hex32
    sha256: Hex32
    offset: Offset
    size: Annotated[int, Field(ge=1, le=MAX_IMAGE_BYTES)]
    data: Annotated[Part, StringConstraints(min_length=1)]


class BlobHeld(Message):
    """What a 200 reply to `blob_put` says besides: how many bytes the dispatcher has, from the start; all of them, once it has looked at the image."""

    held: Offset


class BlobGet(Message):
    """`blob_get` (operator to dispatcher): asks for bytes of the image that a job wants edited, from `offset` on. It has no clock either."""

    job_id: Hex32
    sha256: Hex32
    offset: Offset


class BlobPart(Message):
    """What a 200 reply to `blob_get` says besides: some bytes from the offset on, and how many the image has in all."""

    data: Part
    size: Annotated[int, Field(ge=1, le=MAX_IMAGE_BYTES)]


@dataclass(frozen=True)
class Header:
    """What an image's header says: its kind, and its width and height in pixels."""

    media_type: MediaType
    width: int
    height: int


def images_text(images: Sequence[ImageRecord]) -> str:
    """Return what stands for the text of an answer of images: the RFC 8785 JSON of `{"images": [...]}`."""
    return canonical({"images": [image.to_json() for image in images]}).decode()


def image_record(data: bytes) -> ImageRecord:
    """Return what an answer says of this image. Raises `InvalidMessage` for what is no image."""
    header = read_header(data)
    return ImageRecord(
        sha256=hashlib.sha256(data).hexdigest(),
        media_type=header.media_type,
        size=len(data),
        width=header.width,
        height=header.height,
    )


def encode_part(data: bytes) -> str:
    """Return bytes of an image as they travel."""
    return base64.b64encode(data).decode()


def decode_part(text: str) -> bytes:
    """Return the bytes that travelled as this `Part`."""
    return base64.b64decode(text)


def decode_image(text: object) -> bytes:
    """Return the bytes of an image that somebody sent in base64 (RFC 4648, section 4). Raises `InvalidMessage`."""
    if not isinstance(text, str):
        raise InvalidMessage("an image in base64 must be a string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidMessage("an image is not in base64 (RFC 4648, section 4)") from None


def read_header(data: bytes) -> Header:
    """Return what an image's header says. Raises `InvalidMessage` unless it is a PNG, a JPEG or a WebP of at least one pixel."""
    for magic, media_type, read in _KINDS:
        if magic(data):
            try:
                width, height = read(data)
            except (struct.error, IndexError):
                raise InvalidMessage(f"the header of this {media_type} is cut off") from None
            if not (width and height):
                raise InvalidMessage(f"this {media_type} has no pixels: {width} x {height}")
            return Header(media_type, width, height)
    raise InvalidMessage("this is no PNG, JPEG or WebP image: it does not begin like one")


def _png(data: bytes) -> tuple[int, int]:
    """W3C PNG, section 11.2.1: IHDR is the first chunk, with width and height as its first fields."""
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if (length, kind) != (13, b"IHDR") or max(width, height) >= 1 << 31:
        raise InvalidMessage("this PNG does not begin with an IHDR chunk")
    return width, height


_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG markers without a segment: TEM, and restarts."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame, with its size: SOF0 to SOF15 (ITU-T T.81, table B.1)."""
_NO_FRAME_FOLLOWS: Final = frozenset({0xD9, 0xDA})


def _jpeg(data: bytes) -> tuple[int, int]:
    """ITU-T T.81, annex B: segments, each a marker and its length, until the one that begins the frame."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise InvalidMessage("this JPEG has something else where a marker should be")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in _ALONE:
            continue
        if marker in _NO_FRAME_FOLLOWS or marker == 0:
            raise InvalidMessage("this JPEG has no frame before its scan")
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise InvalidMessage("this JPEG has a segment that is shorter than its own length")
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        at += length


def _webp(data: bytes) -> tuple[int, int]:
    """RFC 9649: a RIFF file whose first chunk is VP8, VP8L or VP8X."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        _ = data[29]
        return width, height
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise InvalidMessage("this WebP's lossless chunk does not begin with its signature")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise InvalidMessage("this WebP's lossy chunk does not begin with a key frame")
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidMessage("this WebP's first chunk is none that has its size")


_KINDS: Final[tuple[tuple[Callable[[bytes], bool], MediaType, Callable[[bytes], tuple[int, int]]], ...]] = (
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), "image/png", _png),
    (lambda data: data.startswith(b"\xff\xd8\xff"), "image/jpeg", _jpeg),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", "image/webp", _webp),
)
"""How each kind begins (WHATWG MIME Sniffing, section 6.1), what it is called, and what reads its size."""
