"""The dispatcher's tables. `migrations/dispatcher` builds exactly these; a test compares the two.

Signed frames are stored as the text that was received, because that text is what the signature covers.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Sequence,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JsonObject = dict[str, Any]


class Base(DeclarativeBase):
    """Metadata of all tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        JsonObject: JSON,
        list[JsonObject]: JSON,
        dict[str, str]: JSON,
        bytes: LargeBinary,
    }


clock_ticks = Sequence("clock_ticks", metadata=Base.metadata)
"""The dispatcher's own vector clock counter; gaps are harmless, going backwards is not."""


class Counter(Base):
    """The gapless job sequence: one row, locked while numbers are taken."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class Project(Base):
    """Who may submit jobs; `private` projects show results to their token only."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    private: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiToken(Base):
    """A project's token (`tokens`), as its SHA-256 only; `id` is null for those of before tokens had one. `last_used_at` is within an hour."""

    __tablename__ = "api_tokens"

    digest: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str | None] = mapped_column(unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    scopes: Mapped[list[str]] = mapped_column(
        ARRAY(Text), server_default=text("'{submit,read,manage}'::text[]")
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class ProjectLimit(Base):
    """A project's limits (`quotas.Quota`) and what it has used of them (`quotas.Usage`); a row stays once it is there.

    `accepted` goes up with every job since: with the index `waiting_rounds` it tells how many wait (`limits`).
    """

    __tablename__ = "project_limits"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    rate: Mapped[float | None]
    burst: Mapped[int] = mapped_column(server_default=text("1"))
    daily: Mapped[int | None]
    waiting: Mapped[int | None]
    full_at: Mapped[int] = mapped_column(server_default=text("0"))
    day: Mapped[int] = mapped_column(server_default=text("0"))
    used: Mapped[int] = mapped_column(server_default=text("0"))
    accepted: Mapped[int] = mapped_column(server_default=text("0"))


class Conversation(Base):
    """What a project's conversation has come to (`conversations`), and which request has it until when, if one has."""

    __tablename__ = "conversations"
    __table_args__ = (Index("expired_conversations", "expires_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    messages: Mapped[list[JsonObject]]
    turns: Mapped[int] = mapped_column(server_default=text("0"))
    bytes: Mapped[int] = mapped_column(server_default=text("2"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    lease: Mapped[str | None]
    lease_until: Mapped[datetime | None]


class Operator(Base):
    """The local registry: who may connect, under which number, and the last clock seen from it."""

    __tablename__ = "operators"

    address: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    clock: Mapped[int] = mapped_column(server_default=text("0"))
    suspended_at: Mapped[datetime | None]
    appealed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Pool(Base):
    """The sequential test of an operator's answers of one model (`aos_protocol.pool`), over all its scored jobs."""

    __tablename__ = "pools"

    operator: Mapped[str] = mapped_column(ForeignKey("operators.address"), primary_key=True)
    model_sha256: Mapped[str] = mapped_column(primary_key=True)
    llr: Mapped[float]
    tokens: Mapped[int]
    decision: Mapped[str]


class Calibration(Base):
    """What scores of a model are judged by (`aos_protocol.calibration`), by digest: rounds keep the one they were drawn under."""

    __tablename__ = "calibrations"

    digest: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[JsonObject]


class Model(Base):
    """A model that was announced, the digest that its name stands for from then on, and by which its scores are judged."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    job_type: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    calibration: Mapped[str | None] = mapped_column(ForeignKey("calibrations.digest"))


class Registry(Base):
    """Who was registered with which range (`operators.Shares`), by digest: shared by all rounds that were drawn by it, at whatever block."""

    __tablename__ = "registries"

    digest: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[JsonObject]


class Job(Base):
    """A project's request, its place in the sequence, its seed, and how it ended.

    `verdict` is the last one that decided about its answer; `audit_ppm` is the share of audited jobs when it was submitted, `least_evidence`
    what an answer had to show at least, null where nobody could say.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        CheckConstraint(
            "status in ('created', 'dispatched', 'completed', 'failed', 'cancelled')", name="job_status"
        ),
        Index("jobs_of_user", "project_id", "user_id", "sequence"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    idempotency_key: Mapped[str | None]
    user_id: Mapped[str]
    request: Mapped[JsonObject]
    request_digest: Mapped[str]
    receipt: Mapped[str]
    seed: Mapped[str]
    seed_proof: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    clock: Mapped[dict[str, str]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deadline: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    final_at: Mapped[datetime | None]
    verdict: Mapped[JsonObject | None]
    audit_ppm: Mapped[int] = mapped_column(server_default=text("0"))
    least_evidence: Mapped[str | None]


class UserTag(Base):
    """A user whose jobs are dispatched under a tag, how many more of them, and the tagged job that began it."""

    __tablename__ = "user_tags"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str]
    cause: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    remaining: Mapped[int]


class Round(Base):
    """One dispatch of a job under a tag and position; open rounds are what the dispatch loop leases.

    A job's own round has the purpose `job`, or `audit` when its seed chose it for verification. Later ones are `before`, `challenge`
    and `appeal`; the last two are numbered by `challenge`, drawn on a seed of their own, and score the result named by `subject`.
    `fencing_token` is how often it was leased: what was begun under an earlier lease is not written, be it the same process's.
    `project_id` is that of the job, on a job's own round only: those that wait are counted by it.
    `cause` is the tagged job that this round is held for, where that is another one. `registry_chain` is where on the chain the registry
    was read, null for the dispatcher's own. `session` is what the client of a direct job was given (`sessions.Given`).
    """

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("job_id", "tag", "challenge"),
        Index(
            "open_by_model",
            "status",
            "job_type",
            "model",
            "id",
            postgresql_where=text("status in ('created', 'dispatched')"),
        ),
        Index("verdicts_found", "finished_at", postgresql_where=text("(verdict ->> 'outcome') is not null")),
        Index("waiting_deadlines", "deadline", postgresql_where=text("status = 'created'")),
        Index(
            "waiting_rounds",
            "project_id",
            postgresql_where=text("status = 'created' and project_id is not null"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    project_id: Mapped[str | None]
    tag: Mapped[str]
    position: Mapped[str]
    challenge: Mapped[int] = mapped_column(server_default=text("0"))
    purpose: Mapped[str] = mapped_column(server_default="job")
    cause: Mapped[str | None]
    subject: Mapped[str | None]
    seed: Mapped[str | None]
    seed_proof: Mapped[str | None]
    job_type: Mapped[str]
    model: Mapped[str]
    model_sha256: Mapped[str]
    calibration: Mapped[str | None] = mapped_column(ForeignKey("calibrations.digest"))
    status: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")
    verdict: Mapped[JsonObject | None]
    deadline: Mapped[datetime]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    fencing_token: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime | None]
    registry_digest: Mapped[str | None] = mapped_column(ForeignKey("registries.digest"))
    registry_chain: Mapped[JsonObject | None] = mapped_column(JSON(none_as_null=True))
    draw_clock: Mapped[dict[str, str] | None]
    dispatch_clock: Mapped[dict[str, str] | None]
    electorate: Mapped[list[JsonObject] | None]
    size: Mapped[int | None]
    session: Mapped[JsonObject | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class Assignment(Base):
    """One seat on a round's committee, in the draw's order."""

    __tablename__ = "assignments"

    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    rank: Mapped[int]
    role: Mapped[str]
    filled: Mapped[bool]
    state: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default="")


class Result(Base):
    """A verified answer: the operator's signed frame, from which every row shown is read.

    `attestation` is the appraisal of the enclave that gave it (`aos_protocol.attestation.appraisal`); null for `opml`. `tokens` is how many the
    answer has, for figures only; null where nobody knows.
    """

    __tablename__ = "results"
    __table_args__ = (Index("results_made", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), index=True)
    operator: Mapped[str]
    frame: Mapped[str]
    attestation: Mapped[JsonObject | None] = mapped_column(JSON(none_as_null=True))
    tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Score(Base):
    """A verified score: the verifier's signed frame, and the verdict that follows from it."""

    __tablename__ = "scores"
    __table_args__ = (UniqueConstraint("round_id", "operator"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    operator: Mapped[str]
    subject: Mapped[str]
    frame: Mapped[str]
    verdict: Mapped[JsonObject]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Challenge(Base):
    """A result that is to be scored again: by its challenger, its own operator (an appeal), or the dispatcher (neither named)."""

    __tablename__ = "challenges"
    __table_args__ = (
        CheckConstraint("status in ('open', 'upheld', 'rejected', 'undecided')", name="challenge_status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"), unique=True)
    number: Mapped[int]
    result: Mapped[str] = mapped_column(index=True)
    purpose: Mapped[str]
    challenger: Mapped[str | None]
    project: Mapped[str | None]
    reason: Mapped[str]
    signature: Mapped[str | None]
    status: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    decided_at: Mapped[datetime | None]


class Fraud(Base):
    """What an operator was found to have done: the verdict and, where one step decides, that step with its proof."""

    __tablename__ = "frauds"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    operator: Mapped[str] = mapped_column(ForeignKey("operators.address"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    result: Mapped[str | None]
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    step: Mapped[int | None]
    proof: Mapped[JsonObject | None]
    verdict: Mapped[JsonObject]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    withdrawn_at: Mapped[datetime | None]


class Rejection(Base):
    """What an operator sent and was refused: kept as evidence, never shown as a result."""

    __tablename__ = "rejections"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str | None] = mapped_column(index=True)
    operator: Mapped[str]
    reason: Mapped[str]
    frame: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class LogPending(Base):
    """An event that happened and stands in no log yet: written in the transaction that stored the event itself."""

    __tablename__ = "log_pending"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str | None] = mapped_column(index=True)
    entry: Mapped[str]


class LogEntry(Base):
    """One entry of the transparency log, for ever in its place."""

    __tablename__ = "log_entries"

    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str | None] = mapped_column(index=True)
    entry: Mapped[str]


class LogTile(Base):
    """Up to 256 neighbouring hashes of the log's Merkle tree, all of nodes over 256 ** `level` entries (`log_tree`)."""

    __tablename__ = "log_tiles"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hashes: Mapped[bytes]


class LogHead(Base):
    """The newest signed head of the log; there is one row."""

    __tablename__ = "log_head"

    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root: Mapped[str]
    timestamp: Mapped[int]
    signature: Mapped[str]


class LogAnchor(Base):
    """A head that the chain's contract has taken: in which block, by which transaction."""

    __tablename__ = "log_anchors"

    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root: Mapped[str]
    block: Mapped[int]
    transaction: Mapped[str]


class Blob(Base):
    """An image (`blobs`): a project's own to be edited (no job or operator), or one that an operator made for a job.

    What its header says follows once it is `complete`; it is `shown` to others than its project once a verified result names it.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        UniqueConstraint("sha256", "project_id", "job_id", "operator"),
        Index("blobs_of_job", "job_id"),
        Index("expired_blobs", "expires_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(server_default="")
    operator: Mapped[str] = mapped_column(server_default="")
    size: Mapped[int]
    media_type: Mapped[str] = mapped_column(server_default="")
    width: Mapped[int] = mapped_column(server_default=text("0"))
    height: Mapped[int] = mapped_column(server_default=text("0"))
    complete: Mapped[bool] = mapped_column(server_default=text("false"))
    shown: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class BlobChunk(Base):
    """Some bytes of an image, from `start` on; they go with it."""

    __tablename__ = "blob_chunks"

    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]
