"""An index by which the verdicts of the last hour are found, which are counted; rounds without one are not in it."""

from aos_service.alembic_env import build_index, drop_index

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Build the index while rounds are written."""
    build_index("verdicts_found", "rounds", ["finished_at"], where="(verdict ->> 'outcome') is not null")


def downgrade() -> None:
    """Drop the index."""
    drop_index("verdicts_found", "rounds")
