"""What an answer has to show at least, as it was when its job came: an auditor holds records against it."""

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Jobs of before had to have transcripts: nothing else was taken, and evidence says nothing."""
    op.add_column("jobs", sa.Column("least_evidence", sa.Text(), nullable=True))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("jobs", "least_evidence")
