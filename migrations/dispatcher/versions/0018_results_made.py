"""An index by which the answers of the last minute are found, whose tokens are counted."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while results are written."""
    build_index("results_made", "results", ["created_at"])


def downgrade() -> None:
    """Drop the index."""
    drop_index("results_made", "results")
