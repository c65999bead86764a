"""How many tokens answers have, for the figures of the network."""

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Begin to keep them; of older answers nobody asks."""
    op.add_column("results", sa.Column("tokens", sa.BigInteger()))


def downgrade() -> None:
    """Keep them no more."""
    op.drop_column("results", "tokens")
