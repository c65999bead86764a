"""The adapter for image servers, before the labelled fake and before servers that do what they should not."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from starlette.responses import Response

from aos_operator.backends import images
from aos_operator.backends.images import PATHS, ImagesBackend
from aos_operator.backends.protocol import Painter
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.images import read_header
from aos_protocol.job import Claim, ImageSpec, JobSpec
from aos_protocol.record import named_model_digest
from support.fake_image_server import FakeImageServer
from support.pictures import jpeg, png

KEY = "sk-not-to-be-told"
MODELS = {"SuperImage": "sd-fake"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeImageServer]:
    async with FakeImageServer().serving() as serving:
        yield serving


@asynccontextmanager
async def adapter(url: str, patience: float = 10.0) -> AsyncIterator[ImagesBackend]:
    endpoints = {kind: url + path for kind, path in PATHS.items()}
    backend = ImagesBackend(endpoints, MODELS, SecretStr(KEY), patience)
    try:
        yield backend
    finally:
        await backend.close()


@pytest_asyncio.fixture
async def backend(server: FakeImageServer) -> AsyncIterator[ImagesBackend]:
    async with adapter(server.url) as opened:
        yield opened


def job(n: int = 1, model: str = "SuperImage", source: str | None = None) -> tuple[JobSpec, ImageSpec]:
    image = ImageSpec(n=n, width=64, height=96, source=source)
    return JobSpec(tag="opml", prompt="an otter", model=model, image=image), image


async def test_what_it_serves_is_what_the_settings_name(backend: ImagesBackend) -> None:
    [model] = await backend.models()
    assert isinstance(backend, Painter)
    assert (model.name, model.sha256) == ("SuperImage", named_model_digest("SuperImage"))
    assert (model.evidence, model.kinds, model.able) == ("text", [1, 2], [])


async def test_a_server_that_lists_no_models_is_there_and_one_that_is_gone_is_not(
    server: FakeImageServer,
) -> None:
    async with adapter(server.url + "/nothing") as elsewhere:
        assert len(await elsewhere.models()) == 1
    async with adapter("http://127.0.0.1:1") as gone:
        with pytest.raises(WorkerUnavailable, match="cannot be reached"):
            await gone.models()


async def test_an_answer_names_its_images_and_brings_them(backend: ImagesBackend) -> None:
    spec, image = job(3)
    answer = await backend.paint(spec, image, None)
    records = answer["record"]["images"]
    assert (answer["record"]["level"], answer["record"]["backend"]) == ("text", "images")
    assert [answer["blobs"].keys() >= {one["sha256"]} for one in records] == [True] * 3
    assert {(read_header(data).width, read_header(data).height) for data in answer["blobs"].values()} == {
        (64, 96)
    }


async def test_an_edit_is_a_form_with_the_image(server: FakeImageServer, backend: ImagesBackend) -> None:
    source = jpeg(20, 30)
    spec, image = job(source="1" * 64)
    await backend.paint(spec, image, source)
    assert server.uploads == [source]
    assert server.requests == [
        {"model": "sd-fake", "prompt": "an otter", "n": 1, "size": "64x96", "response_format": "b64_json"}
    ]


async def test_a_server_that_refuses_forms_is_asked_in_json_from_then_on(
    server: FakeImageServer, backend: ImagesBackend
) -> None:
    server.takes_forms = False
    spec, image = job(source="1" * 64)
    for _ in range(2):
        await backend.paint(spec, image, png(5, 5))
    assert server.uploads == [png(5, 5)] * 2
    assert server.requests[0]["image"].startswith("data:image/png;base64,")


async def test_a_server_that_refuses_both_is_told_of_as_it_spoke_first(
    server: FakeImageServer, backend: ImagesBackend
) -> None:
    server.status, server.bend = 400, lambda _: {"error": {"message": f"no otters, {len(server.requests)}"}}
    spec, image = job(source="1" * 64)
    with pytest.raises(WorkerRefused, match="no otters, 1"):
        await backend.paint(spec, image, png(5, 5))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "entry",
    [
        lambda server, picture: {"url": f"{server.url}/made/{server._put(picture)}"},
        lambda server, picture: {"url": f"/made/{server._put(picture)}", "b64_json": None},
        lambda _, picture: {"url": "data:image/png;base64," + base64.b64encode(picture).decode()},
        lambda _, picture: {"b64_json": base64.b64encode(picture).decode(), "url": "http://elsewhere.test/"},
    ],
    ids=["address", "path", "data", "both"],
)
async def test_images_come_in_any_of_these_ways(
    server: FakeImageServer, backend: ImagesBackend, entry: Any
) -> None:
    picture = png(64, 96)
    server.bend = lambda said: said | {"data": [entry(server, picture)]}
    spec, image = job()
    assert list((await backend.paint(spec, image, None))["blobs"].values()) == [picture]


ELSEWHERE = [
    "http://127.0.0.1:1/made/x",
    "https://127.0.0.1/made/x",
    "http://169.254.169.254/latest/meta-data",
    "http://user@127.0.0.1/made/x",
    "//elsewhere.test/made/x",
    "file:///etc/passwd",
    "http://[::1/x",
    "http://127.0.0.1:99999/x",
    "made/x",
]


async def test_nothing_is_fetched_from_anywhere_else(server: FakeImageServer, backend: ImagesBackend) -> None:
    spec, image = job()
    for url in ELSEWHERE:
        server.bend = lambda said, url=url: said | {"data": [{"url": url}]}  # type: ignore[misc]
        with pytest.raises(WorkerRefused, match="elsewhere"):
            await backend.paint(spec, image, None)


async def test_a_redirect_of_an_image_is_not_followed(
    server: FakeImageServer, backend: ImagesBackend
) -> None:
    server.bend = lambda said: (
        said | {"data": [{"url": f"{server.url}/made/again?to=http://elsewhere.test/"}]}
    )
    spec, image = job()
    with pytest.raises(WorkerRefused, match="redirects"):
        await backend.paint(spec, image, None)


UNREADABLE: list[tuple[Any, str]] = [
    ([], "no list of images"),
    ({}, "no list of images"),
    ({"data": {}}, "no list of images"),
    ({"data": ["x"]}, "no list of images"),
    ({"data": []}, "made 0 images, and 1 were asked for"),
    ({"data": [{"b64_json": 5}]}, "must be a string"),
    ({"data": [{"b64_json": "*"}]}, "not in base64"),
    ({"data": [{"b64_json": "AAAA"}]}, "no PNG, JPEG or WebP"),
    ({"data": [{"url": 5}]}, "neither b64_json nor url"),
    ({"data": [{"url": "data:image/png,x"}]}, "cannot be used"),
    ({"code": 3, "message": f"a key like {KEY}"}, "a key like ..."),
]


async def test_an_answer_that_cannot_be_read_is_refused(
    server: FakeImageServer, backend: ImagesBackend
) -> None:
    spec, image = job()
    for said, why in UNREADABLE:
        server.bend = lambda _, said=said: said  # type: ignore[misc]
        with pytest.raises(WorkerRefused, match=why) as refused:
            await backend.paint(spec, image, None)
        assert KEY not in str(refused.value)


STATUSES = {
    400: WorkerRefused,
    401: WorkerRefused,
    404: WorkerRefused,
    429: WorkerBusy,
    502: WorkerUnavailable,
}


async def test_errors_are_told_in_the_server_s_words(server: FakeImageServer, backend: ImagesBackend) -> None:
    spec, image = job()
    for status, error in STATUSES.items():
        server.status, server.bend = status, lambda _: {"error": {"message": f"words and {KEY}"}}
        with pytest.raises(error, match="words and ") as refused:
            await backend.paint(spec, image, None)
        assert KEY not in str(refused.value)


async def test_an_image_that_is_too_large_is_not_read(
    server: FakeImageServer, backend: ImagesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MOST_BYTES", 1000)
    server.files["large"] = Response(bytes(1001))
    server.bend = lambda said: said | {"data": [{"url": "/file/large"}]}
    spec, image = job()
    with pytest.raises(WorkerRefused, match="more than 1000 bytes"):
        await backend.paint(spec, image, None)


async def test_a_server_that_says_nothing_is_given_up(server: FakeImageServer) -> None:
    server.go.clear()
    spec, image = job()
    async with adapter(server.url, patience=0.1) as impatient:
        with pytest.raises(WorkerUnavailable, match="did not answer within"):
            await impatient.paint(spec, image, None)


async def test_only_images_of_its_models_are_made(backend: ImagesBackend) -> None:
    spec, image = job(model="other")
    with pytest.raises(WorkerRefused, match="makes no images of kind 1 with model other"):
        await backend.paint(spec, image, None)
    with pytest.raises(WorkerRefused, match="no text"):
        await backend.generate(spec, "1" * 64, "0x")
    with pytest.raises(WorkerRefused, match="not scored"):
        await backend.score(spec, Subject("1" * 64, Claim(text="x")))
    with pytest.raises(WorkerRefused, match="no enclave"):
        await backend.attestation("1" * 64)


def test_a_backend_is_one_server() -> None:
    for endpoints in ({}, {1: "http://a.test/x", 2: "http://b.test/x"}, {1: "ftp://a.test/x"}, {1: "a.test"}):
        with pytest.raises(ValueError, match=r"one and the same server|http://host:port"):
            ImagesBackend(endpoints, MODELS, None, 1.0)  # type: ignore[arg-type]
