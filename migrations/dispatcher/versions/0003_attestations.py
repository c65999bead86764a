"""What enclaves were found to be, beside the answers that they gave."""

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the appraisal of a result's enclave; results of before have none."""
    op.add_column("results", sa.Column("attestation", sa.JSON()))


def downgrade() -> None:
    """Forget the appraisals; the results' frames still hold what they were made from."""
    op.drop_column("results", "attestation")
