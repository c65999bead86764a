"""Models that register with the node beside them: offered while they answer, and gone when they do not, with nobody saying so."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from aos_operator.backends.protocol import Backend
from aos_operator.errors import Refused, StoreUnavailable
from aos_operator.registration import MOST, MOST_ALIKE, Pace, Registrations
from aos_operator.registration_messages import (
    ProjectModel,
    RegisterModel,
    RegisterProject,
    UnregisterModel,
    UnregisterProject,
)
from aos_operator.registration_place import Place
from aos_operator.registration_store import InstanceKey, Registered
from aos_operator.stub import StubWorker

API = "http://127.0.0.1:1042/v1/chat/completions"
KEY = InstanceKey("DecentralGPT", "Llama3-70B", "d15c4007271b")
EAGER = Pace(least=0.0, most=0.0, patience=600.0)
"""Asks all the time, so that tests need not wait."""


class MemoryInstances:
    """`InstanceStore` for as long as it is referenced; it can be away."""

    def __init__(self) -> None:
        self.kept: dict[InstanceKey, Registered] = {}
        self.away = False

    async def instances(self) -> Sequence[Registered]:
        self._check()
        return list(self.kept.values())

    async def keep_instances(self, instances: Sequence[Registered]) -> None:
        self._check()
        self.kept |= {registered.key: registered for registered in instances}

    async def drop_instances(self, keys: Sequence[InstanceKey]) -> None:
        self._check()
        for key in keys:
            self.kept.pop(key, None)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable


class World:
    """A node's pool of backends, and which of its models answer: those in `away` do not. Those in `at_work` run a job."""

    def __init__(self) -> None:
        self.store = MemoryInstances()
        self.pool: dict[InstanceKey, Backend] = {}
        self.made: list[tuple[Registered, Place]] = []
        self.away: set[str] = set()
        self.at_work: set[str] = set()
        self.probed: list[str] = []
        self.changes = 0
        self._moved = asyncio.Condition()

    def put(self, key: InstanceKey, backend: Backend) -> None:
        self.pool[key] = backend

    def remove(self, key: InstanceKey) -> None:
        del self.pool[key]

    def busy(self, key: InstanceKey) -> bool:
        return key.model in self.at_work

    def make(self, registered: Registered, place: Place) -> Backend:
        self.made.append((registered, place))
        return StubWorker({registered.key.model: "ab" * 32})

    async def problem(self, place: Place, model: str) -> str:
        self.probed.append(model)
        async with self._moved:
            self._moved.notify_all()
        await asyncio.sleep(0)
        return f"nothing answers at {place.base}" if {model, place.base} & self.away else ""

    def changed(self) -> None:
        self.changes += 1

    async def until(self, *offered: InstanceKey) -> None:
        """Wait until exactly these are offered."""
        async with asyncio.timeout(20), self._moved:
            await self._moved.wait_for(lambda: set(self.pool) == set(offered))

    @asynccontextmanager
    async def node(self, **options: Any) -> AsyncIterator[Registrations]:
        """A node that runs; when it ends, its pool is empty as that of a process that ended."""
        node = Registrations(
            self.store,
            self,
            self.make,
            self,
            self.changed,
            **{"pace": EAGER, "taken": lambda _: False, **options},
        )
        await node.start()
        running = asyncio.create_task(node.run())
        try:
            yield node
        finally:
            running.cancel()
            await asyncio.wait([running])
            self.pool.clear()


@pytest.fixture
def world() -> World:
    return World()


def asked(key: InstanceKey = KEY, api: str = API, kind: Any = 0) -> RegisterModel:
    return RegisterModel(project=key.project, model=key.model, api=api, kind=kind, cid=key.cid)


def unasked(key: InstanceKey = KEY) -> UnregisterModel:
    return UnregisterModel(project=key.project, model=key.model, cid=key.cid)


async def test_a_registered_model_is_offered_and_an_unregistered_one_is_not(world: World) -> None:
    async with world.node() as node:
        await node.register_model(asked())
        await world.until(KEY)
        [(registered, place)] = world.made
        assert (registered.key, registered.kind, place.base) == (KEY, 0, "http://127.0.0.1:1042/v1")
        await node.unregister_model(unasked())
        assert world.pool == {}
        assert world.store.kept == {}
        assert world.changes == 2


async def test_four_containers_of_one_model_are_four_instances(world: World) -> None:
    keys = [KEY._replace(cid=f"cid{number}") for number in range(4)]
    async with world.node() as node:
        for key in keys:
            await node.register_model(asked(key))
        await world.until(*keys)
        await node.unregister_model(unasked(keys[1]))
        await world.until(keys[0], *keys[2:])


async def test_registering_again_updates_and_the_same_again_changes_nothing(world: World) -> None:
    async with world.node() as node:
        await node.register_model(asked())
        await world.until(KEY)
        before = world.pool[KEY]
        await node.register_model(asked())
        assert world.pool[KEY] is before
        await node.register_model(asked(api="http://127.0.0.1:2000/v1/images/generations", kind=1))
        await world.until(KEY)
        [*_, (registered, place)] = world.made
        assert (registered.kind, place.base) == (1, "http://127.0.0.1:2000/v1")
        assert len(world.made) == 2
        assert world.store.kept[KEY].kind == 1


async def test_a_model_that_stops_answering_is_gone_and_is_back_when_it_answers(world: World) -> None:
    async with world.node() as node:
        await node.register_model(asked())
        await world.until(KEY)
        world.away.add(KEY.model)
        with capture_logs() as logs:
            await world.until()
        assert [log["why"] for log in logs if "does not answer" in log["event"]] == [
            "nothing answers at http://127.0.0.1:1042/v1"
        ]
        world.away.clear()
        await world.until(KEY)
        assert world.changes == 3


async def test_a_model_at_work_is_there_and_is_not_asked(world: World) -> None:
    other = KEY._replace(model="another")
    async with world.node() as node:
        await node.register_model(asked())
        await world.until(KEY)
        world.at_work.add(KEY.model)
        before = world.probed.count(KEY.model)
        await node.register_model(asked(other))
        await world.until(KEY, other)
        assert world.probed.count(KEY.model) == before
        world.at_work.clear()
        world.away.add(KEY.model)
        await world.until(other)


async def test_a_model_may_register_before_it_listens(world: World) -> None:
    world.away.add(KEY.model)
    async with world.node() as node:
        await node.register_model(asked())
        assert world.pool == {}
        world.away.clear()
        await world.until(KEY)


async def test_a_model_that_stays_away_is_forgotten(world: World) -> None:
    world.away.add(KEY.model)
    async with world.node(pace=Pace(0.0, 0.0, patience=0.0)) as node:
        await node.register_model(asked())
        async with asyncio.timeout(20):
            while world.store.kept:
                await asyncio.sleep(0)
        world.away.clear()
        with pytest.raises(Refused, match="not registered"):
            await node.unregister_model(unasked())


async def test_one_that_cannot_be_forgotten_now_is_forgotten_later(world: World) -> None:
    world.away.add(KEY.model)
    async with world.node(pace=Pace(0.0, 0.0, patience=0.0)) as node:
        await node.register_model(asked())
        world.store.away = True
        async with asyncio.timeout(20):
            with capture_logs() as logs:
                while not any("cannot be forgotten now" in log["event"] for log in logs):
                    await asyncio.sleep(0)
            world.store.away = False
            while world.store.kept:
                await asyncio.sleep(0)


async def test_a_restarted_node_finds_those_that_still_run(world: World) -> None:
    gone = KEY._replace(model="gone")
    async with world.node() as node:
        await node.register_model(asked())
        await node.register_model(asked(gone, "http://127.0.0.1:2000/v1/chat/completions"))
        await world.until(KEY, gone)
    world.away.add("gone")
    async with world.node():
        await world.until(KEY)
        assert set(world.store.kept) == {KEY, gone}


async def test_a_project_registers_all_of_its_models_or_none(world: World) -> None:
    models = [ProjectModel(model=f"model-{number}", api=API, cid="c") for number in range(3)]
    keys = [InstanceKey("p", model.model, "c") for model in models]
    async with world.node() as node:
        elsewhere = ProjectModel(model="far", api="http://198.51.100.1/v1/chat/completions")
        with pytest.raises(Refused, match="same machine"):
            await node.register_project(RegisterProject(project="p", models=[*models, elsewhere]))
        assert world.store.kept == {}
        await node.register_project(RegisterProject(project="p", models=models))
        await node.register_model(asked())
        await world.until(*keys, KEY)
        await node.register_project(RegisterProject(project="p", models=models[:1]))  # the others stay
        await world.until(*keys, KEY)
        await node.unregister_project(UnregisterProject(project="p"))
        await world.until(KEY)
        assert set(world.store.kept) == {KEY}


async def test_a_project_names_each_instance_once(world: World) -> None:
    twice = [ProjectModel(model="m", api=API), ProjectModel(model="m", api=API)]
    async with world.node() as node:
        with pytest.raises(Refused, match="its own cid"):
            await node.register_project(RegisterProject(project="p", models=twice))


async def test_what_is_not_registered_cannot_be_unregistered(world: World) -> None:
    async with world.node() as node:
        await node.register_model(asked())
        for other in (KEY._replace(cid=""), KEY._replace(project="x"), KEY._replace(model="x")):
            with pytest.raises(Refused, match="not registered") as caught:
                await node.unregister_model(unasked(other))
            assert caught.value.code == 404
        with pytest.raises(Refused, match="not registered here: project x"):
            await node.unregister_project(UnregisterProject(project="x"))


async def test_the_number_of_instances_is_bounded(world: World) -> None:
    world.store.kept = {
        key: Registered(key, API, 0)
        for key in (InstanceKey("p", f"m{number // MOST_ALIKE}", str(number)) for number in range(MOST))
    }
    async with world.node(pace=Pace(1000, 1000)) as node:
        with pytest.raises(Refused, match=f"{MOST_ALIKE} instances of m0") as caught:
            await node.register_model(asked(InstanceKey("p", "m0", "one more")))
        assert caught.value.code == 429
        with pytest.raises(Refused, match=f"{MOST} models"):
            await node.register_model(asked())
        await node.register_model(asked(InstanceKey("p", "m0", "0")))  # an update takes no room
        await node.unregister_model(unasked(InstanceKey("p", "m1", "64")))
        await node.register_model(asked())


async def test_nobody_takes_the_name_of_what_the_node_serves_itself(world: World) -> None:
    async with world.node(taken=lambda name: name == KEY.model) as node:
        with pytest.raises(Refused, match="serves Llama3-70B itself") as caught:
            await node.register_model(asked())
        assert caught.value.code == 409


async def test_a_store_that_is_away_takes_no_registration(world: World) -> None:
    async with world.node() as node:
        world.store.away = True
        with pytest.raises(StoreUnavailable):
            await node.register_model(asked())
        assert world.pool == {}
        world.store.away = False
        await node.register_model(asked())
        await world.until(KEY)
        world.store.away = True
        with pytest.raises(StoreUnavailable):
            await node.unregister_model(unasked())
        assert set(world.pool) == {KEY}


async def test_one_that_is_slow_to_answer_holds_up_no_other(world: World) -> None:
    hanging = asyncio.Event()
    answer = world.problem

    async def problem(place: Place, model: str) -> str:
        if model == "slow":
            await hanging.wait()
        return await answer(place, model)

    world.problem = problem  # type: ignore[method-assign]
    async with world.node() as node:
        await node.register_model(asked(KEY._replace(model="slow")))
        await node.register_model(asked())
        await world.until(KEY)
        hanging.set()
        await world.until(KEY, KEY._replace(model="slow"))


def test_the_pace_slows_down_while_nothing_changes() -> None:
    pace, interval = Pace(1.0, 10.0), 1.0
    seen = []
    for _ in range(8):
        seen.append(interval)
        interval = pace.after(interval)
    assert seen == sorted(seen)
    assert (seen[0], seen[1], seen[-1]) == (1.0, 1.5, 10.0)
