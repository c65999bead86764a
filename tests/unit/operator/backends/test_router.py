import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_operator.backends.protocol import Execution, Hear, Piece, Queued
from aos_operator.backends.router import Router
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.job import Claim, ImageSpec, JobSpec
from aos_protocol.messages import Instance, ServedModel

SUBJECT = Subject("ab" * 32, Claim(text="x"))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stand:
    """A backend that a test stands in for: answers its own name, or raises `problem`; waits for `go` before it does."""

    def __init__(self, name: str, *models: ServedModel) -> None:
        self.name = name
        self.served = list(models)
        self.problem: Exception | None = None
        self.away: Exception | None = None
        self.says: list[Piece | Queued] = []
        self.go = asyncio.Event()
        self.go.set()
        self.started = asyncio.Event()
        self.closed = False

    async def models(self) -> Sequence[ServedModel]:
        if self.away is not None:
            raise self.away
        return self.served

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.started.set()
        for news in self.says if hear is not None else ():
            hear(news)
        await self.go.wait()
        if self.problem is not None:
            raise self.problem
        return {"text": self.name}

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        return {"scores": [self.name]}

    async def attestation(self, nonce: str) -> dict[str, Any]:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True


class Painting(Stand):
    """One that paints, too."""

    async def paint(self, job: JobSpec, image: ImageSpec, source: bytes | None) -> dict[str, Any]:
        return {"text": f"{self.name} painted"}


def model(name: str = "m", digest: str = "aa", **more: Any) -> ServedModel:
    return ServedModel(name=name, sha256=digest * 32, **{"evidence": "text", **more})


def job(name: str = "m", **more: Any) -> JobSpec:
    return JobSpec(tag="opml", prompt="x", model=name, **more)


async def ask(router: Router, name: str = "m") -> str:
    return str((await router.generate(job(name), "", ""))["text"])


def router_of(*stands: Stand, clock: Clock | None = None) -> Router:
    router = Router(clock or Clock())
    for stand in stands:
        router.put(stand.name, stand)
    return router


async def test_each_job_goes_to_who_serves_its_model() -> None:
    router = router_of(Stand("one", model("a")), Stand("two", model("b")))
    assert [await ask(router, "a"), await ask(router, "b")] == ["one", "two"]
    assert [offer.name for offer in await router.models()] == ["a", "b"]
    with pytest.raises(WorkerRefused, match="no backend here serves c"):
        await ask(router, "c")


async def test_several_take_turns_and_the_least_busy_comes_first() -> None:
    one, two = Stand("one", model()), Stand("two", model())
    router = router_of(one, two)
    assert [await ask(router) for _ in range(4)] == ["one", "two", "one", "two"]
    one.go.clear()
    one.started.clear()
    waiting = asyncio.create_task(ask(router))
    await one.started.wait()
    assert [await ask(router) for _ in range(3)] == ["two", "two", "two"]
    one.go.set()
    assert await waiting == "one"


@pytest.mark.parametrize("problem", [WorkerUnavailable("gone"), WorkerBusy("full")])
async def test_the_next_is_tried_when_one_cannot_take_it(problem: Exception) -> None:
    one, two = Stand("one", model()), Stand("two", model())
    one.problem = problem
    router = router_of(one, two)
    assert await ask(router) == "two"
    two.problem = WorkerBusy("full, too")
    with pytest.raises(WorkerUnavailable):
        await ask(router)


async def test_a_job_that_one_refuses_is_refused() -> None:
    one, two = Stand("one", model()), Stand("two", model())
    one.problem = WorkerRefused("too long")
    with pytest.raises(WorkerRefused, match="too long"):
        await ask(router_of(one, two))


async def test_nobody_goes_on_with_what_another_has_begun_to_tell() -> None:
    one, two = Stand("one", model()), Stand("two", model())
    router = router_of(one, two)
    one.problem, one.says = WorkerUnavailable("gone"), [Queued(1), Piece("Fi")]
    heard: list[Piece | Queued] = []
    with pytest.raises(WorkerUnavailable, match="gone"):
        await router.generate(job(), "", "", hear=heard.append)
    assert heard == one.says
    one.says = [Queued(1)]
    router = router_of(one, two)
    assert (await router.generate(job(), "", "", hear=heard.append))["text"] == "two"


async def test_who_fails_again_and_again_rests_ever_longer_and_then_is_tried() -> None:
    clock, one = Clock(), Stand("one", model())
    router = router_of(one, clock=clock)
    one.problem = WorkerUnavailable("gone")
    for _ in range(3):
        with pytest.raises(WorkerUnavailable, match="gone"):
            await ask(router)
    for rest in (5, 10, 20, 40, 60, 60):
        assert await router.models() == []
        clock.now += rest - 0.1
        with pytest.raises(WorkerUnavailable, match="rests"):
            await ask(router)
        clock.now += 0.2
        with pytest.raises(WorkerUnavailable, match="gone"):
            await ask(router)
    clock.now += 61
    one.problem = None
    assert await ask(router) == "one"
    assert [offer.name for offer in await router.models()] == ["m"]


@pytest.mark.parametrize("problem", [WorkerBusy("full"), WorkerRefused("too long")])
async def test_who_is_busy_or_refuses_does_not_rest(problem: Exception) -> None:
    one = Stand("one", model())
    one.problem = problem
    router = router_of(one)
    for _ in range(5):
        with pytest.raises(type(problem)):
            await ask(router)
    assert len(await router.models()) == 1


async def test_backends_come_and_go_and_are_closed_when_they_are_done() -> None:
    one, two = Stand("one", model()), Stand("two", model("b"))
    router = router_of(one)
    assert await ask(router) == "one"
    router.put("two", two)
    assert await ask(router, "b") == "two"
    one.go.clear()
    one.started.clear()
    running = asyncio.create_task(ask(router))
    await one.started.wait()
    router.remove("one")
    router.remove("nobody")
    assert [offer.name for offer in await router.models()] == ["b"]
    assert not one.closed
    one.go.set()
    assert await running == "one"
    router.put("two", Stand("again", model("b")))
    assert await ask(router, "b") == "again"
    await router.close()
    assert one.closed
    assert two.closed


async def test_what_serves_nothing_now_is_no_problem_unless_nobody_answers() -> None:
    one, two = Stand("one", model("a")), Stand("two", model("b"))
    router = router_of(one, two)
    one.away = WorkerUnavailable("one is gone")
    assert [offer.name for offer in await router.models()] == ["b"]
    with pytest.raises(WorkerUnavailable, match="no backend serves a now; not asked: one is gone"):
        await ask(router, "a")
    two.away = WorkerUnavailable("two is gone")
    with pytest.raises(WorkerUnavailable, match="one is gone; two is gone"):
        await router.models()
    assert await Router().models() == []


async def test_an_offer_is_what_all_of_them_can() -> None:
    here, there = Instance(project="p", cid="1"), Instance(project="p", cid="2")
    one = model(evidence="logprobs", able=["chat", "fim", "logprobs"], instances=[here], kinds=[0, 1])
    two = model(evidence="text", able=["chat", "fim"], instances=[there], kinds=[1])
    router = router_of(Stand("one", one), Stand("two", two))
    assert await router.models() == [
        model(evidence="text", able=["chat", "fim"], instances=[here, there], kinds=[0, 1])
    ]


async def test_another_file_of_the_same_name_is_not_used_and_said_once() -> None:
    one, two = Stand("one", model(digest="aa")), Stand("two", model(digest="bb"))
    router = router_of(one, two)
    with capture_logs() as logs:
        assert [offer.sha256[:2] for offer in await router.models()] == ["aa"]
        await router.models()
    assert [log["models"] for log in logs] == [["m"]]
    assert [await ask(router) for _ in range(2)] == ["one", "one"]


async def test_only_who_shows_transcripts_scores() -> None:
    router = router_of(Stand("one", model("a")), Stand("two", model("b", evidence="fingerprints")))
    assert await router.score(job("b"), SUBJECT) == {"scores": ["two"]}
    with pytest.raises(WorkerRefused, match="no backend here can score a"):
        await router.score(job("a"), SUBJECT)
    with pytest.raises(WorkerRefused, match="enclave"):
        await router.attestation("ab" * 32)


async def test_images_go_to_who_paints() -> None:
    image = ImageSpec()
    router = router_of(
        Stand("one", model("m")),
        Painting("two", model("p", kinds=[1])),
        Stand("three", model("q", kinds=[1])),
    )
    assert await router.paint(job("p", image=image), image, None) == {"text": "two painted"}
    with pytest.raises(WorkerRefused, match="for jobs of kind 1"):
        await router.paint(job("m", image=image), image, None)
    with pytest.raises(WorkerRefused, match="makes no images"):
        await router.paint(job("q", image=image), image, None)
