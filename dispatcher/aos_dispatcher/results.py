"""Taking in `job_result`: every check before anything is stored."""

import structlog

from aos_dispatcher.blobs import Blobs
from aos_dispatcher.committee import Seat, SeatState, Task
from aos_dispatcher.desk import NEVER, Desk
from aos_dispatcher.enclaves import Enclaves, refusals_seen
from aos_dispatcher.errors import Refused
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.hub import Peer
from aos_dispatcher.intake import Intake, receiving
from aos_dispatcher.metrics import ATTESTATIONS, RESULTS_ACCEPTED
from aos_dispatcher.newsroom import Newsroom
from aos_dispatcher.round import ActiveRound, Answer, stored_result
from aos_dispatcher.rounds_store import RoundsStore, result_id
from aos_protocol.attestation.appraisal import Appraisal
from aos_protocol.attestation.statement import EnclaveStatement
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Role
from aos_protocol.frames import Frame
from aos_protocol.messages import JobResult
from aos_protocol.shown import check_level, read_record
from aos_protocol.typed_data import Domain
from aos_protocol.verification import check_counter, check_result

log = structlog.get_logger()


class ResultIntake(Intake[JobResult]):
    """Accepts verified results; those of `tee` jobs from enclaves that the dispatcher's policy trusts."""

    what = "result"
    answers = Task.EXECUTE

    def __init__(
        self,
        store: RoundsStore,
        desk: Desk,
        domain: Domain,
        enclaves: Enclaves,
        *,
        newsroom: Newsroom,
        blobs: Blobs,
    ) -> None:
        super().__init__(store, desk, domain, JobResult)
        self._enclaves = enclaves
        self._newsroom = newsroom
        self._blobs = blobs

    async def _stored(self, said: JobResult) -> JobResult | None:
        frame = await self._store.result_frame(result_id(said))
        return None if frame is None else stored_result(frame)

    async def _verify_and_store(self, round_: ActiveRound, peer: Peer, frame: Frame, said: JobResult) -> None:
        seat = self._desk.open_seat(round_, peer)
        if round_.committee.task_of(seat) is not Task.EXECUTE:
            raise Refused(NEVER, "this member of the committee was not asked to execute")
        role = _role_of(round_, seat, said)
        with refusals_seen(said):
            statement = check_result(said, round_.terms(), round_.tickets[peer.address], role, self._domain)
        check_counter(said, peer.number)
        _check_level(round_.facts, peer, said)
        if not round_.told.agrees(peer.address, said.result) and said.answered:
            raise InvalidMessage("the answer does not begin with what was streamed of it")
        if not said.answered:
            await self._desk.keep(frame, f"given up by its operator: {said.reason}")
            self._desk.give_up(round_, peer, said.reason)
            return
        with receiving(seat):
            if round_.facts.request.job.image is not None:
                await self._blobs.require(said, round_.facts.request.job.image)
            appraisal = await self._appraised(round_, said, statement)
            # Somebody may have given the seat up meanwhile, although it was not lost for being late.
            self._desk.open_seat(round_, peer)
            await self._store_answer(round_, seat, peer.seen, frame, said, appraisal=appraisal)

    async def _appraised(
        self, round_: ActiveRound, said: JobResult, statement: EnclaveStatement | None
    ) -> Appraisal | None:
        if statement is None:
            return None
        with refusals_seen(said):
            return await self._enclaves.appraise(said, statement, round_.facts.job_seed)

    async def _store_answer(
        self,
        round_: ActiveRound,
        seat: Seat,
        counter: int,
        frame: Frame,
        result: JobResult,
        *,
        appraisal: Appraisal | None,
    ) -> None:
        done = seat is round_.committee.executor
        await self._store.executed(round_.facts, result, frame.text, counter, done=done, appraisal=appraisal)
        if done:
            seat.stored = SeatState.ANSWERED, seat.role
            if round_.facts.own:
                self._newsroom.answered(result)
        round_.answers[result.operator] = Answer(frame.text, result)
        round_.heard.append(result.clock)
        round_.committee.executed(result.operator)
        round_.poke.set()
        RESULTS_ACCEPTED.inc()
        if appraisal is not None:
            ATTESTATIONS.labels(appraisal.kind, "accepted").inc()
        log.info(
            "result accepted",
            job_id=result.job_id,
            tag=result.tag,
            operator=result.operator,
            **_enclave(appraisal),
        )


def _check_level(facts: RoundFacts, peer: Peer, said: JobResult) -> None:
    """Raise `InvalidRecord` for an answer that shows less than its job was accepted for, or than its operator offers."""
    if said.record is None:
        return  # a transcript shows all that there is to show
    shown, model = read_record(said.record), facts.model.name
    check_level(shown, facts.least, "verification.least_evidence of this dispatcher")
    offer = peer.serves.get((facts.request.job.tag, model))
    if offer is not None:
        check_level(shown, offer.evidence, f"what {peer.address} offers of {model}")


def _enclave(appraisal: Appraisal | None) -> dict[str, str | bool]:
    """Return what a log line says of an enclave."""
    if appraisal is None:
        return {}
    return {"attestation": appraisal.kind, "build": appraisal.build, "debug": appraisal.debug}


def _role_of(round_: ActiveRound, seat: Seat, result: JobResult) -> Role:
    """Return the role that a result must carry; a verifier that became executor while it executed may be called either."""
    promoted = seat is round_.committee.executor and seat is not round_.committee.seats[0]
    return result.role if promoted and round_.committee.plan.blind else seat.role
