"""The courier: images before the result that names them, piece by piece from where the dispatcher is, and what becomes of those that cannot go."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.courier import Courier
from aos_operator.errors import ImageRefused, LinkLost, StoreUnavailable
from aos_operator.events import Settled
from aos_operator.memory import MemoryStore
from aos_operator.tasks import Outcome, Scored, Task, TaskKey, TaskState
from aos_protocol.canonical import JsonObject
from aos_protocol.images import PART_BYTES, decode_part, encode_part, image_record, images_text
from aos_protocol.record import Record
from support.pictures import large_png, png
from unit.operator.world import World

WORLD = World()
SMALL, LARGE = png(64, 64), large_png(64, 64, 3 * PART_BYTES + 17)
Say = Callable[[JsonObject], JsonObject]


class Dispatcher:
    """The other end: keeps pieces in order, and answers what a test says instead, as often as it says."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked: list[JsonObject] = []
        self.results: list[Task] = []
        self.replies: list[JsonObject | Exception] = []
        self.taken: list[int] = []
        self.source = LARGE

    async def ask(self, method: str, param: JsonObject) -> Settled:
        self.asked.append(param)
        said = self.replies.pop(0) if self.replies else self._answer(method, param)
        if isinstance(said, Exception):
            raise said
        reply: JsonObject = {"code": 200, "message": "success"} | said
        return Settled("1", reply["code"], reply["message"], reply)

    async def result(self, task: Task) -> Settled:
        self.results.append(task)
        return Settled("1", self.taken.pop(0) if self.taken else 200, "said")

    def _answer(self, method: str, param: JsonObject) -> JsonObject:
        if method == "blob_get":
            part = self.source[param["offset"] : param["offset"] + PART_BYTES]
            return {"data": encode_part(part), "size": len(self.source)}
        held = self.held.get(param["sha256"], b"")
        if param["offset"] == len(held):
            held += decode_part(param["data"])
        self.held[param["sha256"]] = held
        return {"held": len(held)}


class Setting:
    """A courier with an open task whose outcome names these images, and has them unless told otherwise."""

    def __init__(self, *images: bytes) -> None:
        self.store, self.dispatcher = MemoryStore(), Dispatcher()
        self.courier = Courier(self.store.blobs, self.dispatcher)
        records = [image_record(image) for image in images]
        record = Record(level="text", backend="images", images=records)
        self.outcome = Outcome(images_text(records), "", None, record.digest(), record=record.to_json())
        self.task = Task(WORLD.job(), outcome=self.outcome)
        self.blobs = {one.sha256: image for one, image in zip(records, images, strict=True)}
        self.store.tasks[self.task.key] = self.task

    async def kept(self) -> "Setting":
        await self.courier.keep(self.task.key, self.blobs)
        return self

    @property
    def said(self) -> Outcome:
        outcome = self.dispatcher.results[-1].outcome
        assert isinstance(outcome, Outcome)
        return outcome


async def test_images_are_there_before_the_result_that_names_them() -> None:
    setting = await Setting(SMALL, LARGE).kept()
    assert (await setting.courier.result(setting.task)).code == 200
    assert setting.dispatcher.held == setting.blobs
    assert setting.said == setting.outcome
    offsets = [each["offset"] for each in setting.dispatcher.asked[1:]]
    assert offsets == [0, PART_BYTES, 2 * PART_BYTES, 3 * PART_BYTES]


async def test_the_same_image_twice_goes_once() -> None:
    setting = await Setting(SMALL, SMALL).kept()
    await setting.courier.result(setting.task)
    assert len(setting.dispatcher.asked) == 1


@given(st.lists(st.sampled_from(["lost", "later", "go"]), max_size=6))
async def test_whatever_breaks_off_goes_on_where_it_was(trouble: list[str]) -> None:
    setting = await Setting(LARGE).kept()
    replies: dict[str, list[JsonObject | Exception]] = {
        "lost": [LinkLost()],
        "later": [{"code": 503, "message": "no room"}],
        "go": [],
    }
    for kind in trouble:
        setting.dispatcher.replies = list(replies[kind])
        try:
            await setting.courier.result(setting.task)
        except LinkLost:
            assert setting.dispatcher.results == []
        else:
            assert kind == "go"
            setting.dispatcher.results.clear()
    await setting.courier.result(setting.task)
    assert setting.dispatcher.held == setting.blobs
    assert setting.said == setting.outcome


async def test_what_the_dispatcher_has_already_is_not_sent_again() -> None:
    setting = await Setting(LARGE).kept()
    setting.dispatcher.held = dict(setting.blobs)
    await setting.courier.result(setting.task)
    assert len(setting.dispatcher.asked) == 1


async def test_an_image_that_is_refused_withdraws_the_answer() -> None:
    setting = await Setting(SMALL).kept()
    setting.dispatcher.replies = [{"code": 400, "message": "not of this job"}]
    await setting.courier.result(setting.task)
    assert setting.said.result == ""
    assert "refuses an image (400): not of this job" in setting.said.reason


@pytest.mark.parametrize("reply", [{}, {"held": "1"}, {"held": -1}, {"held": 1, "more": 2}])
async def test_a_reply_that_cannot_be_read_withdraws_the_answer(reply: JsonObject) -> None:
    setting = await Setting(SMALL).kept()
    setting.dispatcher.replies = [reply]
    await setting.courier.result(setting.task)
    assert "cannot be read" in setting.said.reason


async def test_a_dispatcher_that_gets_nowhere_is_asked_again_later() -> None:
    setting = await Setting(LARGE).kept()
    setting.dispatcher.replies = [{"held": PART_BYTES}, {"held": PART_BYTES}]
    with pytest.raises(LinkLost, match="after it had"):
        await setting.courier.result(setting.task)


async def test_an_answer_whose_images_are_gone_goes_all_the_same_for_it_may_be_a_repetition() -> None:
    setting = Setting(SMALL)
    assert (await setting.courier.result(setting.task)).code == 200
    assert setting.said == setting.outcome


async def test_an_answer_whose_images_are_nowhere_is_withdrawn() -> None:
    setting = Setting(SMALL)
    setting.dispatcher.taken = [503, 200]
    await setting.courier.result(setting.task)
    assert setting.said.reason == "the images of this answer are not kept any more"


async def test_what_names_no_images_goes_as_it_is() -> None:
    setting = Setting(SMALL)
    for outcome in (Outcome.failed("no"), Outcome("text", "", None), Scored("1" * 64, None, None, "no")):
        task = Task(WORLD.job(), outcome=outcome)
        await setting.courier.result(task)
        assert setting.dispatcher.results[-1] is task
    assert setting.dispatcher.asked == []


async def test_the_image_to_be_edited_is_put_together_and_checked() -> None:
    setting = Setting(SMALL)
    digest = hashlib.sha256(LARGE).hexdigest()
    assert await setting.courier.fetch("1" * 64, digest, len(LARGE)) == LARGE
    assert [each["offset"] for each in setting.dispatcher.asked] == [
        0,
        PART_BYTES,
        2 * PART_BYTES,
        3 * PART_BYTES,
    ]


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ([{"code": 400, "message": "no such image"}], "no such image"),
        ([{"data": "", "size": 5}], "do not fit together"),
        ([{"data": encode_part(b"abcdef"), "size": 5}], "do not fit together"),
        ([{"data": encode_part(b"ab"), "size": 1 << 26}], "do not fit together"),
        ([{"data": encode_part(b"abcde"), "size": 5}], "no PNG, JPEG or WebP"),
        ([{"data": encode_part(SMALL), "size": len(SMALL)}], "the dispatcher gave image"),
        ([{"data": "*", "size": 1}], "cannot be read"),
    ],
)
async def test_an_image_to_be_edited_that_is_not_what_the_job_names_is_not_used(
    replies: list[Any], why: str
) -> None:
    setting = Setting(SMALL)
    setting.dispatcher.replies = replies
    with pytest.raises(ImageRefused, match=why):
        await setting.courier.fetch("1" * 64, "2" * 64, 1 << 20)


async def test_images_go_with_their_task() -> None:
    setting = await Setting(SMALL).kept()
    key: TaskKey = setting.task.key
    await setting.store.blobs.sweep()
    assert await setting.store.blobs.load(key, next(iter(setting.blobs))) == SMALL
    await setting.store.close(key, TaskState.ACCEPTED, "success")
    await setting.store.blobs.sweep()
    assert setting.store.blobs.kept == {}


async def test_a_store_that_is_away_only_delays_the_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = await Setting(SMALL).kept()
    swept = []

    async def sweep() -> None:
        swept.append(len(swept))
        if len(swept) == 1:
            raise StoreUnavailable
        raise KeyboardInterrupt  # the end of this test

    monkeypatch.setattr(setting.store.blobs, "sweep", sweep)
    monkeypatch.setattr("aos_operator.courier._SWEEP_S", 0)
    with pytest.raises(KeyboardInterrupt):
        await setting.courier.run()
    assert swept == [0, 1]
