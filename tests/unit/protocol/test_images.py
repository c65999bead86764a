"""Headers of images: what is read of real ones, and that nothing else is taken for one, or breaks the reader."""

import hashlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.canonical import parse
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.images import (
    MAX_PART_CHARACTERS,
    PART_BYTES,
    BlobGet,
    BlobPart,
    BlobPut,
    Header,
    decode_image,
    decode_part,
    encode_part,
    image_record,
    images_text,
    read_header,
)
from support.pictures import jpeg, large_png, png, webp_extended, webp_lossless, webp_lossy

KINDS: list[tuple[str, Callable[[int, int], bytes], int]] = [
    ("image/png", png, 600),
    ("image/jpeg", jpeg, 65_535),
    ("image/webp", webp_lossy, 16_383),
    ("image/webp", webp_lossless, 16_384),
    ("image/webp", webp_extended, 1 << 24),
]
BROKEN = {
    "nothing": b"",
    "a GIF": b"GIF89a\x01\0\x01\0",
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a RIFF that is a WAVE": b"RIFF\x24\0\0\0WAVEfmt ",
    "a PNG's signature only": b"\x89PNG\r\n\x1a\n",
    "a PNG that begins with another chunk": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IDAT", 1, 1),
    "a PNG that is wider than there are PNGs": b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4sII", 13, b"IHDR", 1 << 31, 1),
    "a PNG without pixels": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 0, 7),
    "a JPEG that ends": b"\xff\xd8\xff\xe0\0\x10",
    "a JPEG with noise between its segments": b"\xff\xd8\xff\xe0\0\x02noise",
    "a JPEG whose scan comes first": b"\xff\xd8\xff\xda\0\x08",
    "a JPEG with a segment of length 1": b"\xff\xd8\xff\xe0\0\x01",
    "a JPEG of height 0, told later": jpeg(5, 0),
    "a WebP without a size": b"RIFF\x10\0\0\0WEBPALPH\x04\0\0\0",
    "a lossless WebP without its signature": webp_lossless(3, 4).replace(b"\x2f", b"\x2e"),
    "a lossy WebP that begins with no key frame": webp_lossy(3, 4).replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b"),
    "an extended WebP that is cut off": webp_extended(3, 4)[:-1],
}


@pytest.mark.parametrize(("media_type", "make", "most"), KINDS)
@given(data=st.data())
def test_the_size_of_an_image_is_read(
    media_type: str, make: Callable[[int, int], bytes], most: int, data: st.DataObject
) -> None:
    sides = st.integers(1, most)
    width, height = data.draw(sides), data.draw(sides)
    header = read_header(make(width, height))
    assert (header.media_type, header.width, header.height) == (media_type, width, height)


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        read_header(data)


@given(
    start=st.sampled_from(
        [png(2, 3), jpeg(2, 3), webp_lossy(2, 3), webp_lossless(2, 3), webp_extended(2, 3)]
    ),
    at=st.integers(0, 60),
    noise=st.binary(max_size=40),
)
def test_whatever_comes_is_read_or_refused(start: bytes, at: int, noise: bytes) -> None:
    """No bytes raise anything else, loop, or give an image without pixels."""
    try:
        header = read_header(start[:at] + noise)
    except InvalidMessage:
        return
    assert header.width > 0
    assert header.height > 0


def test_a_jpeg_s_frame_is_found_behind_other_segments() -> None:
    tables = (
        b"\xff\xfe" + struct.pack(">H", 9) + b"comment" + b"\xff\xd0" + b"\xff\xff\xc4" + struct.pack(">H", 2)
    )
    assert read_header(jpeg(640, 480, before=tables)) == Header("image/jpeg", 640, 480)


def test_a_record_is_of_the_very_bytes() -> None:
    data = png(64, 65)
    record = image_record(data)
    assert (record.sha256, record.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (record.media_type, record.width, record.height) == ("image/png", 64, 65)


def test_the_text_of_an_answer_names_its_images_in_canonical_form() -> None:
    record = image_record(png(64, 64))
    text = images_text([record, record])
    assert parse(text.encode()) == {"images": [record.to_json(), record.to_json()]}
    assert text.startswith('{"images":[{"height":64,"media_type":"image/png","sha256":"')


def test_a_png_of_a_size_in_bytes_is_one() -> None:
    data = large_png(64, 64, 10_000)
    assert len(data) == 10_000
    assert read_header(data).width == 64


@given(st.binary(max_size=100))
def test_parts_travel_as_they_are(data: bytes) -> None:
    assert decode_part(encode_part(data)) == data
    assert decode_image(encode_part(data)) == data


def test_the_largest_part_that_is_sent_is_taken_and_no_larger_one() -> None:
    put = {"job_id": "1" * 64, "sha256": "2" * 64, "offset": 0, "size": 1 << 20}
    parse_message(BlobPut, put | {"data": encode_part(bytes(PART_BYTES))})
    most = bytes(MAX_PART_CHARACTERS // 4 * 3)
    parse_message(BlobPut, put | {"data": encode_part(most)})
    for data in (encode_part(most + b"x"), "", "x", "not base64"):
        with pytest.raises(InvalidMessage):
            parse_message(BlobPut, put | {"data": data})


def test_what_is_asked_for_must_lie_within_what_any_image_has() -> None:
    get = {"job_id": "1" * 64, "sha256": "2" * 64}
    assert parse_message(BlobGet, get | {"offset": 1 << 26}).offset == 1 << 26
    for offset in (-1, (1 << 26) + 1):
        with pytest.raises(InvalidMessage):
            parse_message(BlobGet, get | {"offset": offset})
    with pytest.raises(InvalidMessage):
        parse_message(BlobPart, {"data": "", "size": 0})


@pytest.mark.parametrize("text", [None, 5, "****", "AAA", "AA==A"])
def test_what_is_not_base64_is_no_image(text: object) -> None:
    with pytest.raises(InvalidMessage, match="base64"):
        decode_image(text)
