"""Requests for images: what they come to, which size counts, and what is refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.images_requests import EditsRequest, ImagesRequest, parse_images, typed
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec

ASKED: dict[str, Any] = {"model": "SuperImage", "prompt": "A cute baby sea otter"}
SIDES = st.integers(64, 2048)


def image(**more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = parse_images(ImagesRequest, ASKED | more).to_job(None)["image"]
    return spec


def test_little_is_needed() -> None:
    asked = parse_images(ImagesRequest, ASKED)
    assert asked.response_format == "url"
    assert asked.to_job(None) == {
        "tag": "opml",
        "prompt": "A cute baby sea otter",
        "model": "SuperImage",
        "image": {"n": 1, "width": 1024, "height": 1024},
    }


def test_the_dbc_document_s_body_is_one() -> None:
    body = ASKED | {"n": 2, "size": "1024x1024", "width": 1024, "height": 1024, "response_format": "url"}
    assert parse_images(ImagesRequest, body).to_job(None)["image"]["n"] == 2
    edit = parse_images(EditsRequest, body | {"image": "https://example.org/otter.png"})
    assert edit.image == "https://example.org/otter.png"
    assert edit.to_job("1" * 64)["image"]["source"] == "1" * 64


@given(width=SIDES, height=SIDES, other=SIDES)
def test_width_and_height_together_count_more_than_size(width: int, height: int, other: int) -> None:
    of_size = {"size": f"{width}x{height}"}
    of_both = {"width": width, "height": height, "size": f"{other}x{other}"}
    assert image(**of_size) == image(**of_both) == {"n": 1, "width": width, "height": height}


@given(width=SIDES, height=SIDES, n=st.integers(1, 4), source=st.none() | st.just("1" * 64))
def test_what_is_taken_is_a_job(width: int, height: int, n: int, source: str | None) -> None:
    asked = parse_images(ImagesRequest, ASKED | {"width": width, "height": height, "n": n})
    job = parse_message(JobSpec, asked.to_job(source))
    assert job.image is not None
    assert (job.image.width, job.image.height, job.image.n, job.image.source) == (width, height, n, source)
    assert job.kind == (1 if source is None else 2)


def test_auto_is_the_size_that_is_asked_for_by_nothing() -> None:
    assert image(size="auto") == image() == {"n": 1, "width": 1024, "height": 1024}


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"width": 64}, "height", "width is given without height"),
        ({"height": 64, "size": "64x64"}, "width", "height is given without width"),
        ({"size": "64"}, "size", "WIDTHxHEIGHT"),
        ({"size": "064x64"}, "size", "WIDTHxHEIGHT"),
        ({"size": "64x64\n"}, "size", "WIDTHxHEIGHT"),
        ({"size": "4096x64"}, "size", "less than or equal to 2048"),
        ({"width": 63, "height": 64}, "size", "greater than or equal to 64"),
        ({"size": 64}, "size", "string"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 5}, "n", "less than or equal to 4"),
        ({"n": "2"}, "n", "integer"),
        ({"n": 1.5}, "n", "integer"),
        ({"width": True, "height": 64}, "width", "integer"),
        ({"response_format": "png"}, "response_format", "'url' or 'b64_json'"),
        ({"mask": "https://x"}, "mask", "mask is not supported here"),
        ({"quality": "hd"}, "quality", "quality is not supported here but 'auto' or 'standard'"),
        ({"style": "vivid"}, "style", "style is not supported"),
        ({"background": "transparent"}, "background", "background is not supported"),
        ({"output_format": "webp"}, "output_format", "output_format is not supported here but 'png'"),
        ({"output_compression": 50}, "output_compression", "output_compression is not supported"),
        ({"partial_images": 2}, "partial_images", "images are not streamed"),
        ({"input_fidelity": "high"}, "input_fidelity", "input_fidelity is not supported"),
        ({"moderation": "low"}, "moderation", "nobody moderates"),
        ({"seed": 7}, "seed", "seed is not supported"),
        ({"stream": True}, "stream", "images are not streamed"),
        ({"sampler": "x"}, "sampler", "no field that is known here"),
        ({"image": "https://x"}, "image", "no field that is known here"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "a\0"}, "prompt", r"U\+0000"),
        ({"model": None}, "model", "Field required"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(more: dict[str, Any], param: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as refused:
        parse_images(ImagesRequest, ASKED | more)
    assert refused.value.param == param


def test_what_asks_for_nothing_is_taken() -> None:
    nothing = {
        "background": "auto",
        "mask": None,
        "moderation": "auto",
        "output_format": "png",
        "partial_images": 0,
        "quality": "standard",
        "stream": False,
        "width": None,
        "user": None,
    }
    assert parse_images(ImagesRequest, ASKED | nothing) == parse_images(ImagesRequest, ASKED)


def test_the_fields_of_a_form_are_what_they_would_be_in_json() -> None:
    form = {"n": "2", "width": "64", "height": "96", "stream": "false", "prompt": "12", "user": ""}
    assert typed(form) == {"n": 2, "width": 64, "height": 96, "stream": False, "prompt": "12"}
    assert parse_images(ImagesRequest, typed({"model": "m"} | form)).n == 2
    for wrong in ("two", "-1", "1.0", "9" * 16, "²"):
        with pytest.raises(BadRequest, match="n: "):
            parse_images(ImagesRequest, typed({"model": "m", "prompt": "x", "n": wrong}))


def test_an_edit_needs_an_image() -> None:
    with pytest.raises(BadRequest, match="image: Field required"):
        parse_images(EditsRequest, ASKED)
