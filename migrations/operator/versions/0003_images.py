"""Images that answers name, until the dispatcher has accepted the answer.

Revision ID: operator_0003
"""

import sqlalchemy as sa
from alembic import op

revision = "operator_0003"
down_revision = "operator_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "blobs",
        sa.Column("operator", sa.Text(), primary_key=True),
        sa.Column("job_id", sa.Text(), primary_key=True),
        sa.Column("tag", sa.Text(), primary_key=True),
        sa.Column("sha256", sa.Text(), primary_key=True),
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Forget the images of open tasks: their answers are given up, and the dispatcher asks somebody else."""
    op.drop_table("blobs")
