"""Limits of projects, and which rounds are jobs that wait."""

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the table of limits; jobs that wait are counted from now on by their rounds' project."""
    zero = sa.text("0")
    op.create_table(
        "project_limits",
        sa.Column("project_id", sa.Text(), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("rate", sa.Float()),
        sa.Column("burst", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("daily", sa.BigInteger()),
        sa.Column("waiting", sa.BigInteger()),
        sa.Column("full_at", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("day", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("used", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("accepted", sa.BigInteger(), server_default=zero, nullable=False),
    )
    op.add_column("rounds", sa.Column("project_id", sa.Text()))
    op.execute(
        "update rounds set project_id = jobs.project_id from jobs where jobs.id = rounds.job_id "
        "and rounds.status = 'created' and rounds.challenge = 0 and rounds.position <> 'before'"
    )


def downgrade() -> None:
    """Forget the limits: everybody may submit as much as they like."""
    op.drop_column("rounds", "project_id")
    op.drop_table("project_limits")
