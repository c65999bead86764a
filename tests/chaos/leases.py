"""Who wrote what under whose lease: triggers in the dispatcher's database write it down, and `violations` reads it.

Each run of a dispatcher process logs in as a PostgreSQL user of its own, so that a trigger sees which process writes, whatever that
process believes. A lease is named after its process. So:

1. whoever takes a round from another process must find its lease expired, or none;
2. an owner's name belongs to one process;
3. seats, results, scores, and the change of a round's status are written by the process that owns the round at that moment.

A lease that has run out and that nobody took still is its owner's alone, since a takeover and these writes lock the same row: that is
counted (`late`), and no violation. That a project cancels a job needs no lease.
"""

from dataclasses import dataclass

import asyncpg

_AUDIT = """
create schema chaos;
create table chaos.writes (
    at timestamptz not null default clock_timestamp(), who text not null default session_user, what text not null,
    round bigint not null, owner text, left_s double precision, earlier text
);
grant usage on schema chaos to public;
grant insert on chaos.writes to public;

create function chaos.note_round() returns trigger language plpgsql as $$
declare
    before rounds%rowtype;
begin
    if tg_op = 'UPDATE' then
        before := old;
    end if;
    if new.lease_owner is not null and new.lease_owner is distinct from before.lease_owner then
        insert into chaos.writes (what, round, owner, left_s, earlier) values (
            'claim', new.id, new.lease_owner, extract(epoch from before.lease_until - clock_timestamp()), before.lease_owner
        );
    end if;
    if tg_op = 'UPDATE' and new.status <> old.status and new.status <> 'cancelled' then
        insert into chaos.writes (what, round, owner, left_s) values (
            'round ' || new.status, new.id, coalesce(old.lease_owner, new.lease_owner),
            extract(epoch from old.lease_until - clock_timestamp())
        );
    end if;
    return new;
end $$;

create function chaos.note_row() returns trigger language plpgsql as $$
begin
    insert into chaos.writes (what, round, owner, left_s)
    select tg_table_name, id, lease_owner, extract(epoch from lease_until - clock_timestamp()) from rounds where id = new.round_id;
    return new;
end $$;

create trigger chaos_rounds before insert or update on rounds for each row execute function chaos.note_round();
create trigger chaos_assignments before insert or update on assignments for each row execute function chaos.note_row();
create trigger chaos_results before insert on results for each row execute function chaos.note_row();
create trigger chaos_scores before insert on scores for each row execute function chaos.note_row();
"""

_OWNERS = (
    "select owner, count(distinct who) as processes from chaos.writes where what = 'claim' group by owner"
)
_STOLEN = "select count(*) from chaos.writes where what = 'claim' and earlier is not null and left_s > 0"
_WITHOUT = """
select what, round, who, owner from chaos.writes w
where what <> 'claim'
  and not exists (select 1 from chaos.writes c where c.what = 'claim' and c.owner = w.owner and c.who = w.who)
"""
_TOTALS = "select count(*) as written, count(*) filter (where left_s <= 0) as late from chaos.writes where what <> 'claim'"


@dataclass(frozen=True)
class LeaseAudit:
    """What was found: how many writes there were, how many of them `late`, and a line for each violation."""

    written: int
    late: int
    takeovers: int
    violations: list[str]


def user_of(dispatcher: int, run: int) -> str:
    """The PostgreSQL user of one run of a dispatcher."""
    return f"dispatcher_{dispatcher}_{run}"


async def install(connection: asyncpg.Connection, dispatchers: int, runs: int) -> None:
    """Put the triggers into a migrated database, and make the users of every run that there may be."""
    users = (
        user_of(dispatcher, run) for dispatcher in range(1, dispatchers + 1) for run in range(1, runs + 1)
    )
    await connection.execute(_AUDIT + "".join(f"create role {user} superuser login;" for user in users))


async def audit(connection: asyncpg.Connection) -> LeaseAudit:
    """Read what the triggers have written down."""
    owners = await connection.fetch(_OWNERS)
    found = [
        f"lease owner {row['owner']} is {row['processes']} processes"
        for row in owners
        if row["processes"] > 1
    ]
    stolen = await connection.fetchval(_STOLEN)
    if stolen:
        found.append(f"{stolen} leases were taken from others before they had run out")
    found += [
        f"{row['what']} of round {row['round']} written by {row['who']}, lease of {row['owner']}"
        for row in await connection.fetch(_WITHOUT)
    ]
    totals = await connection.fetchrow(_TOTALS)
    taken = await connection.fetchval(
        "select count(*) from chaos.writes where what = 'claim' and earlier is not null"
    )
    return LeaseAudit(totals["written"], totals["late"], taken, found)
