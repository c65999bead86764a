"""Models register with the node beside them.

Revision ID: operator_0004
"""

import sqlalchemy as sa
from alembic import op

revision = "operator_0004"
down_revision = "operator_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Remember them."""
    op.create_table(
        "instances",
        sa.Column("operator", sa.Text(), primary_key=True),
        sa.Column("project", sa.Text(), primary_key=True),
        sa.Column("model", sa.Text(), primary_key=True),
        sa.Column("cid", sa.Text(), primary_key=True),
        sa.Column("api", sa.Text(), nullable=False),
        sa.Column("kind", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    """Forget them: an older version takes no registrations."""
    op.drop_table("instances")
