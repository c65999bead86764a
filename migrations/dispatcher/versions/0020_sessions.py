"""Rounds of direct jobs keep the session that their client was given."""

import sqlalchemy as sa
from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column, which is null for all rounds so far."""
    op.add_column("rounds", sa.Column("session", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop the column: whoever has no session yet gets none."""
    op.drop_column("rounds", "session")
