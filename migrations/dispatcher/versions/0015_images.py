"""Images in pieces: what projects give to be edited, and what answers name."""

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add both tables."""
    none, zero, no = sa.text("''"), sa.text("0"), sa.text("false")
    op.create_table(
        "blobs",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("job_id", sa.Text(), server_default=none, nullable=False),
        sa.Column("operator", sa.Text(), server_default=none, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), server_default=none, nullable=False),
        sa.Column("width", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("height", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=no, nullable=False),
        sa.Column("shown", sa.Boolean(), server_default=no, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("sha256", "project_id", "job_id", "operator"),
        sa.Index("blobs_of_job", "job_id"),
        sa.Index("expired_blobs", "expires_at"),
    )
    op.create_table(
        "blob_chunks",
        sa.Column(
            "blob_id", sa.BigInteger(), sa.ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    """Forget all images: who asks for one is told that it is not kept any more."""
    op.drop_table("blob_chunks")
    op.drop_table("blobs")
