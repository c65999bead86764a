"""The first tables: clocks and tasks.

Revision ID: operator_0001
"""

import sqlalchemy as sa
from alembic import op

revision = "operator_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "clocks",
        sa.Column("operator", sa.Text(), primary_key=True),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("operator", sa.Text(), primary_key=True),
        sa.Column("job_id", sa.Text(), primary_key=True),
        sa.Column("tag", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("dispatch", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=False, server_default=""),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('open', 'accepted', 'refused', 'cancelled')", name="task_state"),
    )
    op.create_index(
        "open_tasks", "tasks", ["operator", "taken_at"], postgresql_where=sa.text("state = 'open'")
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("tasks")
    op.drop_table("clocks")
