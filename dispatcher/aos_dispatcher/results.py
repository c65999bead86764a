"""Taking in `job_result`: every check before anything is stored."""

import structlog

from aos_dispatcher.committee import Seat, SeatState, Task
from aos_dispatcher.desk import NEVER
from aos_dispatcher.errors import Refused
from aos_dispatcher.hub import Peer
from aos_dispatcher.intake import Intake, receiving
from aos_dispatcher.metrics import RESULTS_ACCEPTED
from aos_dispatcher.round import ActiveRound, Answer, stored_result
from aos_dispatcher.rounds_store import result_id
from aos_protocol.frames import Frame
from aos_protocol.messages import JobResult, Role
from aos_protocol.verification import check_result

log = structlog.get_logger()


class ResultIntake(Intake[JobResult]):
    """Accepts verified results."""

    what = "result"

    async def _stored(self, said: JobResult) -> JobResult | None:
        frame = await self._store.result_frame(result_id(said))
        return None if frame is None else stored_result(frame)

    async def _verify_and_store(self, round_: ActiveRound, peer: Peer, frame: Frame, said: JobResult) -> None:
        seat = self._desk.open_seat(round_, peer)
        if round_.committee.task_of(seat) is not Task.EXECUTE:
            raise Refused(NEVER, "this member of the committee was not asked to execute")
        role = _role_of(round_, seat, said)
        check_result(said, round_.terms(), round_.tickets[peer.address], role, self._domain)
        if not said.answered:
            await self._desk.keep(frame, f"given up by its operator: {said.reason}")
            self._desk.give_up(round_, peer, said.reason)
            return
        await self._store_answer(round_, seat, peer.seen, frame, said)

    async def _store_answer(
        self, round_: ActiveRound, seat: Seat, counter: int, frame: Frame, result: JobResult
    ) -> None:
        done = seat is round_.committee.executor
        with receiving(seat):
            await self._store.executed(round_.facts.round_id, result, frame.text, counter, done=done)
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
