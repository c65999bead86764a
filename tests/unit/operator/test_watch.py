"""The watch on the worker: its models, its absences, and when the dispatcher must hear of them."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from aos_operator.errors import WorkerUnavailable
from aos_operator.stub import StubWorker
from aos_operator.watch import WorkerWatch
from aos_protocol.messages import ServedModel
from unit.operator.world import MODEL, SERVED

OTHER = ServedModel(name="other.gguf", sha256="cd" * 32)


class ChangingWorker(StubWorker):
    """Says one of `answers` after the other; None means that it is away. The last one stays."""

    def __init__(self, *answers: list[ServedModel] | None) -> None:
        super().__init__({})
        self.answers = list(answers)

    async def models(self) -> Sequence[ServedModel]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise WorkerUnavailable("cannot be reached")
        return answer


async def watched(worker: ChangingWorker, wanted: list[str] | None = None) -> tuple[WorkerWatch, list[str]]:
    """Watch until the worker's last answer; return the watch, and its offers as they were announced anew."""
    watch, announced = WorkerWatch(worker, "opml", wanted or [], interval=0), list[str]()
    await watch.start()

    async def changed() -> None:
        announced.append(",".join(watch.offer.models))

    running = asyncio.create_task(watch.run(changed))
    while len(worker.answers) > 1:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()
    return watch, announced


async def test_the_first_answer_is_the_offer() -> None:
    watch = WorkerWatch(ChangingWorker([SERVED]), "opml", [], interval=1)
    assert watch.away
    await watch.start()
    assert watch.offer.models == {MODEL.name: SERVED}
    assert not watch.away


async def test_a_change_is_announced_once() -> None:
    _, announced = await watched(
        ChangingWorker([SERVED], [SERVED], [SERVED, OTHER], [SERVED, OTHER], [OTHER])
    )
    assert announced == ["demo.gguf,other.gguf", "other.gguf"]


async def test_a_model_with_the_same_name_and_another_file_is_a_change() -> None:
    swapped = MODEL.model_copy(update={"sha256": "00" * 32})
    watch, announced = await watched(ChangingWorker([SERVED], [swapped]))
    assert announced == ["demo.gguf"]
    assert watch.offer.models[MODEL.name].sha256 == "00" * 32


async def test_a_change_of_models_that_are_not_wanted_is_none() -> None:
    watch, announced = await watched(ChangingWorker([SERVED], [SERVED, OTHER]), [MODEL.name])
    assert announced == []
    assert watch.offer.models == {MODEL.name: SERVED}


async def test_an_absence_is_noted_and_forgotten_when_it_ends() -> None:
    away, _ = await watched(ChangingWorker([SERVED], None))
    assert away.away == "cannot be reached"
    back, announced = await watched(ChangingWorker([SERVED], None, None, [SERVED]))
    assert back.away == ""
    assert announced == []


async def test_an_absence_is_logged_once() -> None:
    with capture_logs() as logs:
        await watched(ChangingWorker([SERVED], None, None, None, [SERVED]))
    said = [entry["event"] for entry in logs if "worker is" in entry["event"]]
    assert said == ["the worker is away: draws are declined until it is back", "the worker is back"]


@pytest.mark.parametrize("served", [[], [OTHER]])
async def test_models_that_the_worker_lacks_are_an_error_that_lists_what_it_has(
    served: list[ServedModel],
) -> None:
    with capture_logs() as logs:
        await watched(ChangingWorker(served), [MODEL.name])
    [error] = [entry for entry in logs if entry["log_level"] == "error"]
    assert error["missing"] == [MODEL.name]
    assert error["worker_has"] == (OTHER.name if served else "none")


async def test_whoever_knows_of_a_change_has_the_worker_asked_before_it_is_due() -> None:
    watch = WorkerWatch(ChangingWorker([SERVED], [SERVED, OTHER]), "opml", [], interval=3600)
    await watch.start()
    announced = asyncio.Event()

    async def changed() -> None:
        announced.set()

    watching = asyncio.create_task(watch.run(changed))
    for _ in range(3):
        watch.nudge()
    async with asyncio.timeout(5):
        await announced.wait()
    assert set(watch.offer.models) == {SERVED.name, OTHER.name}
    watching.cancel()
