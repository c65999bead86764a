"""Calls for scores are tasks beside dispatches: a task is named by its challenge and method, too.

Revision ID: operator_0002
"""

import sqlalchemy as sa
from alembic import op

revision = "operator_0002"
down_revision = "operator_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Name the tasks that there are as what they are, dispatches."""
    op.alter_column("tasks", "dispatch", new_column_name="request")
    op.add_column("tasks", sa.Column("challenge", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("tasks", sa.Column("method", sa.Text(), nullable=False, server_default="dispatch_job"))
    op.create_check_constraint("task_method", "tasks", "method in ('dispatch_job', 'score_job')")
    _name_by("operator", "job_id", "tag", "challenge", "method")


def downgrade() -> None:
    """Forget the calls for scores; what is open of them is lost to the dispatcher, which asks others then."""
    op.execute("delete from tasks where method <> 'dispatch_job'")
    _name_by("operator", "job_id", "tag")
    op.drop_constraint("task_method", "tasks")
    op.drop_column("tasks", "method")
    op.drop_column("tasks", "challenge")
    op.alter_column("tasks", "request", new_column_name="dispatch")


def _name_by(*columns: str) -> None:
    op.drop_constraint("tasks_pkey", "tasks")
    op.create_primary_key("tasks_pkey", "tasks", list(columns))
