"""The connection to the dispatcher, and everything that can happen to it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_cli import ports
from aos_operator.backends.protocol import Execution, Hear
from aos_operator.errors import DispatcherRefused, Replaced, StartError, WorkerUnavailable, WrongDispatcher
from aos_operator.link import CLOSE_REPLACED
from aos_operator.stub import StubWorker
from aos_operator.subjects import Subject
from aos_operator.tasks import TaskKey
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from unit.operator.world import MODEL, SERVED, World

STRANGER = Signer(b"\x33" * 32)


class SlowWorker(StubWorker):
    """A stub worker that waits for `go`, and may be away or change its models."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.away = False
        self.lost = 0

    def serve(self, *models: ServedModel) -> None:
        self._models = {model.name: model.sha256 for model in models}

    async def models(self) -> Any:
        if self.away:
            raise WorkerUnavailable("the worker cannot be reached: start it")
        return await super().models()

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.started.set()
        await self.go.wait()
        if self.lost:
            self.lost -= 1
            raise WorkerUnavailable("the connection broke off")
        return await super().generate(job, seed, prover, execution, hear)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        self.started.set()
        await self.go.wait()
        if self.lost:
            self.lost -= 1
            raise WorkerUnavailable("the connection broke off")
        return await super().score(job, subject)


def only(error: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in nested groups."""
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup):
        [inner] = inner.exceptions
    return inner


async def end_of(running: Running, meanwhile: Awaitable[None] | None = None) -> BaseException:
    """The error that ends an operator."""
    try:
        async with running():
            if meanwhile is not None:
                await meanwhile
            await asyncio.Event().wait()
    except BaseExceptionGroup as group:
        return only(group)
    raise AssertionError("it ended without an error")


class TestDispatcherThatDoesNotLetUsIn:
    async def test_a_refusal_at_the_first_connection_ends_the_operator(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        dispatcher.refuse = "operator is not registered here; run: dispatcher operator add 0x19E7"
        error = await end_of(running)
        assert isinstance(error, DispatcherRefused)
        assert "run: dispatcher operator add" in str(error)
        assert error.exit_code == 3

    async def test_another_key_at_the_address_ends_the_operator(
        self, running: Running, configuration: dict[str, Any]
    ) -> None:
        configuration["node"]["dispatcher_address"] = STRANGER.address
        error = await end_of(running)
        assert isinstance(error, WrongDispatcher)
        assert error.exit_code == 4

    async def test_a_refusal_later_on_is_waited_out(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            dispatcher.refuse = "this operator was removed"
            await dispatcher.drop()
            while len(dispatcher.connects) < 3:
                await asyncio.sleep(0.01)
            dispatcher.refuse = None
            await dispatcher.run(dispatcher.world.job())

    async def test_a_second_operator_with_our_key_ends_this_one(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        async def replaced() -> None:
            await dispatcher.connected.wait()
            await dispatcher.drop(CLOSE_REPLACED)

        assert isinstance(await end_of(running, replaced()), Replaced)

    async def test_a_dispatcher_that_is_not_there_yet_is_waited_for(
        self, running: Running, configuration: dict[str, Any]
    ) -> None:
        late = FakeDispatcher(World())
        with ports.reserve(0) as holder, capture_logs() as logs:
            configuration["net"]["dispatcher_url"] = f"ws://127.0.0.1:{ports.number(holder)}/ws"
            async with running():
                while not [entry for entry in logs if entry["event"] == "not connected to the dispatcher"]:
                    await asyncio.sleep(0.01)
                async with late.serving(ports.number(holder)):
                    await late.run(late.world.job())


class TestLostConnection:
    async def test_a_job_taken_before_is_answered_after(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        worker, job = SlowWorker(), dispatcher.world.job()
        async with running(worker):
            await dispatcher.draw(job)
            await dispatcher.dispatch(job)
            await worker.started.wait()
            await dispatcher.drop()
            worker.go.set()
            await dispatcher.result_of(job)
        assert len(dispatcher.connects) == 2

    async def test_a_result_without_a_reply_is_sent_again_on_the_next_connection(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        job, unanswered = dispatcher.world.job(), asyncio.Event()

        def silent(_: object) -> None:
            unanswered.set()

        dispatcher.answer = silent
        async with running():
            await dispatcher.draw(job)
            await dispatcher.dispatch(job)
            await unanswered.wait()
            dispatcher.answer = lambda _: (200, "success")
            await dispatcher.drop()
            await dispatcher.result_of(job)
        assert len(dispatcher.counters) == 3  # the ticket, and two sendings: each above the one before

    async def test_a_dispatcher_that_remembers_more_than_we_do_lifts_our_clock(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        dispatcher.counters.append(5000)
        async with running():
            await dispatcher.run(dispatcher.world.job())
        assert dispatcher.counters[1] > 5000


class TestRequests:
    async def test_a_repeated_dispatch_is_acknowledged_and_changes_nothing(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        job = dispatcher.world.job()
        async with running():
            await dispatcher.run(job)
            assert (await dispatcher.dispatch(job))["code"] == 200
            await dispatcher.run(dispatcher.world.job())
        assert dispatcher.repetitions == 0

    async def test_a_full_queue_declines_draws_and_dispatches(
        self, running: Running, dispatcher: FakeDispatcher, configuration: dict[str, Any]
    ) -> None:
        configuration["node"]["cache_msg_maximum"] = 1
        worker, world = SlowWorker(), dispatcher.world
        job = world.job()
        async with running(worker):
            await dispatcher.draw(job)
            await dispatcher.dispatch(job)
            assert (await dispatcher.draw(world.job()))["code"] == 429
            assert (await dispatcher.dispatch(world.job()))["code"] == 429
            worker.go.set()
            await dispatcher.result_of(job)
            await self.drawn_again(dispatcher)

    async def test_a_cancelled_job_is_dropped(self, running: Running, dispatcher: FakeDispatcher) -> None:
        worker, world = SlowWorker(), dispatcher.world
        job = world.job()
        async with running(worker):
            await dispatcher.draw(job)
            await dispatcher.dispatch(job)
            await worker.started.wait()
            reply = await dispatcher.ask("cancel_job", {"job_id": job.job_id, "tag": ""})
            assert reply == {"code": 200, "message": "success"}
            worker.go.set()
            await dispatcher.run(world.job())
        assert TaskKey.of(job) not in dispatcher.accepted

    async def test_forged_frames_do_not_disturb_an_honest_connection(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        world = dispatcher.world
        async with running():
            await dispatcher.connected.wait()
            forged = seal_request(STRANGER, "f", "dispatch_job", [world.job().to_json()]).text
            for text in ("nonsense", "{}", "x" * (5 << 20), world.reply("99")):
                await dispatcher.raw(text)
            await dispatcher.expect_refusal(forged, "f")
            await dispatcher.run(world.job())
        assert len(dispatcher.connects) == 1

    async def test_a_hundred_of_them_end_it_and_the_operator_comes_back(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            for _ in range(100):
                await dispatcher.raw("nonsense")
            while len(dispatcher.connects) < 2:
                await asyncio.sleep(0.01)
            await dispatcher.run(dispatcher.world.job())

    async def test_many_jobs_at_once_keep_the_clock_in_order(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        jobs = [dispatcher.world.job(f"prompt {number}") for number in range(40)]
        async with running():
            await dispatcher.connected.wait()
            await asyncio.gather(*(dispatcher.run(job) for job in jobs))
            results = [await dispatcher.result_of(job) for job in jobs]
        assert [result.result for result in results] == [f"prompt {number}"[:16] for number in range(40)]
        assert len(dispatcher.counters) == 80

    async def drawn_again(self, dispatcher: FakeDispatcher) -> None:
        while (await dispatcher.draw(dispatcher.world.job()))["code"] != 200:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("_watchful")
class TestWorkerThatChanges:
    async def test_new_models_are_announced_on_a_new_connection(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        worker, other = SlowWorker(), ServedModel(name="other.gguf", sha256="cd" * 32)
        async with running(worker):
            await dispatcher.connected.wait()
            worker.serve(MODEL, other)
            while len(dispatcher.connects) < 2:
                await asyncio.sleep(0.01)
        assert [connect.models for connect in dispatcher.connects] == [[SERVED], [SERVED, other]]

    async def test_while_it_is_away_draws_are_declined(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        worker = SlowWorker()
        worker.go.set()
        async with running(worker):
            await dispatcher.connected.wait()
            worker.away = True
            while (answer := await dispatcher.draw(dispatcher.world.job()))["code"] == 200:
                await asyncio.sleep(0.01)
            assert answer["code"] == 503
            assert "cannot be reached" in answer["message"]
            worker.away = False
            while (await dispatcher.draw(dispatcher.world.job()))["code"] != 200:
                await asyncio.sleep(0.01)
            await dispatcher.run(dispatcher.world.job())

    async def test_nothing_is_announced_before_it_has_answered(
        self, running: Running, dispatcher: FakeDispatcher
    ) -> None:
        worker = SlowWorker()
        worker.away = True
        with capture_logs() as logs:
            async with running(worker):
                while not [entry for entry in logs if entry["event"] == "waiting to try again"]:
                    await asyncio.sleep(0.01)
                assert dispatcher.connects == []
                worker.away = False
                await dispatcher.connected.wait()


class TestSetUpWrongly:
    async def test_a_node_id_of_another_key_is_named(
        self, running: Running, configuration: dict[str, Any]
    ) -> None:
        configuration["node"]["node_id"] = STRANGER.address
        await self.refused(running, f"node.node_id is {STRANGER.address}, but the key is that of 0x19E7")

    async def refused(self, running: Running, said: str) -> None:
        error = await end_of(running)
        assert isinstance(error, StartError)
        assert said in str(error)
        assert error.exit_code == 2


class Strict(FakeDispatcher):
    """Lets no operator in that offers the model `weak`, and says so by name."""

    @property
    def refuse(self) -> str | None:
        names = [model.name for model in self.connects[-1].models] if self.connects else []
        return (
            "answers must show fingerprints at least here, and weak shows text" if "weak" in names else None
        )

    @refuse.setter
    def refuse(self, _: str | None) -> None:
        """It is not for tests to say."""


@pytest.mark.usefixtures("_watchful")
async def test_a_new_model_that_the_dispatcher_does_not_take_is_left_out_and_the_rest_is_served(
    configuration: dict[str, Any], running: Running
) -> None:
    """Else whoever can add a model on the operator's machine could take the operator off the network."""
    worker = SlowWorker()
    worker.go.set()
    weak, good = (ServedModel(name=name, sha256="cd" * 32) for name in ("weak", "good"))
    async with Strict(World()).serving() as strict:
        configuration["net"]["dispatcher_url"] = strict.url
        with capture_logs() as logs:
            async with running(worker):
                await strict.reconnected(1)
                worker.serve(SERVED, weak)
                await strict.reconnected(3)  # with it, which is refused, and without
                assert [model.name for model in strict.connects[-1].models] == [MODEL.name]
                await strict.run(strict.world.job())
                worker.serve(SERVED, good)
                await strict.reconnected(4)
                assert [model.name for model in strict.connects[-1].models] == [MODEL.name, "good"]
        [left_out] = [log["models"] for log in logs if "left out" in log["event"]]
        assert left_out == ["weak"]
        assert strict.problems == []
