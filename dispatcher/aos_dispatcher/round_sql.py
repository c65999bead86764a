"""The statement that writes a batch of changes of rounds (`round_writes`), put together from the parts that the batch has rows for.

Rows are locked in one order everywhere, jobs before rounds before operators, each by their keys: no two transactions wait in a circle. A part of a
statement is done before another only where that reads it: hence the conditions on counts, which always hold.
"""
# ruff: noqa: S608 - put together from constants of this file

from collections.abc import Mapping
from functools import cache
from typing import Final

from sqlalchemy import TextClause, text

from aos_dispatcher.rows import Rows, insertion
from aos_dispatcher.tables import Assignment, Result, Score

OPEN_AND_MINE: Final = "lease_owner = :owner and status in ('created', 'dispatched')"
"""Which rounds their owner may write about."""

ASKED = Rows("asked", {"id": "bigint", "fencing_token": "bigint"})
DRAWS = Rows(
    "drawn",
    {
        "id": "bigint",
        "job_id": "text",
        "own": "boolean",
        "registry_digest": "text",
        "registry_chain": "json",
        "draw_clock": "json",
        "dispatch_clock": "json",
        "electorate": "json",
        "size": "bigint",
        "calibration": "text",
    },
)
ENDS = Rows(
    "ended",
    {
        "id": "bigint",
        "job_id": "text",
        "own": "boolean",
        "status": "text",
        "reason": "text",
        "clock": "json",
        "finished_at": "timestamptz",
        "final_at": "timestamptz",
    },
)
SESSIONS = Rows("given", {"id": "bigint", "session": "json"})
SEATS = Rows.of(Assignment, "round_id", "operator", "rank", "role", "filled", "state", "reason")
ANSWERED = Rows("answered", {"round_id": "bigint", "operator": "text"})
RESULTS = Rows.of(Result, "id", "job_id", "round_id", "operator", "frame", "attestation", "tokens")
SCORES = Rows.of(Score, "round_id", "job_id", "operator", "subject", "frame", "verdict")
HEARD = Rows("heard", {"round_id": "bigint", "operator": "text", "counter": "bigint"})
ENTRIES = Rows("entries", {"round_id": "bigint", "place": "bigint", "job_id": "text", "entry": "text"})

_LEASED: Final = f"""
locked as materialized (
    select id from jobs where id = any(cast(:locked as text[])) order by id for no key update
), held as materialized (
    select id, fencing_token from rounds
    where id = any(cast(:asked_id as bigint[])) and {OPEN_AND_MINE} and (select count(*) from locked) >= 0
    order by id for no key update
), kept as (
    select id from held join {ASKED.sql} using (id, fencing_token)
)"""

_PARTS: Final[Mapping[str, str]] = {
    DRAWS.name: f"""
drawn_jobs as (
    update jobs set status = 'dispatched', clock = drawn.dispatch_clock
    from {DRAWS.sql} join kept on kept.id = drawn.id where jobs.id = drawn.job_id and drawn.own
), drawn_rounds as (
    update rounds set status = 'dispatched', registry_digest = drawn.registry_digest, registry_chain = drawn.registry_chain,
        draw_clock = drawn.draw_clock, dispatch_clock = drawn.dispatch_clock, electorate = drawn.electorate,
        size = drawn.size, calibration = drawn.calibration
    from {DRAWS.sql} join kept on kept.id = drawn.id where rounds.id = drawn.id
)""",
    ENDS.name: f"""
ended_jobs as (
    update jobs set status = ended.status, reason = ended.reason, clock = ended.clock, finished_at = ended.finished_at,
        final_at = ended.final_at
    from {ENDS.sql} join kept on kept.id = ended.id where jobs.id = ended.job_id and ended.own
), ended_rounds as (
    update rounds set status = ended.status, reason = ended.reason, finished_at = ended.finished_at
    from {ENDS.sql} join kept on kept.id = ended.id where rounds.id = ended.id
)""",
    SESSIONS.name: f"""
sessions as (
    update rounds set session = given.session from {SESSIONS.sql} join kept on kept.id = given.id where rounds.id = given.id
)""",
    SEATS.name: f"""
seats as (
    {insertion(Assignment, SEATS)} join kept on kept.id = new_assignments.round_id
    on conflict (round_id, operator) do update set state = excluded.state, role = excluded.role, reason = excluded.reason
)""",
    ANSWERED.name: f"""
done as (
    update assignments set state = 'answered' from {ANSWERED.sql} join kept on kept.id = answered.round_id
    where assignments.round_id = answered.round_id and assignments.operator = answered.operator
)""",
    RESULTS.name: f"""
answers as ({insertion(Result, RESULTS)} join kept on kept.id = new_results.round_id)""",
    SCORES.name: f"""
judged as ({insertion(Score, SCORES)} join kept on kept.id = new_scores.round_id)""",
    HEARD.name: f"""
speakers as materialized (
    select address from operators where address = any(cast(:heard_operator as text[])) and (select count(*) from held) >= 0
    order by address for no key update
), lifted as (
    update operators set clock = greatest(operators.clock, latest.counter)
    from (
        select operator, max(counter) as counter from {HEARD.sql} join kept on kept.id = heard.round_id group by operator
    ) as latest
    where operators.address = latest.operator and (select count(*) from speakers) >= 0
)""",
    ENTRIES.name: f"""
logged as (
    insert into log_pending (job_id, entry) select entries.job_id, entries.entry
    from {ENTRIES.sql} join kept on kept.id = entries.round_id
    where (select count(*) from {{last_locked}}) >= 0 order by entries.place
)""",
}
ROWS: Final = (DRAWS, ENDS, SESSIONS, SEATS, ANSWERED, RESULTS, SCORES, HEARD, ENTRIES)
"""What a change can bring, in the order of the parts of the statement."""


@cache
def statement(parts: tuple[str, ...]) -> TextClause:
    """Return the statement that writes rows of these names; it returns the rounds that are held, each with its fencing token.

    Its parameters are `owner`, `locked` (jobs whose rows are written), and those of `ASKED` and of the rows.
    """
    last_locked = "speakers" if HEARD.name in parts else "held"
    written = "".join(f",{_PARTS[part]}" for part in parts)
    return text(
        f"with {_LEASED}{written} select id, fencing_token from held".replace("{last_locked}", last_locked)
    )
