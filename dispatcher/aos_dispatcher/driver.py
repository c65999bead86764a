"""One round from its lease to its end: the draw, the dispatches, and whatever its committee then needs."""

import asyncio
import time

import structlog

from aos_dispatcher.clock import DispatcherClock
from aos_dispatcher.closing import Closing, End
from aos_dispatcher.committee import Committee, Patience, Seat, SeatState, Task
from aos_dispatcher.draw import DrawResult, electorate, hold_draw
from aos_dispatcher.errors import PeerGone, RegistryStale, ReplyTimeout, Unavailable
from aos_dispatcher.events import wait
from aos_dispatcher.facts import RoundFacts, RoundKey
from aos_dispatcher.hub import Hub, Peer
from aos_dispatcher.metrics import JOBS_ENDED, VERDICTS
from aos_dispatcher.newsroom import Newsroom
from aos_dispatcher.operators import Operators, RegistrySnapshot
from aos_dispatcher.round import ActiveRound, Author, restore
from aos_dispatcher.rounds_store import Claimed, Current, Drawn, RoundsStore
from aos_dispatcher.sessions import Sessions
from aos_dispatcher.settings import Dispatch
from aos_dispatcher.tables import JsonObject
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.messages import Reply
from aos_service.tracing import span, where

log = structlog.get_logger()

_NOT_NOW = {429, 503}
"""Replies of an operator that may take the same task a moment later: it is full, its database is away, or it is about to stop."""

_PAUSE_S = 1.0  # before a draw that brought nobody is held again
_WARN_AGAIN_S = 10.0

Active = dict[RoundKey, ActiveRound]
"""The rounds at work in this process: what results and scores are matched against."""


class RoundDriver:
    """Drives leased rounds; each call of `run` is one round.

    Everything that decides is elsewhere and without I/O: the draw's rule in `aos_protocol.sortition`, the
    committee's in `committee`.
    """

    def __init__(
        self,
        store: RoundsStore,
        closing: Closing,
        hub: Hub,
        *,
        operators: Operators,
        clock: DispatcherClock,
        author: Author,
        newsroom: Newsroom,
        sessions: Sessions,
        settings: Dispatch,
    ) -> None:
        self.active: Active = {}
        self._store = store
        self._closing = closing
        self._hub = hub
        self._operators = operators
        self._clock = clock
        self._author = author
        self._newsroom = newsroom
        self._sessions = sessions
        self._settings = settings
        self._warned_at = float("-inf")

    async def run(self, claimed: Claimed) -> None:
        """Draw a round, or take it up where another process left it, and work on it until it ends.

        Raises `LeaseLost` when another process took it over, `Unavailable` when the database is away.
        """
        facts = RoundFacts.from_row(claimed.row)
        patience = Patience(self._settings.reassign_after, self._settings.member_timeout)
        if claimed.row.status == "dispatched":
            round_ = restore(facts, claimed, patience, self._author)
        else:
            drawn = await self._draw(facts, patience, claimed.current)
            if drawn is None:
                return
            round_ = drawn
        self.active[facts.key] = round_
        try:
            await self._work(round_)
        finally:
            del self.active[facts.key]

    async def fail(self, claimed: Claimed, reason: str) -> None:
        """End a round that could not be driven, whatever state it is in. Raises as `run` does."""
        facts = RoundFacts.from_row(claimed.row)
        clock = await self._clock.tick(facts.clock)
        await self._end(facts, End("failed", reason, clock, verified=False))

    async def _draw(
        self, facts: RoundFacts, patience: Patience, current: Current | None
    ) -> ActiveRound | None:
        peers = self._hub.serving(facts.request.job.tag, facts.model, facts.request.job.kind)
        if time.monotonic() >= facts.deadline:
            why = f"no operator that serves {facts.model.name} and may be asked took the job in time"
            if waits := self._operators.waits_for_chain():
                why = f"its draw waited for the chain until the job's time was over: {waits}"
            elif facts.readers is not None:
                why += f": its prompt is sealed to enclaves of {', '.join(sorted(facts.readers))}"
            clock = await self._clock.tick(facts.clock)
            await self._end(facts, End("failed", why, clock, verified=False, seats=()))
            return None
        try:
            snapshot = await self._operators.snapshot(current.registry if current else None)
        except RegistryStale as error:
            self._warn(facts, error)
            await self._store.release(facts.round_id, _PAUSE_S)
            return None
        barred = await self._store.barred(facts.round_id) if facts.challenge else snapshot.suspended
        if facts.direct:
            peers = [peer for peer in peers if peer.direct is not None]
        asked = electorate(peers, facts, snapshot, barred)
        draw_clock = await self._clock.tick(facts.clock)
        with span("draw") as drawing:
            draw = await hold_draw(asked, facts, snapshot, draw_clock, self._settings.draw_timeout)
            drawing.note(asked=len(draw.answers), members=len(draw.members))
        if not draw.members:
            why = "; ".join(answer.reason for answer in draw.answers) or "nobody serves the model"
            log.warning("draw without a committee, held again soon", job_id=facts.job_id, why=why)
            await self._store.release(facts.round_id, _PAUSE_S)
            return None
        calibration = current.calibration if current else await self._store.calibration_of(facts.model.sha256)
        return await self._seat(facts, patience, snapshot, draw_clock, draw, judged_by=calibration)

    def _warn(self, facts: RoundFacts, error: RegistryStale) -> None:
        """Say why draws wait, now and then: every waiting job comes by each second."""
        now = time.monotonic()
        if now - self._warned_at >= _WARN_AGAIN_S:
            self._warned_at = now
            log.warning("draws wait for the chain", job_id=facts.job_id, why=str(error))

    async def _seat(
        self,
        facts: RoundFacts,
        patience: Patience,
        snapshot: RegistrySnapshot,
        draw_clock: dict[str, str],
        draw: DrawResult,
        *,
        judged_by: str | None,
    ) -> ActiveRound:
        tickets = draw.tickets()
        dispatch_clock = await self._clock.tick(
            draw_clock, *(tickets[m.operator].clock for m in draw.members)
        )
        reserves = draw.ranking[len(draw.members) :]
        plan = facts.plan(len(draw.members))
        committee = Committee.drawn(draw.members, reserves, plan, patience, facts.deadline)
        electorate = [answer.to_json() for answer in draw.answers]
        stored = Drawn(snapshot, draw_clock, dispatch_clock, electorate, committee.seats, judged_by)
        calibration = await self._store.drawn(facts, stored)
        for seat in committee.seats:
            seat.stored = seat.state, seat.role
        log.info("committee drawn", job_id=facts.job_id, committee=[m.operator for m in draw.members])
        return ActiveRound(
            facts=facts,
            author=self._author,
            registry_block=snapshot.block,
            ranges={answer.operator: snapshot.range_of(answer.operator) for answer in draw.answers},
            tickets=tickets,
            dispatch_clock=dispatch_clock,
            committee=committee,
            calibration=calibration,
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
        verified = any(seat.role == "verifier" for seat in round_.committee.seats)
        clock = await self._clock.tick(round_.facts.clock, *round_.heard, round_.dispatch_clock)
        status = "failed" if failure else "completed"
        await self._end(
            round_.facts, End(status, failure, clock, verified, round_.unscored(), round_.committee.seats)
        )

    async def _follow(self, round_: ActiveRound, deliveries: asyncio.TaskGroup) -> str:
        """Perform the committee's steps until it closes; returns why it failed, or ''."""
        while True:
            round_.poke.clear()
            if round_.unsure:
                raise Unavailable("what was stored of the round is not known; it is read again")
            now, unscorable = time.monotonic(), round_.unscorable()
            step = round_.committee.step(now, self._hub.connected(), unscorable)
            await self._store_changes(round_)
            if round_.cancelled or step.closed is not None:
                return step.closed or ""
            for seat, task in step.calls:
                deliveries.create_task(self._deliver(round_, seat, task))
            await wait(round_.poke, step.wake_at - time.monotonic())

    async def _store_changes(self, round_: ActiveRound) -> None:
        """Write the seats that the last step added, and what became of the others."""
        facts = round_.facts
        changed = [
            (rank, seat)
            for rank, seat in enumerate(round_.committee.seats)
            if seat.stored != (seat.state, seat.role)
        ]
        if not changed:
            return
        now = [(seat, (seat.state, seat.role)) for _, seat in changed]
        await self._store.settle(facts, changed)
        for seat, stored in now:
            seat.stored = stored
            if seat.given_up:
                log.warning("member given up", job_id=facts.job_id, operator=seat.operator, why=seat.reason)
                if facts.own and facts.request.job.stream:
                    self._newsroom.given_up(facts.job_id, seat.operator, seat.reason)

    async def _deliver(self, round_: ActiveRound, seat: Seat, task: Task) -> None:
        try:
            peer = self._hub.require(seat.operator)
            parameter = await self._call(round_, seat, task, peer)
            place = where(*round_.facts.key, task, seat.operator)
            with span(str(task), at=place, kind="producer", operator=seat.operator, role=seat.role):
                frame = await peer.request(task, parameter, self._settings.draw_timeout)
            reply = parse_message(Reply, frame.result)
        except (PeerGone, ReplyTimeout) as error:
            log.info("call not acknowledged", job_id=round_.facts.job_id, task=str(task), why=str(error))
            round_.committee.unsent(seat.operator)
        except InvalidMessage as error:
            round_.committee.refused(seat.operator, str(error))
        else:
            if reply.code in _NOT_NOW:
                log.info("call declined", job_id=round_.facts.job_id, task=str(task), why=reply.message)
                round_.committee.declined(seat.operator, reply.message, time.monotonic())
            elif reply.code != 200:
                round_.committee.refused(seat.operator, reply.message)
            else:
                await self._taken(round_, seat, parameter, frame)
        round_.poke.set()

    async def _taken(self, round_: ActiveRound, seat: Seat, call: JsonObject, frame: Frame) -> None:
        """Note that a member has taken its task; the executor of a direct job has accepted the session in the call, too."""
        if round_.facts.direct:
            try:
                await self._sessions.accepted(round_, call, frame)
            except ProtocolError as error:
                round_.committee.refused(seat.operator, str(error))
                return
        round_.committee.taken(seat.operator)

    async def _call(self, round_: ActiveRound, seat: Seat, task: Task, peer: Peer) -> JsonObject:
        subject = round_.subject()
        if task is Task.EXECUTE or subject is None:
            session = self._sessions.offer(round_, peer) if round_.facts.direct else None
            return round_.dispatch_to(seat, session)
        clock = await self._clock.tick(round_.dispatch_clock, subject.clock)
        return round_.score_call_to(seat, subject, clock)

    async def _tell_cancelled(self, round_: ActiveRound) -> None:
        facts = round_.facts
        what: JsonObject = {"job_id": facts.job_id, "tag": facts.tag, "challenge": facts.challenge}
        for seat in round_.committee.seats:
            peer = self._hub.get(seat.operator)
            if peer is None or seat.state is not SeatState.ASSIGNED:
                continue
            try:
                await peer.request("cancel_job", what, self._settings.draw_timeout)
            except (PeerGone, ReplyTimeout) as error:
                log.info("cancellation not acknowledged", job_id=round_.facts.job_id, why=str(error))

    async def _end(self, facts: RoundFacts, end: End) -> None:
        with span("end", status=end.status):
            verdict = await self._closing.close(facts, end)
        if verdict is not None:
            VERDICTS.labels(verdict.outcome).inc()
        if facts.own:
            JOBS_ENDED.labels(end.status).inc()
            if end.status == "failed":
                self._newsroom.ended(facts.job_id, end.reason, end.status)
        outcome = verdict.outcome if verdict else None
        log.info("round ended", job_id=facts.job_id, status=end.status, reason=end.reason, verdict=outcome)
