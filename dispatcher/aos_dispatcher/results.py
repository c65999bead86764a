"""Taking in `job_result`: every check before anything is stored, and the same answer for a repetition."""

from collections.abc import Mapping

import structlog

from aos_dispatcher.committee import Seat, SeatState, Task
from aos_dispatcher.desk import NEVER, NOT_NOW, Desk
from aos_dispatcher.errors import LeaseLost, Refused
from aos_dispatcher.facts import RoundKey
from aos_dispatcher.hub import Peer
from aos_dispatcher.metrics import RESULTS_ACCEPTED
from aos_dispatcher.round import ActiveRound, Answer, stored_result
from aos_dispatcher.rounds_store import RoundsStore, result_id
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.frames import Frame
from aos_protocol.messages import JobResult, Message, Role, parse_message
from aos_protocol.typed_data import Domain
from aos_protocol.verification import check_result

log = structlog.get_logger()


class ResultDesk:
    """Accepts verified results into their rounds."""

    def __init__(self, store: RoundsStore, desk: Desk, domain: Domain) -> None:
        self._store = store
        self._desk = desk
        self._domain = domain

    async def accept(self, peer: Peer, frame: Frame) -> None:
        """Verify and store one result. Raises `Refused`, or `ProtocolError` for a message of the wrong form."""
        try:
            result = parse_message(JobResult, frame.params[0])
        except InvalidMessage as error:
            # The operator is told never to send this again, so nobody need wait for it.
            self._desk.give_up(self._desk.at_work(_key(frame.params[0])), peer, error)
            raise
        if result.operator != peer.address:
            raise Refused(NEVER, f"the result names operator {result.operator}, but {peer.address} sent it")
        if await self._is_repetition(result):
            return
        round_ = await self._desk.round_of((result.job_id, result.tag, 0))
        try:
            await self._verify_and_store(round_, peer, frame, result)
        except ProtocolError as error:
            self._desk.give_up(round_, peer, error)
            raise

    async def _is_repetition(self, result: JobResult) -> bool:
        stored = await self._store.result_frame(result_id(result))
        if stored is None:
            return False
        earlier = stored_result(stored)
        if _content(earlier) != _content(result):
            raise Refused(NEVER, "another result of this operator for this job and tag is stored already")
        return True

    async def _verify_and_store(
        self, round_: ActiveRound, peer: Peer, frame: Frame, result: JobResult
    ) -> None:
        seat = self._desk.open_seat(round_, peer)
        if round_.committee.task_of(seat) is not Task.EXECUTE:
            raise Refused(NEVER, "this member of the committee was not asked to execute")
        role = _role_of(round_, seat, result)
        check_result(result, round_.terms(), round_.tickets[peer.address], role, self._domain)
        if not result.answered:
            await self._desk.keep(frame, f"given up by its operator: {result.reason}")
            self._desk.give_up(round_, peer, result.reason)
            return
        await self._store_answer(round_, seat, peer.seen, frame, result)

    async def _store_answer(
        self, round_: ActiveRound, seat: Seat, counter: int, frame: Frame, result: JobResult
    ) -> None:
        done = seat is round_.committee.executor
        seat.receiving = True
        try:
            await self._store.executed(round_.facts.round_id, result, frame.text, counter, done=done)
        except LeaseLost as error:
            raise Refused(NOT_NOW, str(error)) from None
        finally:
            seat.receiving = False
        if done:
            seat.stored = SeatState.ANSWERED, seat.role
        round_.answers[result.operator] = Answer(frame.text, result)
        round_.heard.append(result.clock)
        round_.committee.executed(result.operator)
        round_.poke.set()
        RESULTS_ACCEPTED.inc()
        log.info("result accepted", job_id=result.job_id, tag=result.tag, operator=result.operator)


def _role_of(round_: ActiveRound, seat: Seat, result: JobResult) -> Role:
    """Return the role that a result must carry; a verifier that became executor while it executed may be called either."""
    promoted = seat is round_.committee.executor and seat is not round_.committee.seats[0]
    return result.role if promoted and round_.committee.plan.blind else seat.role


def _content(result: JobResult) -> Message:
    """Return a result without what changes at each sending."""
    return result.model_copy(update={"clock": {}, "signature": ""})


def _key(said: Mapping[str, object]) -> RoundKey:
    return str(said.get("job_id")), str(said.get("tag")), 0
