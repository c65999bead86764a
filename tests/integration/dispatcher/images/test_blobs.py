"""`blob_put` and `blob_get`: what operators bring and get, and what they must not. Operators are scripted; nothing is trusted of them."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select, text, update

from aos_dispatcher import blobs as blobs_module
from aos_dispatcher.blobs import PROJECT_SHARE, SMALLEST_PART, Blobs
from aos_dispatcher.errors import NotFound, StoreFull
from aos_dispatcher.projects import create_project
from aos_dispatcher.settings import Limits
from aos_dispatcher.tables import Blob, BlobChunk, Rejection
from aos_protocol.images import PART_BYTES, encode_part, image_record, images_text, read_header
from aos_protocol.messages import Dispatch, ServedModel
from aos_protocol.record import Record, named_model_digest
from integration.dispatcher.conftest import Network
from integration.dispatcher.images.conftest import MODEL, opened
from support.operators import ScriptedOperator
from support.pictures import large_png, png

SERVED = ServedModel(name=MODEL, sha256=named_model_digest(MODEL), evidence="text", kinds=[1, 2], able=[])
PICTURE, OTHER = png(64, 96), png(64, 96, (1, 2, 3))
LARGE = large_png(64, 96, 2 * PART_BYTES + 5)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _part(job_id: str, data: bytes, offset: int) -> dict[str, Any]:
    part = encode_part(data[offset : offset + PART_BYTES])
    return {"job_id": job_id, "sha256": digest(data), "offset": offset, "size": len(data), "data": part}


class Scene:
    """A network with a scripted operator that makes images when a test says so."""

    def __init__(self, network: Network, operator: ScriptedOperator) -> None:
        self.network = network
        self.operator = operator

    @property
    def blobs(self) -> Blobs:
        return self.network.dispatcher.images.blobs

    async def dispatched(self, n: int = 1, source: str | None = None, **more: Any) -> Dispatch:
        """Submit a job for images, and wait until the operator has it."""
        image = {"n": n, "width": 64, "height": 96} | ({} if source is None else {"source": source})
        job = {"tag": "opml", "prompt": "an otter", "model": MODEL, "image": image}
        before = len(self.operator.dispatched)
        await self.network.submit(job=job, **more)
        await self.operator.wait(lambda: len(self.operator.dispatched) > before)
        return self.operator.dispatched[-1]

    async def ask(self, method: str, by: ScriptedOperator | None = None, **param: Any) -> dict[str, Any]:
        """Send a request without a clock; the reply."""
        operator = by or self.operator
        before = len(operator.replies)
        await operator.send(operator.request(method, param).text)
        await operator.wait(lambda: len(operator.replies) > before)
        return operator.replies[-1]

    async def put(self, job_id: str, data: bytes, offset: int = 0, /, **changes: Any) -> dict[str, Any]:
        """Send one piece of an image."""
        return await self.ask("blob_put", **_part(job_id, data, offset) | changes)

    async def bring(self, job_id: str, data: bytes) -> None:
        """Send a whole image."""
        for offset in range(0, len(data), PART_BYTES):
            assert (await self.put(job_id, data, offset))["code"] == 200

    async def answer(self, dispatch: Dispatch, *pictures: bytes, **changes: Any) -> dict[str, Any]:
        """Send a result that names these images; the reply."""
        records = [image_record(picture).model_copy(update=changes) for picture in pictures]
        self.operator.answer = images_text(records)
        self.operator.record = Record(level="text", backend="scripted", images=records).to_json()
        before = len(self.operator.replies)
        await self.operator.send_result(dispatch)
        self.operator.answer = None
        await self.operator.wait(lambda: len(self.operator.replies) > before)
        return self.operator.replies[-1]

    async def count(self, table: type[Blob | BlobChunk | Rejection]) -> int:
        async with self.network.dispatcher.database.connect() as connection:
            return (await connection.execute(select(func.count()).select_from(table))).scalar_one()

    async def read(self, data: bytes) -> int:
        answer = await self.network.client.get(f"/v1/images/{digest(data)}")
        assert answer.status_code != 200 or answer.content == data
        return answer.status_code


async def painting(network: Network) -> ScriptedOperator:
    operator = await network.operator(connect=False)
    operator.models, operator.answer = [SERVED], None
    assert (await operator.connect())["code"] == 200
    return operator


@pytest_asyncio.fixture
async def scene(unstarted: Network) -> AsyncIterator[Scene]:
    network = opened(unstarted)
    await network.start()
    await network.project()
    yield Scene(network, await painting(network))
    for operator in network.operators:
        await operator.close()
    await network.stop()


async def test_an_image_comes_in_pieces_and_is_shown_once_a_result_names_it(scene: Scene) -> None:
    dispatch = await scene.dispatched()
    held = [
        (await scene.put(dispatch.job_id, LARGE, offset))["held"]
        for offset in (0, PART_BYTES, 2 * PART_BYTES)
    ]
    assert held == [PART_BYTES, 2 * PART_BYTES, len(LARGE)]
    assert await scene.read(LARGE) == 404
    assert (await scene.answer(dispatch, LARGE))["code"] == 200
    assert await scene.read(LARGE) == 200
    assert (await scene.network.finished(dispatch.job_id))["status"] == "completed"


async def test_a_result_waits_for_its_images(scene: Scene) -> None:
    dispatch = await scene.dispatched(2)
    early = await scene.answer(dispatch, PICTURE, OTHER)
    assert (early["code"], "is not here yet" in early["message"]) == (503, True)
    await scene.bring(dispatch.job_id, PICTURE)
    assert (await scene.answer(dispatch, PICTURE, OTHER))["code"] == 503
    assert await scene.read(PICTURE) == 404
    await scene.bring(dispatch.job_id, OTHER)
    assert (await scene.answer(dispatch, PICTURE, OTHER))["code"] == 200
    assert (await scene.answer(dispatch, PICTURE, OTHER))["code"] == 200


async def test_pieces_that_come_again_or_out_of_order_change_nothing(scene: Scene) -> None:
    dispatch = await scene.dispatched()
    offsets = [PART_BYTES, 0, 0, 2 * PART_BYTES, PART_BYTES, 2 * PART_BYTES, 0]
    held = [(await scene.put(dispatch.job_id, LARGE, offset))["held"] for offset in offsets]
    whole = len(LARGE)
    assert held == [0, PART_BYTES, PART_BYTES, PART_BYTES, 2 * PART_BYTES, whole, whole]
    assert (await scene.answer(dispatch, LARGE))["code"] == 200
    assert (await scene.put(dispatch.job_id, LARGE))["held"] == whole  # its seat has answered


async def test_what_an_operator_brings_that_it_must_not_is_refused_and_leaves_nothing(scene: Scene) -> None:
    dispatch = await scene.dispatched()
    stranger = await scene.network.operator()
    job_id, lie = dispatch.job_id, digest(OTHER)
    small = LARGE[: SMALLEST_PART - 1]
    refused = {
        "no open seat": await scene.put("1" * 64, PICTURE),
        "no open seat in job": await scene.ask(
            "blob_put", by=stranger, job_id=job_id, sha256=lie, offset=0, size=1, data="AA=="
        ),
        "has the digest": await scene.put(job_id, PICTURE, sha256=lie),
        "no PNG, JPEG or WebP": await scene.put(job_id, b"GIF89a"),
        "may have": await scene.put(job_id, PICTURE, size=(16 << 20) + 1),
        "bytes came of an image of": await scene.put(job_id, PICTURE, size=3),
        "too small": await scene.put(job_id, LARGE, data=encode_part(small)),
        "the one base64 form": await scene.put(job_id, PICTURE, data="AB=="),
        "at least 1 item": await scene.put(job_id, PICTURE, data=""),
        "offset": await scene.put(job_id, PICTURE, offset=-1),
        "Extra inputs": await scene.put(job_id, PICTURE, clock={}),
    }
    for why, reply in refused.items():
        assert reply["code"] == 400
        assert why in reply["message"]
    assert [await scene.count(table) for table in (Blob, BlobChunk, Rejection)] == [0, 0, 0]
    await scene.bring(job_id, PICTURE)
    assert (await scene.answer(dispatch, PICTURE))["code"] == 200


async def test_no_more_images_come_than_a_job_asks_for(scene: Scene) -> None:
    dispatch = await scene.dispatched(2)
    for picture in (PICTURE, OTHER, PICTURE):
        await scene.bring(dispatch.job_id, picture)
    more = await scene.put(dispatch.job_id, LARGE)
    assert (more["code"], "asks for 2 images" in more["message"]) == (400, True)


async def test_an_image_has_one_size_however_often_it_is_begun(scene: Scene) -> None:
    dispatch = await scene.dispatched()
    await scene.put(dispatch.job_id, LARGE)
    other = await scene.put(dispatch.job_id, LARGE, PART_BYTES, size=len(LARGE) + 1)
    assert (other["code"], "as was said before" in other["message"]) == (400, True)


async def test_a_result_that_says_other_than_its_images_costs_the_seat(scene: Scene) -> None:
    for changes, why in (({"size": 5}, "is not as the result says"), ({"width": 65}, "asks for 64 x 96")):
        dispatch = await scene.dispatched()
        await scene.bring(dispatch.job_id, PICTURE)
        reply = await scene.answer(dispatch, PICTURE, **changes)
        assert (reply["code"], why in reply["message"]) == (400, True), reply
        assert await scene.read(PICTURE) == 404
        assert (await scene.network.finished(dispatch.job_id))["status"] == "failed"


async def test_another_operator_s_image_is_not_one_s_own(scene: Scene) -> None:
    """Both have a seat under this tag; each brings what it names, and spoils nothing of the other's."""
    second = Scene(scene.network, await painting(scene.network))
    dispatch = await scene.dispatched(tag="malicious")
    await second.operator.wait(lambda: bool(second.operator.dispatched))
    wrong = await second.put(dispatch.job_id, LARGE, data=encode_part(bytes(PART_BYTES)))
    assert wrong["held"] == PART_BYTES
    await scene.bring(dispatch.job_id, LARGE)
    assert (await scene.answer(dispatch, LARGE))["code"] == 200
    named = await second.answer(second.operator.dispatched[0], LARGE)
    assert named["code"] == 503


async def test_the_image_to_be_edited_is_given_to_who_has_the_seat(scene: Scene) -> None:
    header = read_header(LARGE)
    source = await scene.blobs.keep("shop", LARGE, header)
    assert await scene.blobs.keep("shop", LARGE, header) == source
    dispatch = await scene.dispatched(source=source)
    got, offset = b"", 0
    while offset < len(LARGE):
        part = await scene.ask("blob_get", job_id=dispatch.job_id, sha256=source, offset=offset)
        assert (part["code"], part["size"]) == (200, len(LARGE))
        got += blobs_module.decode_part(part["data"])
        offset = len(got)
    assert got == LARGE
    refused = {
        "no bytes": {"sha256": source, "offset": len(LARGE)},
        "does not want": {"sha256": digest(PICTURE), "offset": 0},
        "no open seat": {"sha256": source, "offset": 0, "job_id": "1" * 64},
    }
    for why, asked in refused.items():
        reply = await scene.ask("blob_get", **{"job_id": dispatch.job_id} | asked)
        assert (reply["code"], why in reply["message"]) == (400, True)


async def test_a_job_edits_images_of_its_own_project_only(scene: Scene) -> None:
    await scene.network.project("den", private=True)
    theirs = await scene.blobs.keep("den", PICTURE, read_header(PICTURE))
    token = await scene.network.project("other")
    image = {"n": 1, "width": 64, "height": 96, "source": theirs}
    job = {"tag": "opml", "prompt": "x", "model": MODEL, "image": image}
    body = scene.network.body(job=job, verify=token) | {"from": "other"}
    refused = await scene.network.post("/api/job/submit", body)
    assert refused.status_code == 422
    assert "job.image.source" in refused.json()["message"]


async def test_jobs_for_images_go_to_operators_that_make_them(scene: Scene) -> None:
    """Of one that serves the same model for texts, nothing is asked, and it would not do it."""
    other = await scene.network.operator(connect=False)
    other.models = [SERVED.model_copy(update={"kinds": [0]})]
    assert (await other.connect())["code"] == 200
    for _ in range(3):
        await scene.dispatched()
    assert other.dispatched == []


async def test_everything_is_bounded_and_expires(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    database, header = scene.network.dispatcher.database, read_header(LARGE)
    both = len(LARGE) + len(PICTURE)
    tight = Blobs(database, Limits(blobs_bytes=PROJECT_SHARE * both, blob_hours=1))
    await tight.keep("shop", LARGE, header)
    await tight.keep("shop", PICTURE, header)
    with pytest.raises(StoreFull):
        await tight.keep("shop", OTHER, header)
    await create_project(database, "other", private=False)
    await tight.keep("other", PICTURE, header)  # one project does not take the room of all
    with pytest.raises(StoreFull):
        await Blobs(database, Limits(blobs_bytes=both, blob_hours=1)).keep("other", OTHER, header)
    monkeypatch.setattr(blobs_module, "MOST_BLOBS", 2 * PROJECT_SHARE)
    with pytest.raises(StoreFull):
        await scene.blobs.keep("shop", OTHER, header)
    dispatch = await scene.dispatched()
    full = await scene.put(dispatch.job_id, OTHER)
    assert (full["code"], "no room" in full["message"]) == (503, True)
    [kept] = await tight.find(digest(LARGE))
    async with database.begin() as connection:
        await connection.execute(update(Blob).values(expires_at=func.now()))
    assert await tight.find(digest(LARGE)) == []
    assert await tight.sweep() == 3
    assert [await scene.count(table) for table in (Blob, BlobChunk)] == [0, 0]
    with pytest.raises(NotFound):
        await anext(aiter(tight.read(kept.id)))
    with pytest.raises(NotFound):
        await tight.of_result(dispatch.job_id, scene.operator.signer.address, digest(LARGE))
    await scene.bring(dispatch.job_id, OTHER)
    assert (await scene.answer(dispatch, OTHER))["code"] == 200


async def test_what_was_begun_and_never_finished_expires_sooner(scene: Scene) -> None:
    dispatch = await scene.dispatched()
    await scene.put(dispatch.job_id, LARGE)
    left = text("select extract(epoch from expires_at - now()) from blobs")
    async with scene.network.dispatcher.database.connect() as connection:
        assert 0 < (await connection.execute(left)).scalar_one() <= 3600
    for offset in (PART_BYTES, 2 * PART_BYTES):
        await scene.put(dispatch.job_id, LARGE, offset)
    async with scene.network.dispatcher.database.connect() as connection:
        assert (await connection.execute(left)).scalar_one() > 23 * 3600


async def test_pieces_that_come_at_the_same_time_come_one_after_another(scene: Scene) -> None:
    """The same pieces twice, all at once: each is there once."""
    dispatch, operator = await scene.dispatched(), scene.operator
    for offset in (0, PART_BYTES, 2 * PART_BYTES) * 2:
        param = _part(dispatch.job_id, LARGE, offset)
        await operator.send(operator.request("blob_put", param).text)
    await operator.wait(lambda: len(operator.replies) == 6)
    assert {reply["code"] for reply in operator.replies} == {200}
    await scene.bring(dispatch.job_id, LARGE)
    assert await scene.count(BlobChunk) == 3
    assert (await scene.answer(dispatch, LARGE))["code"] == 200
