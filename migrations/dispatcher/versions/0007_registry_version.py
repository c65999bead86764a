"""A number that changes with the registry, so that draws need not read all of it each time."""

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

_BUMP = """
create function aos_registry_changed() returns trigger language plpgsql as $$
begin
    insert into counters (name, value) values ('registry', 1)
    on conflict (name) do update set value = counters.value + 1;
    return null;
end
$$
"""
_TRIGGER = """
create trigger aos_registry_changed after insert or delete or update of address, number, suspended_at on operators
for each statement execute function aos_registry_changed()
"""


def upgrade() -> None:
    """Count every change of who is registered or suspended, whoever makes it."""
    op.execute(_BUMP)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Count no more."""
    op.execute("drop trigger aos_registry_changed on operators")
    op.execute("drop function aos_registry_changed()")
    op.execute("delete from counters where name = 'registry'")
