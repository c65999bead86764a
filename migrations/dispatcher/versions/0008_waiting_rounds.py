"""An index of the rounds that wait for a committee, by which waiting jobs are counted."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while rounds are written."""
    build_index(
        "waiting_rounds", "rounds", ["project_id"], where="status = 'created' and project_id is not null"
    )


def downgrade() -> None:
    """Drop the index."""
    drop_index("waiting_rounds", "rounds")
