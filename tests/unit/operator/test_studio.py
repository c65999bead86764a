"""The studio: what a backend paints is held against the job before anything of it is kept or signed."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from aos_operator.courier import Courier
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_operator.events import Settled
from aos_operator.memory import MemoryStore
from aos_operator.stub import StubWorker
from aos_operator.studio import Studio
from aos_operator.tasks import Outcome, Task, TaskKey
from aos_operator.workshop import Workshop
from aos_protocol.canonical import JsonObject
from aos_protocol.images import encode_part, image_record, images_text
from aos_protocol.job import ImageSpec, JobSpec
from aos_protocol.messages import Dispatch
from aos_protocol.record import Record
from aos_protocol.typed_data import Domain
from support.pictures import png
from unit.operator.world import MODEL, OPERATOR, World

PICTURE, OTHER = png(64, 96), png(64, 96, (1, 2, 3))
SOURCE = png(10, 10)
Bend = Callable[[dict[str, Any]], object]


def job(n: int = 1, source: bytes | None = None) -> Dispatch:
    digest = None if source is None else image_record(source).sha256
    image = ImageSpec(n=n, width=64, height=96, source=digest)
    spec = JobSpec(tag="opml", prompt="an otter", model=MODEL.name, image=image)
    return World().job().model_copy(update={"job": spec})


def answer(*pictures: bytes) -> dict[str, Any]:
    records = [image_record(picture) for picture in pictures]
    return {
        "text": images_text(records),
        "record": Record(level="text", backend="images", images=records).to_json(),
        "blobs": {one.sha256: picture for one, picture in zip(records, pictures, strict=True)},
    }


class Painter(StubWorker):
    """A stub that paints what a test gives it; `trouble` is raised first."""

    def __init__(self, *pictures: bytes) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.given = answer(*pictures)
        self.trouble: list[Exception] = []
        self.sources: list[bytes | None] = []

    async def paint(self, job: JobSpec, image: ImageSpec, source: bytes | None) -> dict[str, Any]:
        if self.trouble:
            raise self.trouble.pop(0)
        self.sources.append(source)
        return self.given


class Wire:
    """A dispatcher that has the image to be edited."""

    async def ask(self, method: str, param: JsonObject) -> Settled:
        assert (method, param["offset"]) == ("blob_get", 0)
        return Settled("1", 200, "success", {"data": encode_part(SOURCE), "size": len(SOURCE)})

    async def result(self, task: Task) -> Settled:
        raise AssertionError(task)


async def no_domain() -> Domain:
    raise AssertionError("images need no enclave")


async def made(painter: StubWorker, request: Dispatch) -> tuple[Outcome, MemoryStore]:
    """What a workshop with a studio makes of a job, and the store that it keeps images in."""
    store = MemoryStore()
    studio = Studio(painter, OPERATOR.address, Courier(store.blobs, Wire()))
    outcome = await Workshop(painter, OPERATOR.address, no_domain, studio).work(request)
    assert isinstance(outcome, Outcome)
    return outcome, store


async def test_images_are_kept_before_their_outcome_is() -> None:
    request = job(2)
    outcome, store = await made(Painter(PICTURE, OTHER), request)
    assert (outcome.reason, outcome.result) == ("", answer(PICTURE, OTHER)["text"])
    assert store.blobs.kept == {TaskKey.of(request): answer(PICTURE, OTHER)["blobs"]}
    assert outcome.images == list(answer(PICTURE, OTHER)["blobs"])
    assert "blobs" not in outcome.to_json()


async def test_the_image_to_be_edited_is_given_to_the_backend() -> None:
    painter = Painter(PICTURE)
    await made(painter, job(source=SOURCE))
    assert painter.sources == [SOURCE]


async def test_a_backend_that_is_away_is_asked_again() -> None:
    painter = Painter(PICTURE)
    painter.trouble = [WorkerUnavailable()]
    outcome, _ = await made(painter, job())
    assert outcome.reason == ""


async def test_what_a_backend_refuses_is_the_reason() -> None:
    painter = Painter(PICTURE)
    painter.trouble = [WorkerRefused("not that prompt")]
    outcome, store = await made(painter, job())
    assert (outcome.reason, store.blobs.kept) == ("not that prompt", {})


async def test_an_operator_without_image_models_says_so() -> None:
    outcome, _ = await made(StubWorker({MODEL.name: MODEL.sha256}), job())
    assert outcome.reason == "no backend of this operator makes images"
    bare = await Workshop(Painter(PICTURE), OPERATOR.address, no_domain).work(job())
    assert bare == Outcome.failed("this operator makes no images")


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        (lambda said: said.pop("blobs"), "does not bring it"),
        (lambda said: said["blobs"].clear(), "does not bring it"),
        (lambda said: said.update(blobs=dict.fromkeys(said["blobs"], OTHER)), "does not bring it"),
        (lambda said: said.update(blobs=dict.fromkeys(said["blobs"], "text")), "does not bring it"),
        (lambda said: said.update(answer(png(64, 64))), "an image of 64 x 64, and 64 x 96 was asked for"),
        (lambda said: said.update(answer(PICTURE, OTHER)), "asks for 1 images"),
        (lambda said: said.update(text='{"images": []}'), "does not name the images of its record"),
        (lambda said: said["record"].pop("images"), "images"),
        (lambda said: said.pop("record"), "transcript"),
    ],
)
async def test_an_answer_that_does_not_fit_is_not_signed(bend: Bend, why: str) -> None:
    painter = Painter(PICTURE)
    bend(painter.given)
    outcome, store = await made(painter, job())
    assert outcome.result == ""
    assert why in outcome.reason
    assert store.blobs.kept == {}


async def test_a_record_that_says_other_than_the_image_is_not_signed() -> None:
    painter = Painter(PICTURE)
    record = image_record(PICTURE).model_copy(update={"size": 5})
    whole = Record(level="text", backend="images", images=[record])
    painter.given |= {"record": whole.to_json(), "text": images_text([record])}
    outcome, _ = await made(painter, job())
    assert "is not as the backend's answer says" in outcome.reason


async def test_bytes_that_are_no_image_are_not_signed() -> None:
    painter = Painter(PICTURE)
    noise = b"GIF89a"
    digest = hashlib.sha256(noise).hexdigest()
    record = image_record(PICTURE).model_copy(update={"sha256": digest})
    whole = Record(level="text", backend="images", images=[record])
    painter.given = {"record": whole.to_json(), "text": images_text([record]), "blobs": {digest: noise}}
    outcome, _ = await made(painter, job())
    assert "brings an image that is none" in outcome.reason
