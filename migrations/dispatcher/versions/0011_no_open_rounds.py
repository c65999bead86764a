"""The index over all open rounds, which open_by_model replaces: a program of before reads the table in its place, so let it not serve for long."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Drop the index."""
    drop_index("open_rounds", "rounds")


def downgrade() -> None:
    """Build it again while rounds are written."""
    build_index("open_rounds", "rounds", ["id"], where="status in ('created', 'dispatched')")
