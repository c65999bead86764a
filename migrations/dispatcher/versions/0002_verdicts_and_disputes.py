"""Verifiers' scores and verdicts, tagged users, challenges of results, and what operators were found to have done."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add columns to jobs, rounds, operators and models, and the tables of verification."""
    op.create_table(
        "calibrations",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("document", sa.JSON(), nullable=False),
    )
    for table, columns in _new_columns().items():
        for column in columns:
            op.add_column(table, column)
    # What was completed before there were challenges cannot be challenged: its transcripts have nothing to score.
    op.execute("update jobs set final_at = finished_at where status = 'completed'")
    op.drop_constraint("rounds_job_id_tag_key", "rounds")
    op.create_unique_constraint("rounds_job_id_tag_challenge_key", "rounds", ["job_id", "tag", "challenge"])
    op.drop_index(op.f("ix_jobs_user_id"), table_name="jobs")
    op.create_index("jobs_of_user", "jobs", ["project_id", "user_id", "sequence"])
    _create_user_tags_and_pools()
    _create_scores()
    _create_challenges()
    _create_frauds()


def downgrade() -> None:
    """Go back to one round a job and tag: challenges, and what followed from them, are forgotten."""
    for table in ("frauds", "challenges", "scores", "pools", "user_tags"):
        op.drop_table(table)
    op.execute("delete from assignments where round_id in (select id from rounds where challenge > 0)")
    op.execute("delete from rounds where challenge > 0")
    op.drop_index("jobs_of_user", table_name="jobs")
    op.create_index(op.f("ix_jobs_user_id"), "jobs", ["user_id"], unique=False)
    op.drop_constraint("rounds_job_id_tag_challenge_key", "rounds")
    op.create_unique_constraint("rounds_job_id_tag_key", "rounds", ["job_id", "tag"])
    for table, columns in _new_columns().items():
        for column in columns:
            op.drop_column(table, column.name)
    op.drop_table("calibrations")


def _new_columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "operators": [_moment("suspended_at"), _moment("appealed_at")],
        "models": [_calibration()],
        "jobs": [
            _moment("final_at"),
            sa.Column("verdict", sa.JSON()),
            sa.Column("audit_ppm", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        ],
        "rounds": [
            sa.Column("challenge", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
            sa.Column("purpose", sa.Text(), server_default="job", nullable=False),
            sa.Column("cause", sa.Text()),
            sa.Column("subject", sa.Text()),
            sa.Column("seed", sa.Text()),
            sa.Column("seed_proof", sa.Text()),
            sa.Column("reason", sa.Text(), server_default="", nullable=False),
            sa.Column("verdict", sa.JSON()),
            _calibration(),
            _moment("finished_at"),
        ],
    }


def _calibration() -> sa.Column[Any]:
    return sa.Column("calibration", sa.Text(), sa.ForeignKey("calibrations.digest"))


def _create_user_tags_and_pools() -> None:
    op.create_table(
        "user_tags",
        sa.Column("project_id", sa.Text(), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "pools",
        sa.Column("operator", sa.Text(), sa.ForeignKey("operators.address"), primary_key=True),
        sa.Column("model_sha256", sa.Text(), primary_key=True),
        sa.Column("llr", sa.Float(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
    )


def _create_scores() -> None:
    op.create_table(
        "scores",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("round_id", sa.BigInteger(), sa.ForeignKey("rounds.id"), nullable=False),
        sa.Column("job_id", sa.Text(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("frame", sa.Text(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        _now("created_at"),
        sa.UniqueConstraint("round_id", "operator"),
    )
    op.create_index(op.f("ix_scores_job_id"), "scores", ["job_id"], unique=False)


def _create_challenges() -> None:
    op.create_table(
        "challenges",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.Text(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("round_id", sa.BigInteger(), sa.ForeignKey("rounds.id"), nullable=False, unique=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("challenger", sa.Text()),
        sa.Column("project", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        _now("created_at"),
        _moment("decided_at"),
        sa.CheckConstraint("status in ('open', 'upheld', 'rejected', 'undecided')", name="challenge_status"),
    )
    op.create_index(op.f("ix_challenges_job_id"), "challenges", ["job_id"], unique=False)
    op.create_index(op.f("ix_challenges_result"), "challenges", ["result"], unique=False)


def _create_frauds() -> None:
    op.create_table(
        "frauds",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("operator", sa.Text(), sa.ForeignKey("operators.address"), nullable=False),
        sa.Column("job_id", sa.Text(), sa.ForeignKey("jobs.id")),
        sa.Column("result", sa.Text()),
        sa.Column("round_id", sa.BigInteger(), sa.ForeignKey("rounds.id")),
        sa.Column("step", sa.BigInteger()),
        sa.Column("proof", sa.JSON()),
        sa.Column("verdict", sa.JSON(), nullable=False),
        _now("created_at"),
        _moment("withdrawn_at"),
    )
    op.create_index(op.f("ix_frauds_operator"), "frauds", ["operator"], unique=False)


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _now(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
