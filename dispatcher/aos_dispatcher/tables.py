"""The dispatcher's tables. `migrations/dispatcher` builds exactly these; a test compares the two.

Signed frames are stored as the text that was received, because that text is what the signature covers.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
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
    """A project's token, as its SHA-256 only."""

    __tablename__ = "api_tokens"

    digest: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Operator(Base):
    """The local registry: who may connect, under which number, and the last clock seen from it."""

    __tablename__ = "operators"

    address: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    clock: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Model(Base):
    """A model that was announced, and the digest that its name stands for from then on."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    job_type: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]


class Registry(Base):
    """Snapshots of the registry by digest, shared by all rounds that were drawn from them."""

    __tablename__ = "registries"

    digest: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[JsonObject]


class Job(Base):
    """A project's request, its place in the sequence, its seed, and how it ended."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        CheckConstraint(
            "status in ('created', 'dispatched', 'completed', 'failed', 'cancelled')", name="job_status"
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(unique=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    idempotency_key: Mapped[str | None]
    user_id: Mapped[str] = mapped_column(index=True)
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


class Round(Base):
    """One dispatch of a job under a tag and position; open rounds are what the dispatch loop leases."""

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("job_id", "tag"),
        Index(
            "open_rounds",
            "id",
            postgresql_where=text("status in ('created', 'dispatched')"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    tag: Mapped[str]
    position: Mapped[str]
    job_type: Mapped[str]
    model: Mapped[str]
    model_sha256: Mapped[str]
    status: Mapped[str]
    deadline: Mapped[datetime]
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    registry_digest: Mapped[str | None] = mapped_column(ForeignKey("registries.digest"))
    draw_clock: Mapped[dict[str, str] | None]
    dispatch_clock: Mapped[dict[str, str] | None]
    electorate: Mapped[list[JsonObject] | None]
    size: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


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
    """A verified answer: the operator's signed frame, from which every row shown is read."""

    __tablename__ = "results"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id"))
    operator: Mapped[str]
    frame: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Rejection(Base):
    """What an operator sent and was refused: kept as evidence, never shown as a result."""

    __tablename__ = "rejections"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str | None] = mapped_column(index=True)
    operator: Mapped[str]
    reason: Mapped[str]
    frame: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
