"""The dispatch loop: leases open rounds as operators come and jobs arrive, one task for each."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from aos_dispatcher.driver import RoundDriver
from aos_dispatcher.errors import LeaseLost, Unavailable
from aos_dispatcher.events import wait
from aos_dispatcher.hub import Hub
from aos_dispatcher.leases import Leases
from aos_dispatcher.mesh import Mesh
from aos_dispatcher.metrics import ROUND_SECONDS, ROUNDS_ACTIVE
from aos_dispatcher.rounds_store import Claimed, RoundsStore
from aos_dispatcher.settings import Dispatch
from aos_service.tracing import span, where

log = structlog.get_logger()

_POLL_S = 1.0  # the longest that an expired lease or deadline waits to be noticed


class RoundLoop:
    """Leases rounds and runs them until it is stopped or cancelled."""

    def __init__(
        self,
        store: RoundsStore,
        hub: Hub,
        driver: RoundDriver,
        settings: Dispatch,
        *,
        leases: Leases,
        mesh: Mesh | None,
    ) -> None:
        self._store = store
        self._leases = leases
        self._hub = hub
        self._mesh = mesh
        self._driver = driver
        self._settings = settings
        self._held: dict[int, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._backlog = True
        self._wake = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._stopped = False
        self._returning: set[asyncio.Task[None]] = set()
        self._changed: set[str] = set()
        hub.on_change(self._operator_changed)

    @property
    def held(self) -> int:
        """How many rounds this process works on."""
        return len(self._held)

    def wake(self) -> None:
        """Look for open rounds now; called after a job was stored."""
        self._wake.set()

    def room(self) -> Callable[[str, str], bool]:
        """Return a question: is the next new round, of this job type and model, to be leased as it is stored?

        Yes for as many as this process has room for, unless others have waited for longer.
        """
        ready = self._tasks is not None and not self._stopped and not self._backlog
        free = self._settings.concurrency - len(self._held) if ready else 0
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
        for one in claimed:
            if self._tasks is None or self._stopped:
                returning = asyncio.create_task(self._give_back(one.row.id))
                self._returning.add(returning)
                returning.add_done_callback(self._returning.discard)
            else:
                ROUNDS_ACTIVE.inc()
                self._held[one.row.id] = self._tasks.create_task(self._drive(one))

    async def stop(self) -> None:
        """Lease no more rounds, and let go of all that are worked on, as they stand. Their leases are for the caller to release."""
        self._stopped = True
        async with self._claiming:
            await self._let_go(list(self._held))
            await asyncio.gather(*self._returning)

    def cancel(self, job_id: str) -> None:
        """Stop working on a job that was cancelled, whichever process does."""
        self.cancelled(job_id)
        if self._mesh is not None:
            self._mesh.cancelled(job_id)

    def cancelled(self, job_id: str) -> None:
        """Stop working on a job that was cancelled, if this process does; its members are told. Challenges go on: they are about an operator."""
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
                async with self._claiming:
                    self.start(await self._claim())
                await wait(self._wake, _POLL_S)

    async def _claim(self) -> list[Claimed]:
        if self._stopped:
            return []
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
        # A process that was stopped for longer than a lease finds its own rounds free; what others did of them meanwhile it does not know.
        stale = [one.row.id for one in claimed if one.row.id in self._held]
        if stale:
            log.warning("rounds are taken up afresh: their leases had run out", rounds=len(stale))
            await self._let_go(stale)
            await asyncio.gather(*map(self._give_back, stale))
            self.wake()
        return [one for one in claimed if one.row.id not in stale]

    async def _let_go(self, rounds: Iterable[int]) -> None:
        """End the work on rounds that this process has not, or shall not have, the leases of."""
        tasks = [self._held[id_] for id_ in rounds if id_ in self._held]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_back(self, round_id: int) -> None:
        try:
            await self._store.release(round_id, 0)
        except Unavailable as error:
            log.warning("a lease is not released; it runs out by itself", why=str(error))

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                await self._store.renew(self._held)
                lost = await self._leases.lost(self._held, self._store.owner)
            except Unavailable as error:
                log.error("database away; leases run out unless it is back soon", why=str(error))
                continue
            if lost:
                log.info("rounds left to others: their leases had run out", rounds=len(lost))
                await self._let_go(lost)

    async def _drive(self, claimed: Claimed) -> None:
        log_round = log.bind(job_id=claimed.row.job_id, tag=claimed.row.tag)
        try:
            with (
                ROUND_SECONDS.time(),
                span("round", parent=where(claimed.row.job_id, "submit"), tag=claimed.row.tag),
            ):
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
            del self._held[claimed.row.id]
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
        # A process that goes takes its operators with it, all at once: then each round is looked at once.
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._operators_changed)
        self._changed.add(operator)
        self.wake()

    def _operators_changed(self) -> None:
        changed, self._changed = self._changed, set()
        for round_ in self._driver.active.values():
            for operator in changed.intersection(seat.operator for seat in round_.committee.seats):
                # Whatever was sent on the old connection may be lost; a repeated call changes nothing.
                round_.committee.unsent(operator)
                round_.poke.set()
