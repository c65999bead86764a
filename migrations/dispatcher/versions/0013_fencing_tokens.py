"""How often a round was leased: a fencing token, by which what one drive of a round has under way is told from what the next one writes."""

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Begin to count."""
    op.add_column(
        "rounds", sa.Column("fencing_token", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )


def downgrade() -> None:
    """Count no more."""
    op.drop_column("rounds", "fencing_token")
