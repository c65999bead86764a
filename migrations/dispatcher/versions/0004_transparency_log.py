"""The transparency log: what waits for its place, entries, the Merkle tree over them, its signed head, and anchors on a chain.

Rounds keep where on a chain the registry was that they were drawn by.
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the log's tables; a dispatcher that starts writes down what there is already (`log_backfill`)."""
    op.create_table(
        "log_pending",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.Text()),
        sa.Column("entry", sa.Text(), nullable=False),
    )
    op.create_table(
        "log_entries",
        sa.Column("index", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("entry", sa.Text(), nullable=False),
    )
    for table in ("log_pending", "log_entries"):
        op.create_index(f"ix_{table}_job_id", table, ["job_id"])
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("index", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "log_head",
        sa.Column("size", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
    )
    op.create_table(
        "log_anchors",
        sa.Column("size", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("transaction", sa.Text(), nullable=False),
    )
    op.add_column("rounds", sa.Column("registry_chain", sa.JSON()))
    # What there is already is logged by the first dispatcher that starts: its entries are made from whole documents.
    op.execute(
        "insert into counters (name, value) select 'unlogged', 1 where exists (select from operators) or exists (select from models)"
    )


def downgrade() -> None:
    """Forget the log; whoever kept a head of it can tell."""
    op.execute("delete from counters where name = 'unlogged'")
    op.drop_column("rounds", "registry_chain")
    for table in ("log_anchors", "log_head", "log_tiles", "log_entries", "log_pending"):
        op.drop_table(table)
