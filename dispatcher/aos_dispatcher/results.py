"""Taking in `job_result`: every check before anything is stored, and the same answer for a repetition."""

from collections.abc import Mapping

import structlog

from aos_dispatcher.committee import Seat, SeatState
from aos_dispatcher.driver import Active
from aos_dispatcher.errors import LeaseLost, Refused
from aos_dispatcher.hub import Peer
from aos_dispatcher.metrics import RESULTS_ACCEPTED, RESULTS_REJECTED
from aos_dispatcher.round import ActiveRound, stored_result
from aos_dispatcher.rounds_store import RoundsStore
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.frames import Frame
from aos_protocol.messages import JobResult, Message, parse_message
from aos_protocol.typed_data import Domain
from aos_protocol.verification import check_result

log = structlog.get_logger()

_NOT_NOW = 503
_NEVER = 400


class ResultDesk:
    """Accepts verified results into their rounds."""

    def __init__(self, store: RoundsStore, active: Active, domain: Domain) -> None:
        self._store = store
        self._active = active
        self._domain = domain

    async def accept(self, peer: Peer, frame: Frame) -> None:
        """Verify and store one result. Raises `Refused`, or `ProtocolError` for a message of the wrong form."""
        try:
            result = parse_message(JobResult, frame.params[0])
        except InvalidMessage as error:
            # The operator is told never to send this again, so nobody need wait for it.
            self._give_up(self._active.get(_round_key(frame.params[0])), peer, error)
            raise
        if result.operator != peer.address:
            raise Refused(_NEVER, f"the result names operator {result.operator}, but {peer.address} sent it")
        if await self._is_repetition(result):
            return
        round_ = await self._round_of(result)
        try:
            await self._verify_and_store(round_, peer, frame, result)
        except ProtocolError as error:
            self._give_up(round_, peer, error)
            raise

    def _give_up(self, round_: ActiveRound | None, peer: Peer, error: ProtocolError) -> None:
        """A result that fails a check costs its operator the seat; the next in the draw's order takes it."""
        if round_ is not None:
            round_.committee.refused(peer.address, str(error)[:1000])
            round_.poke.set()

    async def keep(self, frame: Frame, reason: str) -> None:
        """Store what an operator signed and was refused."""
        RESULTS_REJECTED.inc()
        await self._store.reject(_job_of(frame), frame.address, reason, frame.text)

    async def _is_repetition(self, result: JobResult) -> bool:
        stored = await self._store.result_frame(result_id(result))
        if stored is None:
            return False
        earlier = stored_result(stored)
        if _content(earlier) != _content(result):
            raise Refused(_NEVER, "another result of this operator for this job and tag is stored already")
        return True

    async def _round_of(self, result: JobResult) -> ActiveRound:
        round_ = self._active.get((result.job_id, result.tag))
        if round_ is not None:
            return round_
        if await self._store.is_open(result.job_id, result.tag):
            raise Refused(_NOT_NOW, "the job is between two dispatchers; send the result again")
        raise Refused(
            _NEVER, f"no open job {result.job_id} with tag {result.tag!r}: it has ended, or never was"
        )

    async def _verify_and_store(
        self, round_: ActiveRound, peer: Peer, frame: Frame, result: JobResult
    ) -> None:
        seat = round_.seat_of(peer.address)
        if seat is None or seat.state is not SeatState.ASSIGNED:
            raise Refused(_NEVER, "not (or no longer) a member of this job's committee")
        check_result(
            result, round_.terms(), round_.tickets[peer.address], round_.role_of(peer.address), self._domain
        )
        if not result.answered:
            await self.keep(frame, f"given up by its operator: {result.reason}")
            round_.committee.refused(peer.address, result.reason)
            round_.poke.set()
            return
        await self._store_answer(round_, seat, peer.seen, frame, result)

    async def _store_answer(
        self, round_: ActiveRound, seat: Seat, counter: int, frame: Frame, result: JobResult
    ) -> None:
        seat.receiving = True
        try:
            await self._store.answered(round_.facts.round_id, result, result_id(result), frame.text, counter)
        except LeaseLost as error:
            raise Refused(_NOT_NOW, str(error)) from None
        finally:
            seat.receiving = False
        round_.heard.append(result.clock)
        round_.committee.answered(result.operator)
        round_.poke.set()
        RESULTS_ACCEPTED.inc()
        log.info("result accepted", job_id=result.job_id, tag=result.tag, operator=result.operator)


def result_id(result: JobResult) -> str:
    """Return the published id of a result's row: `<operator>_<job id>_<tag>`."""
    return f"{result.operator}_{result.job_id}_{result.tag}"


def _content(result: JobResult) -> Message:
    """Return a result without what changes at each sending."""
    return result.model_copy(update={"clock": {}, "signature": ""})


def _round_key(said: Mapping[str, object]) -> tuple[str, str]:
    return str(said.get("job_id")), str(said.get("tag"))


def _job_of(frame: Frame) -> str | None:
    said = frame.params[0] if frame.params else (frame.result or {}).get("ticket")
    job_id = said.get("job_id") if isinstance(said, dict) else None
    return job_id if isinstance(job_id, str) and len(job_id) == 64 and job_id.isalnum() else None
