"""Taking in `job_score`: every check before anything is stored, and the same answer for a repetition."""

from collections.abc import Mapping

import structlog

from aos_dispatcher.committee import SeatState, Task
from aos_dispatcher.desk import NEVER, NOT_NOW, Desk
from aos_dispatcher.errors import LeaseLost, Refused
from aos_dispatcher.facts import RoundKey
from aos_dispatcher.hub import Peer
from aos_dispatcher.metrics import SCORES_ACCEPTED
from aos_dispatcher.round import ActiveRound, stored_score
from aos_dispatcher.rounds_store import RoundsStore
from aos_dispatcher.verdicts import verdict_json
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.evidence_work import check_extent
from aos_protocol.frames import Frame
from aos_protocol.messages import JobScore, Message, parse_message
from aos_protocol.score_document import Score
from aos_protocol.typed_data import Domain
from aos_protocol.verdict import judge
from aos_protocol.verification import check_score

log = structlog.get_logger()


class ScoreDesk:
    """Accepts verified scores into their rounds."""

    def __init__(self, store: RoundsStore, desk: Desk, domain: Domain) -> None:
        self._store = store
        self._desk = desk
        self._domain = domain

    async def accept(self, peer: Peer, frame: Frame) -> None:
        """Verify and store one score. Raises `Refused`, or `ProtocolError` for a message of the wrong form."""
        try:
            said = parse_message(JobScore, frame.params[0])
        except InvalidMessage as error:
            # The verifier is told never to send this again, so nobody need wait for it.
            self._desk.give_up(self._desk.at_work(_key(frame.params[0])), peer, error)
            raise
        if said.operator != peer.address:
            raise Refused(NEVER, f"the score names operator {said.operator}, but {peer.address} sent it")
        if await self._is_repetition(said):
            return
        round_ = await self._desk.round_of((said.job_id, said.tag, said.challenge))
        try:
            await self._verify_and_store(round_, peer, frame, said)
        except ProtocolError as error:
            self._desk.give_up(round_, peer, error)
            raise

    async def _is_repetition(self, said: JobScore) -> bool:
        stored = await self._store.score_frame(said.job_id, said.tag, said.challenge, said.operator)
        if stored is None:
            return False
        if _content(stored_score(stored)) != _content(said):
            raise Refused(NEVER, "another score of this operator for this round is stored already")
        return True

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
        check_extent(score, round_.facts.request.job, subject.transcript)
        await self._store_score(round_, peer, frame, said, score)

    async def _store_score(
        self, round_: ActiveRound, peer: Peer, frame: Frame, said: JobScore, score: Score
    ) -> None:
        verdict, seat = judge(score, round_.calibration), self._desk.open_seat(round_, peer)
        seat.receiving = True
        try:
            await self._store.scored(
                round_.facts.round_id, said, verdict_json(verdict), frame.text, peer.seen
            )
        except LeaseLost as error:
            raise Refused(NOT_NOW, str(error)) from None
        finally:
            seat.receiving = False
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


def _content(said: JobScore) -> Message:
    """Return a score without what changes at each sending."""
    return said.model_copy(update={"clock": {}, "signature": ""})


def _key(said: Mapping[str, object]) -> RoundKey:
    challenge = said.get("challenge")
    return str(said.get("job_id")), str(said.get("tag")), challenge if isinstance(challenge, int) else 0
