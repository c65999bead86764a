"""One round from its lease to its end: the draw, the dispatches, and whatever its committee then needs."""

import asyncio
import time
from collections.abc import Mapping

import structlog

from aos_dispatcher.clock import DispatcherClock
from aos_dispatcher.committee import Committee, Patience, Seat, SeatState
from aos_dispatcher.draw import DrawResult, hold_draw
from aos_dispatcher.errors import PeerGone, ReplyTimeout
from aos_dispatcher.events import wait
from aos_dispatcher.hub import Hub
from aos_dispatcher.metrics import JOBS_ENDED
from aos_dispatcher.operators import Operators, RegistrySnapshot
from aos_dispatcher.round import ActiveRound, RoundFacts, assignment_rows, restore
from aos_dispatcher.rounds_store import Claimed, Drawn, RoundsStore
from aos_dispatcher.settings import Dispatch
from aos_dispatcher.tables import JsonObject
from aos_protocol import sortition
from aos_protocol.errors import InvalidMessage
from aos_protocol.messages import Reply, parse_message

log = structlog.get_logger()

_PAUSE_S = 1.0  # before a draw that brought nobody is held again

Active = dict[tuple[str, str], ActiveRound]
"""The rounds at work in this process, by job id and tag: what results are matched against."""


class RoundDriver:
    """Drives leased rounds; each call of `run` is one round.

    Everything that decides is elsewhere and without I/O: the draw's rule in `aos_protocol.sortition`, the
    committee's in `committee`.
    """

    def __init__(
        self, store: RoundsStore, hub: Hub, operators: Operators, clock: DispatcherClock, settings: Dispatch
    ) -> None:
        self.active: Active = {}
        self._store = store
        self._hub = hub
        self._operators = operators
        self._clock = clock
        self._settings = settings

    async def run(self, claimed: Claimed) -> None:
        """Draw a round, or take it up where another process left it, and work on it until it ends.

        Raises `LeaseLost` when another process took it over, `Unavailable` when the database is away.
        """
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
        try:
            await self._work(round_)
        finally:
            del self.active[facts.job_id, facts.tag]

    async def fail(self, claimed: Claimed, reason: str) -> None:
        """End a round that could not be driven, whatever state it is in. Raises as `run` does."""
        clock = await self._clock.tick(claimed.row.clock)
        await self._store.close(claimed.row.id, claimed.row.job_id, "failed", reason, clock)
        JOBS_ENDED.labels("failed").inc()

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
            committee=Committee.drawn(
                draw.members, reserves, sortition.committee_minimum(facts.tag), patience, facts.deadline
            ),
            stored=len(draw.members),
        )

    async def _work(self, round_: ActiveRound) -> None:
        try:
            async with asyncio.TaskGroup() as deliveries:
                failure = await self._follow(round_, deliveries)
        except ExceptionGroup as group:
            # The first error ended the others; it alone says what happened to the round.
            raise group.exceptions[0] from None
        if round_.cancelled:
            await self._tell_cancelled(round_)
            return
        status = "failed" if failure else "completed"
        await self._end(round_.facts, status, failure, *round_.heard, round_.dispatch_clock)

    async def _follow(self, round_: ActiveRound, deliveries: asyncio.TaskGroup) -> str:
        """Perform the committee's steps until it closes; returns why it failed, or ''."""
        while True:
            round_.poke.clear()
            step = round_.committee.step(time.monotonic(), self._hub.connected())
            await self._store_changes(round_)
            if round_.cancelled or step.closed is not None:
                return step.closed or ""
            for seat in step.dispatch:
                deliveries.create_task(self._deliver(round_, seat))
            await wait(round_.poke, step.wake_at - time.monotonic())

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
