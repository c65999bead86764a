"""The dispatch loop: leases open rounds, holds their draws, and drives their committees to an end.

Each round is one task. Everything that decides is elsewhere and without I/O: the draw's rule in
`aos_protocol.sortition`, the committee's in `committee`.
"""

import asyncio
import time
from collections.abc import Mapping

import structlog

from aos_dispatcher.clock import DispatcherClock
from aos_dispatcher.committee import Committee, Patience, Seat, SeatState
from aos_dispatcher.draw import DrawResult, hold_draw
from aos_dispatcher.errors import LeaseLost, PeerGone, ReplyTimeout, Unavailable
from aos_dispatcher.hub import Hub
from aos_dispatcher.metrics import JOB_SECONDS, JOBS_ENDED, ROUNDS_ACTIVE
from aos_dispatcher.operators import Operators, RegistrySnapshot
from aos_dispatcher.round import ActiveRound, RoundFacts, assignment_rows, restore
from aos_dispatcher.rounds_store import Claimed, Drawn, RoundsStore
from aos_dispatcher.settings import Dispatch
from aos_dispatcher.tables import JsonObject
from aos_protocol.errors import InvalidMessage
from aos_protocol.messages import Reply, parse_message

log = structlog.get_logger()

_POLL_S = 1.0  # the longest that an expired lease or deadline waits to be noticed
_PAUSE_S = 1.0  # before a draw that brought nobody is held again


class RoundLoop:
    """Runs rounds until it is cancelled. `active` is what results are matched against, by job id and tag."""

    def __init__(
        self, store: RoundsStore, hub: Hub, operators: Operators, clock: DispatcherClock, settings: Dispatch
    ) -> None:
        self.active: dict[tuple[str, str], ActiveRound] = {}
        self._store = store
        self._hub = hub
        self._operators = operators
        self._clock = clock
        self._settings = settings
        self._running = 0
        self._wake = asyncio.Event()
        hub.on_change(self._operator_changed)

    def wake(self) -> None:
        """Look for open rounds now; called after a job was stored."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop working on a job that was cancelled; its members are told."""
        for (job, _), round_ in self.active.items():
            if job == job_id:
                round_.cancelled = True
                round_.poke.set()

    async def run(self) -> None:
        """Lease and drive rounds for ever; the database being away only pauses it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_leases())
            while True:
                self._wake.clear()
                for row in await self._claim():
                    self._running += 1
                    ROUNDS_ACTIVE.inc()
                    tasks.create_task(self._drive(row))
                await _wait(self._wake, _POLL_S)

    async def _claim(self) -> list[Claimed]:
        free = self._settings.concurrency - self._running
        if free <= 0:
            return []
        try:
            return await self._store.claim(self._hub.served(), free)
        except Unavailable as error:
            log.error("database away; no rounds are leased until it is back", why=str(error))
            return []

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                await self._store.renew()
            except Unavailable as error:
                log.error("database away; leases run out unless it is back soon", why=str(error))

    async def _drive(self, claimed: Claimed) -> None:
        log_round = log.bind(job_id=claimed.row.job_id, tag=claimed.row.tag)
        try:
            with JOB_SECONDS.time():
                await self._run_round(claimed)
        except LeaseLost as error:
            log_round.info("round left to another", why=str(error))
        except Unavailable as error:
            log_round.error("database away; the round goes on when its lease has run out", why=str(error))
        except Exception:
            # One round that trips over a defect of ours must not take every other round down with it.
            log_round.exception("round failed by an internal error")
            await self._fail_internally(claimed)
        finally:
            self.active.pop((claimed.row.job_id, claimed.row.tag), None)
            self._running -= 1
            ROUNDS_ACTIVE.dec()
            self.wake()

    async def _fail_internally(self, claimed: Claimed) -> None:
        try:
            clock = await self._clock.tick(claimed.row.clock)
            await self._store.close(
                claimed.row.id, claimed.row.job_id, "failed", "internal error of the dispatcher", clock
            )
        except (LeaseLost, Unavailable) as error:
            log.error(
                "could not store the failure; the round is tried again",
                job_id=claimed.row.job_id,
                why=str(error),
            )

    async def _run_round(self, claimed: Claimed) -> None:
        facts = RoundFacts.from_row(claimed.row)
        patience = Patience(self._settings.reassign_after, self._settings.member_timeout)
        if claimed.row.status == "dispatched":
            round_ = restore(facts, claimed, patience)
        else:
            drawn = await self._draw(facts, patience)
            if drawn is None:
                return
            round_ = drawn
        self.active[facts.job_id, facts.tag] = round_
        await self._work(round_)

    async def _draw(self, facts: RoundFacts, patience: Patience) -> ActiveRound | None:
        peers = self._hub.serving(facts.request.job.tag, facts.model)
        if time.monotonic() >= facts.deadline:
            await self._end(
                facts, "failed", f"no operator that serves {facts.model.name} took the job in time"
            )
            return None
        snapshot = await self._operators.snapshot()
        draw_clock = await self._clock.tick(facts.clock)
        draw = await hold_draw(peers, facts, snapshot, draw_clock, self._settings.draw_timeout)
        if not draw.members:
            why = "; ".join(answer.reason for answer in draw.answers) or "nobody serves the model"
            log.warning("draw without a committee, held again soon", job_id=facts.job_id, why=why)
            await self._store.release(facts.round_id, _PAUSE_S)
            return None
        return await self._seat(facts, patience, snapshot, draw_clock, draw)

    async def _seat(
        self,
        facts: RoundFacts,
        patience: Patience,
        snapshot: RegistrySnapshot,
        draw_clock: dict[str, str],
        draw: DrawResult,
    ) -> ActiveRound:
        tickets = draw.tickets()
        dispatch_clock = await self._clock.tick(
            draw_clock, *(tickets[m.operator].clock for m in draw.members)
        )
        stored = Drawn(
            snapshot,
            draw_clock,
            dispatch_clock,
            [a.to_json() for a in draw.answers],
            assignment_rows(draw.members),
        )
        await self._store.drawn(facts.round_id, facts.job_id, stored)
        reserves = draw.ranking[len(draw.members) :]
        log.info("committee drawn", job_id=facts.job_id, committee=[m.operator for m in draw.members])
        return ActiveRound(
            facts=facts,
            ranges={answer.operator: snapshot.range_of(answer.operator) for answer in draw.answers},
            tickets=tickets,
            dispatch_clock=dispatch_clock,
            committee=Committee.drawn(draw.members, reserves, patience, facts.deadline),
            stored=len(draw.members),
        )

    async def _work(self, round_: ActiveRound) -> None:
        async with asyncio.TaskGroup() as deliveries:
            while True:
                round_.poke.clear()
                step = round_.committee.step(time.monotonic(), self._hub.connected())
                await self._store_changes(round_)
                if round_.cancelled or step.closed is not None:
                    break
                for seat in step.dispatch:
                    deliveries.create_task(self._deliver(round_, seat))
                await _wait(round_.poke, step.wake_at - time.monotonic())
        if round_.cancelled:
            await self._tell_cancelled(round_)
            return
        status = "failed" if step.closed else "completed"
        await self._end(round_.facts, status, step.closed or "", *round_.heard, round_.dispatch_clock)

    async def _store_changes(self, round_: ActiveRound) -> None:
        """Write seats that the last step added, and those it gave up; answers are stored as they come."""
        facts, seats = round_.facts, round_.committee.seats
        for seat in seats[: round_.stored]:
            if seat.state in {SeatState.LOST, SeatState.REFUSED} and not seat.stored:
                seat.stored = True
                log.warning("member given up", job_id=facts.job_id, operator=seat.operator, why=seat.reason)
                await self._store.settle(facts.round_id, seat.operator, seat.state, seat.reason)
        for row in assignment_rows([seat.member for seat in seats[round_.stored :]], round_.stored):
            await self._store.seat(facts.round_id, row)
        round_.stored = len(seats)

    async def _deliver(self, round_: ActiveRound, seat: Seat) -> None:
        try:
            peer = self._hub.require(seat.operator)
            parameter = round_.dispatch_to(seat.operator)
            frame = await peer.request("dispatch_job", parameter, self._settings.draw_timeout)
            reply = parse_message(Reply, frame.result)
        except (PeerGone, ReplyTimeout) as error:
            log.info("dispatch not acknowledged", job_id=round_.facts.job_id, why=str(error))
            round_.committee.unsent(seat.operator)
        except InvalidMessage as error:
            round_.committee.refused(seat.operator, str(error))
        else:
            if reply.code != 200:
                round_.committee.refused(seat.operator, reply.message)
        round_.poke.set()

    async def _tell_cancelled(self, round_: ActiveRound) -> None:
        what: JsonObject = {"job_id": round_.facts.job_id, "tag": round_.facts.tag}
        for seat in round_.committee.seats:
            peer = self._hub.get(seat.operator)
            if peer is None or seat.state is not SeatState.ASSIGNED:
                continue
            try:
                await peer.request("cancel_job", what, self._settings.draw_timeout)
            except (PeerGone, ReplyTimeout) as error:
                log.info("cancellation not acknowledged", job_id=round_.facts.job_id, why=str(error))
        JOBS_ENDED.labels("cancelled").inc()

    async def _end(self, facts: RoundFacts, status: str, reason: str, *heard: Mapping[str, str]) -> None:
        clock = await self._clock.tick(facts.clock, *heard)
        await self._store.close(facts.round_id, facts.job_id, status, reason, clock)
        JOBS_ENDED.labels(status).inc()
        log.info("job ended", job_id=facts.job_id, status=status, reason=reason)

    def _operator_changed(self, operator: str) -> None:
        for round_ in self.active.values():
            seat = round_.seat_of(operator)
            if seat is not None:
                # Whatever was sent on the old connection may be lost; a repeated dispatch changes nothing.
                round_.committee.unsent(operator)
                round_.poke.set()
        self.wake()


async def _wait(event: asyncio.Event, timeout: float) -> None:  # noqa: ASYNC109 - waking up early is the point
    try:
        async with asyncio.timeout(max(0.0, timeout)):
            await event.wait()
    except TimeoutError:
        return
