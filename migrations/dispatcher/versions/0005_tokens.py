"""API tokens get an id to be named by, scopes, an end, and the hour of their last use."""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the columns. Tokens of before may do everything and never end; a dispatcher of before goes on taking and making them."""
    op.add_column("api_tokens", sa.Column("id", sa.Text(), unique=True))
    op.add_column(
        "api_tokens",
        sa.Column(
            "scopes",
            sa.ARRAY(sa.Text()),
            nullable=False,
            server_default=sa.text("'{submit,read,manage}'::text[]"),
        ),
    )
    for name in ("expires_at", "revoked_at", "last_used_at"):
        op.add_column("api_tokens", sa.Column(name, sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Take the columns away, and with them every token that may not do everything for ever: none may do more than before."""
    op.execute(
        "delete from api_tokens where revoked_at is not null or expires_at is not null "
        "or not scopes @> '{submit,read,manage}'::text[]"
    )
    for name in ("last_used_at", "revoked_at", "expires_at", "scopes", "id"):
        op.drop_column("api_tokens", name)
