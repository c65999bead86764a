"""An index by which the dispatch loop finds rounds that waited until their time was over."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while rounds are written."""
    build_index("waiting_deadlines", "rounds", ["deadline"], where="status = 'created'")


def downgrade() -> None:
    """Drop the index."""
    drop_index("waiting_deadlines", "rounds")
