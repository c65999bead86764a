"""Taking in `job_score`: every check before anything is stored."""

import structlog

from aos_dispatcher.committee import SeatState, Task
from aos_dispatcher.desk import NEVER
from aos_dispatcher.errors import Refused
from aos_dispatcher.hub import Peer
from aos_dispatcher.intake import Intake, receiving
from aos_dispatcher.metrics import SCORES_ACCEPTED
from aos_dispatcher.round import ActiveRound, stored_score
from aos_dispatcher.verdicts import verdict_json
from aos_protocol.evidence_work import check_extent
from aos_protocol.frames import Frame
from aos_protocol.messages import JobScore
from aos_protocol.score_document import Score
from aos_protocol.verdict import judge
from aos_protocol.verification import check_score

log = structlog.get_logger()


class ScoreIntake(Intake[JobScore]):
    """Accepts verified scores."""

    what = "score"
    answers = Task.SCORE

    async def _stored(self, said: JobScore) -> JobScore | None:
        frame = await self._store.score_frame(said.job_id, said.tag, said.challenge, said.operator)
        return None if frame is None else stored_score(frame)

    async def _verify_and_store(self, round_: ActiveRound, peer: Peer, frame: Frame, said: JobScore) -> None:
        seat, subject = self._desk.open_seat(round_, peer), round_.subject()
        if subject is None or round_.committee.task_of(seat) is not Task.SCORE:
            raise Refused(NEVER, "this member of the committee was not asked to score")
        score = check_score(
            said,
            round_.terms(subject.clock),
            round_.tickets[peer.address],
            self._domain,
            subject=subject.digest,
            subject_operator=subject.operator,
        )
        if score is None:
            await self._desk.keep(frame, f"given up by its operator: {said.reason}")
            self._desk.give_up(round_, peer, said.reason)
            return
        check_extent(score, round_.facts.request.job, subject.shown)
        await self._store_score(round_, peer, frame, said, score)

    async def _store_score(
        self, round_: ActiveRound, peer: Peer, frame: Frame, said: JobScore, score: Score
    ) -> None:
        verdict, seat = judge(score, round_.calibration), self._desk.open_seat(round_, peer)
        with receiving(seat):
            await self._store.scored(round_.facts, said, verdict_json(verdict), frame.text, peer.seen)
        seat.stored = SeatState.ANSWERED, seat.role
        round_.heard.append(said.clock)
        round_.committee.scored(said.operator)
        round_.poke.set()
        SCORES_ACCEPTED.inc()
        log.info(
            "score accepted",
            job_id=said.job_id,
            tag=said.tag,
            operator=said.operator,
            verdict=verdict.outcome,
        )
