"""An index of results by their round: each verified round looks for its executor's when it ends, and each evidence document for all."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while results are written."""
    build_index("ix_results_round_id", "results", ["round_id"])


def downgrade() -> None:
    """Drop the index."""
    drop_index("ix_results_round_id", "results")
