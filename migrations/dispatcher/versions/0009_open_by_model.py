"""An index by which the dispatch loop finds open rounds of the models that are served, past all that wait for operators that are away."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while rounds are written."""
    build_index(
        "open_by_model",
        "rounds",
        ["status", "job_type", "model", "id"],
        where="status in ('created', 'dispatched')",
    )


def downgrade() -> None:
    """Drop the index."""
    drop_index("open_by_model", "rounds")
