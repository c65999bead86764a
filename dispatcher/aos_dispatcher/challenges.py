"""Disputes: a result is scored again by a committee of its own, drawn on a seed that nobody knew before.

1. `challenge`, `appeal` and `open_automatic` open a round for one result: tag `suspicion`, position `after`, and a number
   that goes into the seed.
2. The dispatch loop draws and drives that round like any other; its members only score.
3. `decide` is called in the transaction that closes the round: what the committee found decides the challenge, the job's
   finality, and whether a fraud is kept or withdrawn.

Every transaction here locks the job first and an operator after it, so none waits for another in a circle.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.documents import place_document, plea_document
from aos_dispatcher.errors import Conflict, Forbidden, NotFound, TooMany, Unauthorized, Unprocessable
from aos_dispatcher.log_pending import record
from aos_dispatcher.round import stored_result
from aos_dispatcher.settings import Verification
from aos_dispatcher.standing import Finding, record_fraud, record_standing, withdraw_fraud
from aos_dispatcher.tables import Assignment, Challenge, Fraud, Job, JsonObject, Operator, Result, Round
from aos_dispatcher.verdicts import Judgement, verdict_json
from aos_protocol import sortition, vrf
from aos_protocol.calibration import Calibration
from aos_protocol.errors import InvalidSignature
from aos_protocol.identity import Signer
from aos_protocol.log_entries import round_entry
from aos_protocol.messages import JobResult
from aos_protocol.score_document import Score
from aos_protocol.shown import read_shown, unscorable
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import ChallengeClaim, Domain, recover_typed
from aos_protocol.verdict import first_divergence, judge

Purpose = Literal["challenge", "appeal"]
Decision = Literal["upheld", "rejected", "undecided"]

_SAYS: dict[tuple[str, str], Decision] = {
    ("challenge", "mismatch"): "upheld",
    ("challenge", "match"): "rejected",
    ("appeal", "match"): "upheld",
    ("appeal", "mismatch"): "rejected",
}
_CHALLENGER_LOCK = text("select pg_advisory_xact_lock(hashtext('challenger ' || :who))")
_DECIDED = ("upheld", "rejected")
_DECIDED_S = 10
"""Whoever has too many challenges open is told to come again after this: one takes as long as a committee to score."""


def decision(purpose: Purpose, outcome: str | None) -> Decision:
    """Return what a round's outcome means for whoever asked for the round.

    A challenge says that the result is wrong, an appeal that it is right. An inconclusive outcome, and none because nobody
    could score, decide nothing.
    """
    return _SAYS.get((purpose, outcome or ""), "undecided")


def final_at(status: str, finished_at: datetime, window: timedelta) -> datetime | None:
    """Return when a job is final unless it is challenged: `window` after its own round was completed.

    A job that failed or was cancelled has no answer that could be.
    """
    return finished_at + window if status == "completed" else None


def final_after(answer_decided: bool, now: datetime, window_end: datetime) -> datetime:
    """Return when a job is final whose challenges all ended: now, if its answer was decided, else not before the window ends."""
    return now if answer_decided else max(now, window_end)


@dataclass(frozen=True)
class Plea:
    """Who wants which result looked at again, and why: an operator by signature, a project, or neither for the dispatcher."""

    purpose: Purpose
    result: str
    reason: str
    operator: str | None = None
    signature: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class Opened:
    """A challenge as whoever asked for it is told; `verify_id` is its round's."""

    job_id: str
    result: str
    challenge: int
    verify_id: str
    purpose: str
    status: str


@dataclass(frozen=True)
class Case:
    """A result with its round and its job, which is locked."""

    job: Row[Any]
    round: Row[Any]
    said: JobResult
    result: str
    frame: str

    @property
    def is_own(self) -> bool:
        """True when the result is of the job's own round, so that the job's finality hangs on it."""
        return bool(self.round.challenge == 0 and self.round.position != "before")

    def final_at(self, window: timedelta) -> datetime | None:
        """Return from when on the result is taken as it stands; None before its round is completed."""
        if self.is_own:
            final: datetime | None = self.job.final_at
            return final
        return final_at(self.round.status, self.round.finished_at, window)


class Challenges:
    """The disputes of one dispatcher identity; a challenge's round is given `timeout` seconds."""

    def __init__(
        self, database: Database, signer: Signer, domain: Domain, settings: Verification, timeout: float
    ) -> None:
        self._database = database
        self._signer = signer
        self._domain = domain
        self._window = timedelta(seconds=settings.challenge_window)
        self._timeout = timedelta(seconds=timeout)
        self._suspend_after = settings.suspend_after
        self._most_open = settings.open_challenges

    async def result_of(self, job_id: str, operator: str, tag: str | None) -> str:
        """Return the id of an operator's result of a job; the tag may be left out where there is one only.

        Raises `NotFound`, or `Unprocessable` when a tag is needed.
        """
        query = select(Result.id, Round.tag).join(Round, Round.id == Result.round_id)
        query = query.where(Result.job_id == job_id, Result.operator == operator).order_by(Result.id)
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).all()
        fitting: list[str] = [row.id for row in rows if tag in {None, row.tag}]
        if not fitting:
            raise NotFound(
                f"operator {operator} has no result of job {job_id}" + (f" under tag {tag!r}" if tag else "")
            )
        if len(fitting) > 1:
            tags = ", ".join(repr(row.tag) for row in rows)
            raise Unprocessable(
                f"the operator has results of this job under several tags: name one of {tags} as 'tag'"
            )
        return fitting[0]

    async def challenge(self, plea: Plea) -> Opened:
        """Have a result scored by a fresh committee; asking again while that goes on returns the same challenge.

        Raises `Unauthorized`, `Forbidden`, `NotFound`, `Unprocessable`, `Conflict` or `TooMany`, saying why not.
        """
        self._check_signature(plea)
        async with self._database.begin() as connection:
            case = await _case(connection, plea.result)
            if plea.operator is not None:
                await _check_challenger(connection, plea.operator, case)
            known = await _challenges_of(connection, case)
            if known and (known[-1].status, known[-1].purpose) == ("open", "challenge"):
                return _opened(known[-1])
            self._check_challengeable(case, known)
            await self._check_rate(connection, plea)
            return await self._open(connection, case, plea)

    async def appeal(self, plea: Plea) -> Opened:
        """Have the result of a suspended operator's fraud scored once more, which it may ask for once.

        Asking again while that goes on returns the same appeal. Raises as `challenge` does.
        """
        self._check_signature(plea)
        async with self._database.begin() as connection:
            case = await _case(connection, plea.result)
            known = await _challenges_of(connection, case)
            operator = await _registered(connection, str(plea.operator))
            if known and (known[-1].status, known[-1].purpose) == ("open", "appeal"):
                return _opened(known[-1])
            await _check_appealable(connection, case, operator)
            await connection.execute(
                update(Operator).where(Operator.address == operator.address).values(appealed_at=func.now())
            )
            opened = await self._open(connection, case, plea)
            await record_standing(connection, operator.address)
            return opened

    async def open_automatic(self, connection: AsyncConnection, result: str, reason: str) -> Opened | None:
        """Take a second look at a result that a round found to mismatch, before anybody is punished for it.

        Called in the transaction that closes that round, after the job's own columns are written. A result that was
        challenged before has had its second look: then this does nothing and returns None.
        """
        case = await _case(connection, result)
        if await _challenges_of(connection, case):
            return None
        return await self._open(connection, case, Plea("challenge", result, reason))

    async def decide(self, connection: AsyncConnection, round_id: int, judged: Judgement | None) -> Decision:
        """Let the outcome of a challenge's round take effect; `judged` is None when the round failed.

        Called in the transaction that closes the round. Returns the decision.
        """
        query = select(Challenge.__table__).where(Challenge.round_id == round_id)
        challenge = (await connection.execute(query)).one()
        case = await _case(connection, challenge.result)
        decided = decision(challenge.purpose, judged.verdict.outcome if judged else None)
        row = update(Challenge).where(Challenge.id == challenge.id)
        await connection.execute(row.values(status=decided, decided_at=func.now()))
        if challenge.purpose == "appeal":
            await self._end_appeal(connection, case, decided, scored=judged is not None)
        else:
            if judged is not None and decided == "upheld":
                await record_fraud(connection, found(case, round_id, judged), self._suspend_after)
            if case.is_own:
                await self._let_job_be_final(connection, case)
        return decided

    def _check_signature(self, plea: Plea) -> None:
        if plea.operator is None or plea.signature is None:
            return
        claim = ChallengeClaim(plea.operator, plea.purpose, plea.result, plea.reason)
        try:
            signer = recover_typed(self._domain, claim, plea.signature)
        except InvalidSignature as error:
            raise Unauthorized(f"signature: {error}") from None
        if signer != plea.operator:
            raise Unauthorized(
                f"the signature is one of {signer}, not of {plea.operator}: sign the EIP-712 struct Challenge with purpose "
                f"{plea.purpose!r}, result {plea.result!r} and this very reason, in this dispatcher's domain"
            )

    def _check_challengeable(self, case: Case, known: Sequence[Row[Any]]) -> None:
        for earlier in known:
            if earlier.status in _DECIDED:
                raise Conflict(
                    f"the result was looked at again already: {earlier.purpose} {earlier.number} was {earlier.status}"
                )
        if case.job.request["job"].get("sealed") is not None:
            raise Unprocessable(
                "the prompt is sealed: only the enclave could read what there is to score, and its attestation stands for the answer"
            )
        if case.job.request["job"].get("direct") is not None:
            raise Unprocessable(
                "the prompt was direct: only its client and the operator could read what there is to score; submit both as a claim to show them"
            )
        if why := _unscorable(case):
            raise Unprocessable(why)
        status = case.job.status if case.is_own else case.round.status
        if status != "completed":
            raise Conflict(f"the result's round is {status}: only a completed one has results that count")
        final = case.final_at(self._window)
        if final is not None and final <= datetime.now(UTC):
            raise Conflict(
                f"the result is final since {final.astimezone(UTC):%Y-%m-%d %H:%M:%S}: it can be challenged for "
                f"{self._window.total_seconds():g} seconds after its round is completed"
            )

    async def _check_rate(self, connection: AsyncConnection, plea: Plea) -> None:
        column, who = (
            (Challenge.challenger, plea.operator)
            if plea.operator is not None
            else (Challenge.project, plea.project)
        )
        await connection.execute(_CHALLENGER_LOCK, {"who": who})
        query = select(func.count()).where(
            column == who, Challenge.status == "open", Challenge.purpose == "challenge"
        )
        if (await connection.execute(query)).scalar_one() >= self._most_open:
            said = (
                f"{who} has {self._most_open} challenges open, which is the most: wait until one is decided"
            )
            raise TooMany(said, "challenges", _DECIDED_S)

    async def _open(self, connection: AsyncConnection, case: Case, plea: Plea) -> Opened:
        round_ = await self._open_round(connection, case, plea.purpose)
        number, round_id = round_["challenge"], round_["id"]
        row = {
            "job_id": case.job.id,
            "round_id": round_id,
            "number": number,
            "result": plea.result,
            "purpose": plea.purpose,
            "challenger": plea.operator,
            "project": plea.project,
            "reason": plea.reason,
            "signature": plea.signature,
            "status": "open",
        }
        await connection.execute(insert(Challenge).values(**row))
        place = place_document(round_, case.frame, plea_document(row))
        record(connection, round_entry(case.job.id, place), case.job.id)
        if plea.purpose == "challenge" and case.is_own:
            await connection.execute(update(Job).where(Job.id == case.job.id).values(final_at=None))
        return Opened(case.job.id, plea.result, number, str(round_id), plea.purpose, "open")

    async def _open_round(self, connection: AsyncConnection, case: Case, purpose: Purpose) -> JsonObject:
        highest = select(func.max(Round.challenge)).where(Round.job_id == case.job.id)
        number = (await connection.execute(highest)).scalar_one() + 1
        proof = vrf.prove(self._signer, sortition.seed_alpha(case.job.id, number))
        row = {
            "job_id": case.job.id,
            "tag": "suspicion",
            "position": "after",
            "challenge": number,
            "purpose": purpose,
            "subject": case.result,
            "seed": vrf.ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(proof).hex(),
            "seed_proof": proof.hex(),
            "job_type": case.round.job_type,
            "model": case.round.model,
            "model_sha256": case.round.model_sha256,
            "status": "created",
            "deadline": datetime.now(UTC) + self._timeout,
        }
        opened = insert(Round).values(**row).returning(Round.id)
        return row | {"id": (await connection.execute(opened)).scalar_one()}

    async def _end_appeal(
        self, connection: AsyncConnection, case: Case, decided: Decision, *, scored: bool
    ) -> None:
        operator = case.said.operator
        if decided == "upheld":
            query = select(Fraud.id).where(Fraud.result == case.result, Fraud.withdrawn_at.is_(None))
            for fraud in (await connection.execute(query)).scalars().all():
                await withdraw_fraud(connection, fraud, operator, self._suspend_after)
        elif not scored:
            # Nobody could look, which is not the operator's doing: it may ask again.
            await connection.execute(
                update(Operator).where(Operator.address == operator).values(appealed_at=None)
            )
        await record_standing(connection, operator)

    async def _let_job_be_final(self, connection: AsyncConnection, case: Case) -> None:
        """Set when the job is final, once no challenge of its own round's results is open any more."""
        query = (
            select(Challenge.status, Assignment.role)
            .join(Result, Result.id == Challenge.result)
            .join(Round, Round.id == Result.round_id)
            .join(
                Assignment,
                (Assignment.round_id == Result.round_id) & (Assignment.operator == Result.operator),
            )
            .where(
                Challenge.job_id == case.job.id, Round.position != "before", Challenge.purpose == "challenge"
            )
        )
        looks = (await connection.execute(query)).all()
        if any(look.status == "open" for look in looks):
            return
        answer_decided = any(look.status in _DECIDED and look.role == "executor" for look in looks)
        now = datetime.now(UTC)
        final = final_after(answer_decided, now, case.job.finished_at + self._window)
        await connection.execute(update(Job).where(Job.id == case.job.id).values(final_at=final))


def found(case: Case, round_id: int, judged: Judgement) -> Finding:
    """Return the fraud that an upheld challenge found, with the step that most verifiers name as the first wrong one.

    Of steps that are named equally often, the earliest. A mismatch that no single step shows has none, and so has an answer without a transcript,
    whose steps nobody can prove.
    """
    steps = (_wrong_step(score, judged.calibration) for score in judged.scores.values())
    named = Counter(step for step in steps if step is not None)
    step, proof = min(named, key=lambda step: (-named[step], step), default=None), None
    if case.said.transcript is None:
        step = None
    if step is not None:
        transcript = Transcript.from_json(case.said.transcript)
        proof = {"commitment": transcript.commitment(), **transcript.step_proof(step).model_dump(mode="json")}
    at_step = (
        [] if step is None else [_at(verifier, score, step) for verifier, score in judged.scores.items()]
    )
    kept = verdict_json(judged.verdict) | {"verifiers": at_step}
    return Finding(case.said.operator, case.job.id, case.result, round_id, step, proof, kept)


def _unscorable(case: Case) -> str:
    shown = read_shown(case.said)
    if shown is None:
        return (
            "the result has neither a transcript nor a record, so there is nothing that could be scored again"
        )
    return unscorable(shown, case.said.model)


def _wrong_step(score: Score, calibration: Calibration | None) -> int | None:
    """Return the step that a verifier found wrong; None where it found none, or what is wrong is not a step."""
    wrong = judge(score, calibration).outcome == "mismatch" and score.contradiction is None
    return first_divergence(score, calibration) if wrong else None


def _at(verifier: str, score: Score, step: int) -> JsonObject:
    """What a verifier found at one step: the token it draws itself there, and how far the claimed one is from it."""
    return {
        "verifier": verifier,
        "token": score.winners[step],
        "margin": score.margins[step] if score.margins else None,
        "distance": score.distances[step] if score.distances else None,
        "surprisal": score.surprisals[step],
    }


async def _case(connection: AsyncConnection, result: str) -> Case:
    row = (await connection.execute(select(Result.__table__).where(Result.id == result))).one_or_none()
    if row is None:
        raise NotFound(f"there is no result {result} here")
    # NO KEY UPDATE: rounds that refer to the job can be inserted meanwhile, so that taking jobs in never waits here.
    lock = select(Job.__table__).where(Job.id == row.job_id).with_for_update(key_share=True)
    job = (await connection.execute(lock)).one()
    round_ = (await connection.execute(select(Round.__table__).where(Round.id == row.round_id))).one()
    return Case(job, round_, stored_result(row.frame), result, row.frame)


async def _challenges_of(connection: AsyncConnection, case: Case) -> Sequence[Row[Any]]:
    query = select(Challenge.__table__).where(Challenge.result == case.result).order_by(Challenge.id)
    return (await connection.execute(query)).all()


async def _registered(connection: AsyncConnection, address: str) -> Row[Any]:
    query = select(Operator.__table__).where(Operator.address == address)
    row = (await connection.execute(query.with_for_update(key_share=True))).one_or_none()
    if row is None:
        raise Forbidden(f"{address} is not a registered operator here")
    return row


async def _check_challenger(connection: AsyncConnection, address: str, case: Case) -> None:
    query = select(Operator.suspended_at).where(Operator.address == address)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise Forbidden(f"{address} is not a registered operator here; only those may challenge by signature")
    if row.suspended_at is not None:
        raise Forbidden(f"{address} is suspended; see GET /api/operator/standing/{address}")
    if case.said.operator == address:
        raise Unprocessable(
            "nobody challenges a result of its own; against a finding, there is POST /api/operator/appeal"
        )


async def _check_appealable(connection: AsyncConnection, case: Case, operator: Row[Any]) -> None:
    if operator.suspended_at is None:
        raise Conflict(f"{operator.address} is not suspended, so there is nothing to appeal against")
    if operator.appealed_at is not None:
        raise Conflict(f"{operator.address} has appealed already, which it may do once")
    query = select(Fraud.id).where(
        Fraud.operator == operator.address, Fraud.result == case.result, Fraud.withdrawn_at.is_(None)
    )
    if (await connection.execute(query)).first() is None:
        raise NotFound(
            f"no standing finding against {operator.address} is about result {case.result}; "
            f"GET /api/operator/standing/{operator.address} lists them"
        )


def _opened(row: Row[Any]) -> Opened:
    return Opened(row.job_id, row.result, row.number, str(row.round_id), row.purpose, row.status)
