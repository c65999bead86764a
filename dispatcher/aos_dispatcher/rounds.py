"""The dispatch loop: leases open rounds as operators come and jobs arrive, one task for each."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from aos_dispatcher.driver import RoundDriver
from aos_dispatcher.errors import LeaseLost, Unavailable
from aos_dispatcher.events import wait
from aos_dispatcher.hub import Hub
from aos_dispatcher.metrics import ROUND_SECONDS, ROUNDS_ACTIVE
from aos_dispatcher.rounds_store import Claimed, RoundsStore
from aos_dispatcher.settings import Dispatch

log = structlog.get_logger()

_POLL_S = 1.0  # the longest that an expired lease or deadline waits to be noticed


class RoundLoop:
    """Leases rounds and runs them until it is cancelled."""

    def __init__(self, store: RoundsStore, hub: Hub, driver: RoundDriver, settings: Dispatch) -> None:
        self._store = store
        self._hub = hub
        self._driver = driver
        self._settings = settings
        self._held: set[int] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._backlog = True
        self._wake = asyncio.Event()
        hub.on_change(self._operator_changed)

    def wake(self) -> None:
        """Look for open rounds now; called after a job was stored."""
        self._wake.set()

    def room(self) -> Callable[[str, str], bool]:
        """Return a question: is the next new round, of this job type and model, to be leased as it is stored?

        Yes for as many as this process has room for, unless others have waited for longer.
        """
        free = 0 if self._backlog or self._tasks is None else self._settings.concurrency - len(self._held)
        served = self._hub.served()

        def take(job_type: str, model: str) -> bool:
            nonlocal free
            if (job_type, model) not in served:
                return False
            free -= 1
            self._backlog = self._backlog or free < 0
            return free >= 0

        return take

    def start(self, claimed: Iterable[Claimed]) -> None:
        """Work on rounds that this process holds the leases of."""
        if self._tasks is None:
            return  # the process is ending: whoever comes next takes them up
        for one in claimed:
            self._held.add(one.row.id)
            ROUNDS_ACTIVE.inc()
            self._tasks.create_task(self._drive(one))

    def cancel(self, job_id: str) -> None:
        """Stop working on a job that was cancelled; its members are told. Challenges go on: they are about an operator."""
        for (job, _, challenge), round_ in self._driver.active.items():
            if job == job_id and not challenge:
                round_.cancelled = True
                round_.poke.set()

    async def run(self) -> None:
        """Lease and drive rounds for ever; the database being away only pauses it."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._renew_leases())
            while True:
                self._wake.clear()
                self.start(await self._claim())
                await wait(self._wake, _POLL_S)

    async def _claim(self) -> list[Claimed]:
        free = self._settings.concurrency - len(self._held)
        if free <= 0:
            self._backlog = True
            return []
        try:
            claimed = await self._store.claim(self._hub.served(), free)
        except Unavailable as error:
            log.error("database away; no rounds are leased until it is back", why=str(error))
            return []
        self._backlog = len(claimed) == free
        # A process that was stopped for longer than a lease finds its own rounds free; it is at work on them.
        return [one for one in claimed if one.row.id not in self._held]

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                await self._store.renew(self._held)
            except Unavailable as error:
                log.error("database away; leases run out unless it is back soon", why=str(error))

    async def _drive(self, claimed: Claimed) -> None:
        log_round = log.bind(job_id=claimed.row.job_id, tag=claimed.row.tag)
        try:
            with ROUND_SECONDS.time():
                await self._driver.run(claimed)
        except LeaseLost as error:
            log_round.info("round left to another", why=str(error))
        except Unavailable as error:
            log_round.error("database away; the round goes on when its lease has run out", why=str(error))
        except Exception:
            # One round that trips over a defect of ours must not take every other round down with it.
            log_round.exception("round failed by an internal error")
            await self._fail_internally(claimed)
        finally:
            self._held.discard(claimed.row.id)
            ROUNDS_ACTIVE.dec()
            if self._backlog:
                self.wake()

    async def _fail_internally(self, claimed: Claimed) -> None:
        try:
            await self._driver.fail(claimed, "internal error of the dispatcher")
        except (LeaseLost, Unavailable) as error:
            log.error(
                "failure not stored; the round is tried again", job_id=claimed.row.job_id, why=str(error)
            )

    def _operator_changed(self, operator: str) -> None:
        for round_ in self._driver.active.values():
            seat = round_.seat_of(operator)
            if seat is not None:
                # Whatever was sent on the old connection may be lost; a repeated call changes nothing.
                round_.committee.unsent(operator)
                round_.poke.set()
        self.wake()
