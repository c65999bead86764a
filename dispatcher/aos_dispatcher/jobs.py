"""Jobs: taking them in durably, and reading them back.

A job is in PostgreSQL, with its place in the sequence, before its submitter gets an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher import job_writes
from aos_dispatcher.clock import TICKS_OF_JOB, DispatcherClock, stamped
from aos_dispatcher.database import Database
from aos_dispatcher.documents import (
    committee_documents,
    ended_document,
    place_document,
    policy_document,
    seed_document,
)
from aos_dispatcher.errors import ApiError, Conflict, NotFound, TooMany, Unavailable
from aos_dispatcher.limits import Limits
from aos_dispatcher.log_pending import record
from aos_dispatcher.metrics import JOBS_ENDED
from aos_dispatcher.newsroom import Newsroom
from aos_dispatcher.quotas import Standing
from aos_dispatcher.rounds import RoundLoop
from aos_dispatcher.rounds_store import Claimed, Current
from aos_dispatcher.tables import Counter, Job, JsonObject, Round
from aos_dispatcher.tags import Tagging, User, open_before, store_tags
from aos_protocol import sortition, vrf
from aos_protocol.canonical import digest
from aos_protocol.fields import EvidenceLevel
from aos_protocol.identity import Signer
from aos_protocol.job import SubmitRequest
from aos_protocol.log_entries import job_entry, round_entry, verdict_entry
from aos_protocol.messages import Receipt
from aos_protocol.tagging import ActiveTag, Placement, place
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed
from aos_service.coalesce import Coalescer

_SEQUENCE = "jobs"
_BATCH = 32
_KNOWN = text(
    "select id, sequence, request_digest, receipt, project_id, idempotency_key from jobs where (project_id, idempotency_key) in "
    "(select * from unnest(cast(:projects as text[]), cast(:keys as text[])))"
)
_LAST = select(Counter.value, func.clock_timestamp()).where(Counter.name == _SEQUENCE).with_for_update()


@dataclass(frozen=True)
class Submission:
    """A validated request, the same as the JSON that was sent, and what else came with it."""

    request: SubmitRequest
    body: JsonObject
    request_digest: str
    model_sha256: str
    idempotency_key: str | None

    @property
    def key(self) -> tuple[str, str] | None:
        """What identifies a repeated submission, if its sender asked for that."""
        return (self.request.project, self.idempotency_key) if self.idempotency_key else None

    @property
    def user(self) -> User:
        """Whom the job is for, as tags count users."""
        return self.request.project, self.request.user

    @property
    def hidden(self) -> bool:
        """True when the prompt is sealed or direct, so that nobody can verify the job."""
        return self.request.job.hidden


@dataclass(frozen=True)
class _Placed:
    """What a batch adds: `outcomes` has a row for each submission, or why it has none and no number either; `leased` are rounds to work on."""

    outcomes: list[JsonObject | ApiError] = field(default_factory=list)
    rows: list[JsonObject] = field(default_factory=list)
    rounds: list[JsonObject] = field(default_factory=list)
    tagging: list[Tagging] = field(default_factory=list)
    leased: list[Claimed] = field(default_factory=list)


@dataclass(frozen=True)
class Accepted:
    """The receipt of a job; where it stands in its project's rate, if there is one, and nothing was repeated."""

    receipt: Receipt
    standing: Standing | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says about the rate."""
        return self.standing.headers() if self.standing else {}


@dataclass(frozen=True)
class Lease:
    """Who holds rounds that are leased as they are stored, and for how many seconds at first."""

    owner: str
    seconds: float


class Jobs:
    """The jobs of one dispatcher identity."""

    def __init__(
        self,
        database: Database,
        signer: Signer,
        domain: Domain,
        timeout: float,
        audit_ppm: int,
        *,
        least_evidence: EvidenceLevel,
        limits: Limits,
        clock: DispatcherClock,
        loop: RoundLoop,
        lease: Lease,
        newsroom: Newsroom,
    ) -> None:
        self._database = database
        self._clock = clock
        self._loop = loop
        self._lease = lease
        self._newsroom = newsroom
        self._signer = signer
        self._domain = domain
        self._timeout = timedelta(seconds=timeout)
        self._audit_ppm = audit_ppm
        self._least_evidence = least_evidence
        self._limits = limits
        self._intake: Coalescer[Submission, Accepted] = Coalescer(self._store, _BATCH, hopeless=Unavailable)

    async def submit(
        self, request: SubmitRequest, body: JsonObject, model_sha256: str, idempotency_key: str | None
    ) -> Accepted:
        """Store a job and return its receipt; the same Idempotency-Key returns the first one's.

        Raises `Conflict` when the key was used with another request, or for a sealed or direct prompt of a tagged user, `TooMany` at
        one of the `limits`, `NotCanonical` for a body without an RFC 8785 form.
        """
        return await self._intake.submit(
            Submission(request, body, digest(body), model_sha256, idempotency_key)
        )

    async def get(self, job_id: str) -> Row[Any]:
        """Return a job's row. Raises `NotFound`."""
        async with self._database.connect() as connection:
            row = (await connection.execute(select(Job.__table__).where(Job.id == job_id))).one_or_none()
        if row is None:
            raise NotFound(f"there is no job {job_id} here")
        return row

    async def end(self, job: Row[Any], status: Literal["cancelled", "failed"], reason: str) -> bool:
        """End a job (a row of `get`) that is not finished: members and followers are told. Returns False when it had already ended."""
        if not await self._end(job.id, status, reason, await self._clock.tick(job.clock)):
            return False
        JOBS_ENDED.labels(status).inc()
        self._loop.cancel(job.id)
        self._newsroom.ended(job.id, reason, status)
        return True

    async def _end(self, job_id: str, status: str, reason: str, clock: dict[str, str]) -> bool:
        open_states = ("created", "dispatched")
        end = update(Job).where(Job.id == job_id, Job.status.in_(open_states)).returning(Job.id)
        values = {"status": status, "reason": reason, "finished_at": datetime.now(UTC)}
        async with self._database.begin() as connection:
            cancelled = await connection.execute(end.values(**values, clock=clock))
            if cancelled.scalar() is None:
                return False
            # A challenge is about an operator, whatever becomes of the job.
            rounds = update(Round).where(
                Round.job_id == job_id, Round.challenge == 0, Round.status.in_(open_states)
            )
            stopped = rounds.values(status=status).returning(Round.id, Round.position)
            ended_rounds = sorted(await connection.execute(stopped))
            committees = await committee_documents(connection, [id_ for id_, _ in ended_rounds])
            for id_, position in ended_rounds:
                ended = ended_document(id_, status, committees.get(id_, []), None)
                job_end = {"reason": reason, "clock": clock} if position != "before" else None
                record(connection, verdict_entry(job_id, ended, job_end), job_id)
        return True

    async def _store(self, batch: Sequence[Submission]) -> list[Accepted | Exception]:
        async with self._database.begin() as connection:
            # Locking the counter first puts all writers into one order, so the look-up below sees every earlier key.
            last, now = await _lock_sequence(connection)
            known = await _known_keys(connection, batch)
            fresh = _first_of_each_key(batch, known)
            said = await self._limits.admit(connection, [s.request.project for s in fresh], last)
            admitted = [s for s, outcome in zip(fresh, said, strict=True) if not isinstance(outcome, TooMany)]
            placed = await self._place(connection, admitted, last, now)
        self._loop.start(placed.leased)
        limited = {id(s): outcome for s, outcome in zip(fresh, said, strict=True)}
        refused = {s: outcome for s, outcome in limited.items() if isinstance(outcome, TooMany)}
        stored = refused | {id(s): row for s, row in zip(admitted, placed.outcomes, strict=True)}
        by_key = known | {s.key: stored[id(s)] for s in fresh if s.key}
        return [self._outcome(s, stored.get(id(s)) or by_key[s.key], limited.get(id(s))) for s in batch]

    async def _place(
        self, connection: AsyncConnection, submissions: Sequence[Submission], last: int, now: datetime
    ) -> _Placed:
        """Store jobs, numbered from `last` on, each with the rounds that it opens; where one cannot be placed there is why not."""
        placed = _Placed()
        if not submissions:
            return placed
        users, count = {submission.user for submission in submissions}, len(submissions)
        models = {submission.model_sha256 for submission in submissions}
        known = await job_writes.needed(connection, users, models, ticks=count * TICKS_OF_JOB, rounds=count)
        active = dict(known.tags)
        for submission, tick in zip(submissions, self._clock.spread(known.ticks, count), strict=True):
            placed.outcomes.append(self._placed(submission, last, tick, active, placed))
        if placed.rows:
            self._lease_those_with_room(placed, known, now)
            _record(connection, placed)
            await job_writes.store(connection, placed.rows, placed.rounds, last + len(placed.rows))
            await store_tags(connection, known.tags, active)
            if placed.tagging:
                await open_before(connection, placed.tagging, placed.rows[-1]["deadline"])
        return placed

    def _lease_those_with_room(self, placed: _Placed, known: job_writes.Needed, now: datetime) -> None:
        """Give rounds their ids, and lease those that this process has room for."""
        takes = self._loop.room()
        for job, round_, id_ in zip(placed.rows, placed.rounds, known.round_ids, strict=False):
            mine = takes(round_["job_type"], round_["model"])
            round_["id"] = id_
            round_["lease_owner"] = self._lease.owner if mine else None
            round_["fencing_token"] = int(mine)
            round_["lease_until"] = now + timedelta(seconds=self._lease.seconds) if mine else None
            if mine:
                current = Current(known.registry, known.calibrations.get(round_["model_sha256"]))
                placed.leased.append(Claimed.fresh(job, round_, current))

    def _placed(
        self, submission: Submission, last: int, tick: int, active: dict[User, ActiveTag], placed: "_Placed"
    ) -> JsonObject | ApiError:
        """Put a job's row, its own round under its user's tag, and its tagging into `placed`; one that others cannot read fits under no tag."""
        user = submission.user
        if submission.hidden and user in active:
            return _unverifiable(active[user])
        row = self._row(submission, last + len(placed.rows) + 1, tick)
        placement, tag = place(active.pop(user, None), row["id"], submission.request.tag)
        if tag is not None:
            active[user] = tag
        placed.rows.append(row)
        placed.rounds.append(self._round(row, submission, placement))
        if placement.tagging:
            placed.tagging.append(Tagging(row["id"], user, row["sequence"], placement.tag))
        return row

    def _row(self, submission: Submission, sequence: int, tick: int) -> JsonObject:
        job_id = sortition.job_id(self._signer.address, sequence, submission.body)
        proof = vrf.prove(self._signer, sortition.seed_alpha(job_id))
        claim = ReceiptClaim(job_id, sequence, submission.request_digest)
        now = datetime.now(UTC)
        return {
            "id": job_id,
            "sequence": sequence,
            "project_id": submission.request.project,
            "idempotency_key": submission.idempotency_key,
            "user_id": submission.request.user,
            "request": submission.body,
            "request_digest": submission.request_digest,
            "receipt": sign_typed(self._signer, self._domain, claim),
            "seed": vrf.ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(proof).hex(),
            "seed_proof": proof.hex(),
            "status": "created",
            "clock": stamped(tick),
            "created_at": now,
            "deadline": now + self._timeout,
            "audit_ppm": self._audit_ppm,
            "least_evidence": self._least_evidence,
        }

    def _round(self, row: JsonObject, submission: Submission, placement: Placement) -> JsonObject:
        job = submission.request.job
        verifiable = not placement.tag and not submission.hidden
        audited = verifiable and sortition.audited(bytes.fromhex(row["seed"]), self._audit_ppm)
        return {
            "job_id": row["id"],
            "project_id": row["project_id"],
            "tag": placement.tag,
            "position": placement.position,
            "purpose": "audit" if audited else "job",
            "cause": placement.cause,
            "job_type": job.tag,
            "model": job.model,
            "model_sha256": submission.model_sha256,
            "status": "created",
            "deadline": row["deadline"],
        }

    def _outcome(
        self, submission: Submission, row: JsonObject | ApiError, said: TooMany | Standing | None
    ) -> Accepted | Exception:
        if isinstance(row, ApiError):
            return row
        if row["request_digest"] != submission.request_digest:
            return Conflict()
        receipt = Receipt(
            job_id=row["id"],
            sequence=row["sequence"],
            request_digest=row["request_digest"],
            dispatcher=self._signer.address,
            signature=row["receipt"],
        )
        return Accepted(receipt, None if isinstance(said, TooMany) else said)


def _record(connection: AsyncConnection, placed: _Placed) -> None:
    for job, round_ in zip(placed.rows, placed.rounds, strict=True):
        seed = seed_document(job["seed"], job["seed_proof"])
        policy = policy_document(job["audit_ppm"], job["least_evidence"])
        record(
            connection,
            job_entry(job | {"job_id": job["id"]}, seed, policy),
            job["id"],
        )
        record(connection, round_entry(job["id"], place_document(round_, None, None)), job["id"])


async def _lock_sequence(connection: AsyncConnection) -> tuple[int, datetime]:
    """Return the last number that was given, and the database's time."""
    row = (await connection.execute(_LAST)).one_or_none()
    if row is None:
        await connection.execute(upsert(Counter).values(name=_SEQUENCE, value=0).on_conflict_do_nothing())
        row = (await connection.execute(_LAST)).one()
    return row[0], row[1]


def _unverifiable(tag: ActiveTag) -> Conflict:
    return Conflict(
        f"the user is tagged {tag.tag!r} by job {tag.cause}, for {tag.remaining} more jobs that are to be verified, "
        "and nobody could verify a sealed or direct prompt: send it open, or wait until the tag is lifted"
    )


async def _known_keys(
    connection: AsyncConnection, batch: Sequence[Submission]
) -> dict[Any, JsonObject | ApiError]:
    keys = {submission.key for submission in batch if submission.key}
    if not keys:
        return {}
    projects, texts = zip(*keys, strict=True)
    rows = (await connection.execute(_KNOWN, {"projects": list(projects), "keys": list(texts)})).mappings()
    return {(row["project_id"], row["idempotency_key"]): dict(row) for row in rows}


def _first_of_each_key(
    batch: Sequence[Submission], known: dict[Any, JsonObject | ApiError]
) -> list[Submission]:
    seen = set(known)
    fresh = []
    for submission in batch:
        if submission.key is None or submission.key not in seen:
            fresh.append(submission)
            seen.add(submission.key)
    return fresh
