"""Conversations, which requests go on with."""

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the table, with the index by which expired ones are found."""
    now = sa.text("now()")
    op.create_table(
        "conversations",
        sa.Column("project_id", sa.Text(), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("turns", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=sa.text("2"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease", sa.Text()),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
    )
    op.create_index("expired_conversations", "conversations", ["expires_at"])


def downgrade() -> None:
    """Forget all conversations; the jobs that they were made of stay."""
    op.drop_table("conversations")
