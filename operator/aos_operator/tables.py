"""The operator's tables. `migrations/operator` builds exactly these; a test compares the two.

Several operators may share one database, so everything belongs to an operator's address. Documents are JSON, not JSONB:
JSONB refuses U+0000, which a model may well write.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, Index, LargeBinary, Text, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JsonObject = dict[str, Any]


class Base(DeclarativeBase):
    """Metadata of all tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        JsonObject: JSON(none_as_null=True),
        bytes: LargeBinary,
    }


class ClockRow(Base):
    """The highest clock number that an operator has reserved; any number up to it may have been used."""

    __tablename__ = "clocks"

    operator: Mapped[str] = mapped_column(primary_key=True)
    reserved: Mapped[int]


class TaskRow(Base):
    """A request that was taken (`method`), what came of it (unsigned), and what the dispatcher said to that."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("state in ('open', 'accepted', 'refused', 'cancelled')", name="task_state"),
        CheckConstraint("method in ('dispatch_job', 'score_job')", name="task_method"),
        Index("open_tasks", "operator", "taken_at", postgresql_where=text("state = 'open'")),
    )

    operator: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    challenge: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default=text("0"))
    method: Mapped[str] = mapped_column(primary_key=True, server_default="dispatch_job")
    state: Mapped[str]
    request: Mapped[JsonObject]
    outcome: Mapped[JsonObject | None]
    verdict: Mapped[str] = mapped_column(server_default="")
    taken_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class BlobRow(Base):
    """Some bytes, from `start` on, of an image that the outcome of a task names; they are kept while the task is open."""

    __tablename__ = "blobs"

    operator: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]


class InstanceRow(Base):
    """A model that registered with this node: for which project, in which container, at which URL, of which type."""

    __tablename__ = "instances"

    operator: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    cid: Mapped[str] = mapped_column(primary_key=True)
    api: Mapped[str]
    kind: Mapped[int]
