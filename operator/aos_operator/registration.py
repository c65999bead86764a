"""The models that register themselves with the node beside them: kept, looked after, and offered while they are there.

1. A registration is checked, stored, and then acknowledged.
2. The model is offered as soon as it answers; a server may register before it listens.
3. It is asked again and again. When it does not answer, it is no longer offered; when it has not answered for `Pace.patience`, it is forgotten.
4. A restarted node begins with what was stored, at step 2.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import structlog

from aos_operator.backends.protocol import Backend
from aos_operator.backoff import until_available
from aos_operator.errors import Refused, Unavailable
from aos_operator.registration_health import Probe
from aos_operator.registration_messages import (
    ProjectModel,
    RegisterModel,
    RegisterProject,
    UnregisterModel,
    UnregisterProject,
)
from aos_operator.registration_place import Place, place_of
from aos_operator.registration_store import InstanceKey, InstanceStore, Registered

MOST: Final = 256
"""How many models one node has registered at most."""

MOST_ALIKE: Final = 64
"""How many instances of one model: more cannot be announced."""

_AT_ONCE: Final = 8

_log = structlog.get_logger(__name__)


class Pool(Protocol):
    """Where backends are put while they may be used."""

    def put(self, key: InstanceKey, backend: Backend) -> None:
        """Use a backend from now on, in the place of one of the same key."""
        ...

    def remove(self, key: InstanceKey) -> None:
        """Use it no more."""
        ...

    def busy(self, key: InstanceKey) -> bool:
        """Whether it is at work on a job."""
        ...


MakeBackend: TypeAlias = Callable[[Registered, Place], Backend]
"""Makes what speaks to a registered model."""


@dataclass(frozen=True)
class Pace:
    """How often a model is asked: after `least` seconds at first and whenever something has changed, then ever less often, up to `most`.

    One that has not answered for `patience` seconds is forgotten.
    """

    least: float = 1.0
    most: float = 5.0
    patience: float = 600.0

    def after(self, interval: float) -> float:
        """The interval that follows one after which nothing had changed."""
        return min(self.most, interval * 1.5)


@dataclass
class _Instance:
    registered: Registered
    place: Place
    interval: float
    due: float = 0.0
    away_since: float | None = None
    """When it was found that it does not answer; None while it does. One that was never asked is not offered either."""
    offered: bool = False
    looked_at: bool = False
    """True while it is being asked."""


class Registrations:
    """The registered models of one node. Await `start`, then keep `run` running; `changed` is called after the offer has changed.

    `taken` says of a name whether the node serves another model by it: nobody registers one then.
    """

    def __init__(
        self,
        store: InstanceStore,
        pool: Pool,
        make: MakeBackend,
        probe: Probe,
        changed: Callable[[], None],
        *,
        taken: Callable[[str], bool],
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._pool = pool
        self._make = make
        self._probe = probe
        self._changed = changed
        self._taken = taken
        self._pace = pace or Pace()
        self._known: dict[InstanceKey, _Instance] = {}
        self._lock = asyncio.Lock()
        self._looks = asyncio.Semaphore(_AT_ONCE)
        self._nudged = asyncio.Event()

    async def start(self) -> None:
        """Load what was registered before; nothing of it is offered before it was found to answer."""
        stored = await until_available(self._store.instances, "loading the registered models")
        for registered in stored:
            try:
                self._know(registered, place_of(registered.api, registered.kind))
            except Refused as error:
                _log.warning(
                    "a registered model is not where it was", **_named(registered.key), why=str(error)
                )

    async def register_model(self, asked: RegisterModel) -> None:
        """Register or update one model. Raises `Refused` or `StoreUnavailable`."""
        await self._register([_registered(asked.project, asked)])

    async def register_project(self, asked: RegisterProject) -> None:
        """Register or update models of a project: all of them, or none. Raises `Refused` or `StoreUnavailable`."""
        models = {(model.model, model.cid) for model in asked.models}
        if len(models) != len(asked.models):
            raise Refused(400, "models: two are the same model in the same container: give each its own cid")
        await self._register([_registered(asked.project, model) for model in asked.models])

    async def unregister_model(self, asked: UnregisterModel) -> None:
        """Forget one model. Raises `Refused` (404) when it is not registered, or `StoreUnavailable`."""
        key = InstanceKey(asked.project, asked.model, asked.cid)
        await self._unregister(
            lambda known: known == key,
            f"model {asked.model}, cid {asked.cid!r}, project {asked.project}",
        )

    async def unregister_project(self, asked: UnregisterProject) -> None:
        """Forget all models of a project. Raises `Refused` (404) when none is registered, or `StoreUnavailable`."""
        await self._unregister(lambda known: known.project == asked.project, f"project {asked.project}")

    async def run(self) -> None:
        """Ask every model whenever it is due, for ever."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as looks:
            while True:
                self._nudged.clear()
                idle = [instance for instance in self._known.values() if not instance.looked_at]
                for instance in idle:
                    if instance.due <= clock():
                        instance.looked_at = True
                        looks.create_task(self._look(instance))
                until = min((i.due for i in idle if not i.looked_at), default=clock() + self._pace.most)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._nudged.wait()

    async def _register(self, asked: Sequence[Registered]) -> None:
        places = [place_of(registered.api, registered.kind) for registered in asked]
        async with self._lock:
            self._check_room(asked)
            await self._store.keep_instances(asked)
            for registered, place in zip(asked, places, strict=True):
                self._update(registered, place)
        self._nudged.set()

    def _check_room(self, asked: Sequence[Registered]) -> None:
        keys = {*self._known, *(registered.key for registered in asked)}
        for registered in asked:
            name = registered.key.model
            if self._taken(name):
                raise Refused(409, f"this node serves {name} itself, by its settings: register another name")
            if sum(key.model == name for key in keys) > MOST_ALIKE:
                raise Refused(429, f"{MOST_ALIKE} instances of {name} are registered here already")
        if len(keys) > MOST:
            raise Refused(429, f"{MOST} models are registered here already: unregister some")

    def _update(self, registered: Registered, place: Place) -> None:
        known = self._known.get(registered.key)
        if known is not None and known.registered == registered:
            known.due, known.interval = 0.0, self._pace.least
            return
        if known is not None:
            self._withdraw(known)
        self._know(registered, place)
        _log.info("a model registered", **_named(registered.key), api=registered.api, type=registered.kind)

    def _know(self, registered: Registered, place: Place) -> None:
        self._known[registered.key] = _Instance(registered, place, self._pace.least)

    async def _unregister(self, which: Callable[[InstanceKey], bool], what: str) -> None:
        async with self._lock:
            keys = [key for key in self._known if which(key)]
            if not keys:
                raise Refused(404, f"this is not registered here: {what}")
            await self._forget(keys)
        for key in keys:
            _log.info("a model unregistered", **_named(key))

    async def _forget(self, keys: Iterable[InstanceKey]) -> None:
        gone = list(keys)
        await self._store.drop_instances(gone)
        for key in gone:
            self._withdraw(self._known.pop(key))

    async def _look(self, instance: _Instance) -> None:
        key = instance.registered.key
        try:
            # Some servers break off an answer when they are asked something else, and one that is answering is there.
            at_work = instance.offered and self._pool.busy(key)
            async with self._looks:
                problem = "" if at_work else await self._probe.problem(instance.place, key.model)
            async with self._lock:
                if self._known.get(key) is instance:  # else it was unregistered or registered anew meanwhile
                    await self._judge(instance, problem)
        finally:
            instance.looked_at = False
            self._nudged.set()

    async def _judge(self, instance: _Instance, problem: str) -> None:
        now = asyncio.get_running_loop().time()
        key = instance.registered.key
        news = instance.offered == bool(problem)
        instance.interval = self._pace.least if news else self._pace.after(instance.interval)
        instance.due = now + instance.interval
        if not problem:
            instance.away_since = None
            self._offer(instance)
            return
        if instance.away_since is None:
            instance.away_since = now
            _log.warning("a registered model does not answer: it is not offered", **_named(key), why=problem)
        self._withdraw(instance)
        if now - instance.away_since >= self._pace.patience:
            await self._give_up(key, problem)

    async def _give_up(self, key: InstanceKey, problem: str) -> None:
        try:
            await self._forget([key])
        except Unavailable as error:
            _log.error(
                "a registered model that is gone cannot be forgotten now", **_named(key), problem=str(error)
            )
        else:
            _log.warning("a registered model is forgotten", **_named(key), why=problem)

    def _offer(self, instance: _Instance) -> None:
        if not instance.offered:
            instance.offered = True
            self._pool.put(instance.registered.key, self._make(instance.registered, instance.place))
            _log.info("a registered model is offered", **_named(instance.registered.key))
            self._changed()

    def _withdraw(self, instance: _Instance) -> None:
        if instance.offered:
            instance.offered = False
            self._pool.remove(instance.registered.key)
            self._changed()


def _registered(project: str, model: ProjectModel) -> Registered:
    return Registered(InstanceKey(project, model.model, model.cid), model.api, model.kind)


def _named(key: InstanceKey) -> dict[str, str]:
    return key._asdict()
