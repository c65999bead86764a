"""Forms: whatever comes is a form with one image, or an error that says what is wrong; and how an answer's images become JSON."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.errors import ApiError, Malformed, TooLarge, TooSlow
from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.images_answer import _with_images
from aos_dispatcher.gateway.images_form import Form, is_form, read_form
from aos_dispatcher.settings import Limits

LIMITS = Limits(upload_bytes=4096, body_timeout=5)
IMAGE = bytes(range(256))


def part(name: str, value: bytes, *, file: bool = False) -> bytes:
    named = f'; filename="{name}.png"' if file else ""
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + value + b"\r\n"


WHOLE = part("model", b"m") + part("n", b"2") + part("image", IMAGE, file=True) + b"--x--\r\n"


def request(
    chunks: Iterable[bytes], content_type: str = "multipart/form-data; boundary=x", **headers: str
) -> Request:
    """A request whose body comes in these pieces; None for one that ends in the middle."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    given = {"content-type": content_type} | headers
    scope = {
        "type": "http",
        "headers": [
            (name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()
        ],
    }

    async def receive() -> Any:
        return messages.pop(0)

    return Request(scope, receive)


async def read(body: bytes, cuts: Iterable[int] = (), **headers: str) -> Form:
    edges = [0, *sorted(cuts), len(body)]
    return await read_form(request((body[a:b] for a, b in pairwise(edges)), **headers), LIMITS)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
async def test_a_form_is_read_however_it_comes_in_pieces(cuts: list[int]) -> None:
    assert await read(WHOLE, cuts) == Form({"model": "m", "n": "2"}, IMAGE)


@given(
    start=st.integers(0, len(WHOLE)),
    noise=st.binary(max_size=30),
    end=st.integers(0, len(WHOLE)),
    content_type=st.sampled_from(
        ["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="]
    )
    | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20).map(
        "multipart/form-data;".__add__
    ),
)
async def test_whatever_comes_is_a_form_or_an_error_of_ours(
    start: int, noise: bytes, end: int, content_type: str
) -> None:
    body = WHOLE[:start] + noise + WHOLE[end:]
    try:
        form = await read_form(request([body], content_type), LIMITS)
    except (BadRequest, Malformed, TooLarge):
        return
    assert form.image


@pytest.mark.parametrize(
    ("body", "error", "why"),
    [
        (part("image", b"x" * 4097, file=True) + b"--x--", TooLarge, "the image is larger than 4096 bytes"),
        (part("image", b"x" * (300 << 10), file=True), TooLarge, "the form is larger"),
        (
            part("model", b"a") * 2 + part("image", IMAGE, file=True) + b"--x--",
            BadRequest,
            "model must be there once",
        ),
        (part("image", IMAGE) + b"--x--", BadRequest, "image as a file"),
        (part("mask", IMAGE, file=True) + b"--x--", BadRequest, "not as 'mask'"),
        (part("model", b"a") + b"--x--", BadRequest, "image is missing"),
        (part("image", b"", file=True) + b"--x--", BadRequest, "image is missing"),
        (part("image", IMAGE, file=True) * 2 + b"--x--", BadRequest, "several images are not supported"),
        (part("image[]", b"", file=True) * 2 + b"--x--", BadRequest, "several images are not supported"),
        (
            part("image", IMAGE, file=True) + part("mask", IMAGE, file=True) + b"--x--",
            BadRequest,
            "not as 'mask'",
        ),
        (part("image", IMAGE, file=True) * 18 + b"--x--", Malformed, "Too many files"),
        (b"".join(part(f"f{number}", b"") for number in range(40)) + b"--x--", Malformed, "Too many fields"),
        (part("prompt", b"x" * (65 << 10)) + b"--x--", Malformed, "exceeded maximum size"),
        (b"no form", Malformed, "cannot be read"),
    ],
)
async def test_what_is_wrong_with_a_form_is_told(body: bytes, error: type[ApiError], why: str) -> None:
    with pytest.raises(error, match=why):
        await read(body)


async def test_a_form_that_is_announced_too_large_is_not_read() -> None:
    with pytest.raises(TooLarge):
        await read(b"", content_length=str(1 << 30))


async def test_a_form_that_does_not_come_is_given_up() -> None:
    waiting = request([])

    async def never() -> Any:
        await asyncio.Event().wait()

    waiting._receive = never
    with pytest.raises(TooSlow):
        await read_form(waiting, Limits(body_timeout=0.05))


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("multipart/form-data; boundary=x", True),
        ("Multipart/Form-Data;x", True),
        ("application/json", False),
        ("", False),
    ],
)
def test_what_is_a_form_says_so(content_type: str, form: bool) -> None:
    assert is_form(request([], content_type)) == form


@given(st.lists(st.lists(st.binary(max_size=20), max_size=6), max_size=3))
async def test_images_become_base64_of_one_document_whatever_pieces_they_are_read_in(
    images: list[list[bytes]],
) -> None:
    async def pieces(image: list[bytes]) -> AsyncIterator[bytes]:
        for each in image:
            yield each

    entries = [{"b64_json": "", "url": "", "revised_prompt": 'an "otter"'} for _ in images]
    told = {"code": 0, "data": entries, "message": "success"}
    text = b"".join([part async for part in _with_images(told, [pieces(image) for image in images])])
    said = json.loads(text)
    assert (said["code"], said["message"]) == (0, "success")
    assert [base64.b64decode(entry["b64_json"]) for entry in said["data"]] == [
        b"".join(image) for image in images
    ]
    assert all(entry["revised_prompt"] == 'an "otter"' for entry in said["data"])
