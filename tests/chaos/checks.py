"""What must hold after a run, read from the dispatcher's database and the operators' own words; each check is a row of the table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from chaos import clocks, leases
from chaos.clients import Ledger
from chaos.plan import PlannedJob

Record = Mapping[str, Any]
ENDED = {"completed", "failed", "cancelled"}

_SEATS = """
select r.id, r.job_id, r.tag, r.challenge, r.status, a.operator, a.role, a.state,
    (select count(*) from results x where x.round_id = r.id and x.operator = a.operator) as results,
    (select count(*) from scores s where s.round_id = r.id and s.operator = a.operator) as scores
from rounds r join assignments a on a.round_id = r.id
"""
_HOMELESS = """
select count(*) from (select round_id, operator from results union all select round_id, operator from scores) said
where not exists (select 1 from assignments a where a.round_id = said.round_id and a.operator = said.operator)
"""
_DISTRUST = """
select (select count(*) from rounds where verdict->>'outcome' = 'mismatch') + (select count(*) from frauds)
    + (select count(*) from operators where suspended_at is not null)
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: what was checked, how many there were, what is wrong with them, and what else is to be said."""

    what: str
    count: int
    problems: Sequence[str] = ()
    note: str = ""

    @property
    def good(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


async def stored(connection: asyncpg.Connection, ledger: Ledger, planned: Sequence[PlannedJob]) -> list[Row]:
    """Return the checks of what the dispatcher has stored."""
    jobs = await connection.fetch("select * from jobs order by sequence")
    rounds = await connection.fetch("select * from rounds")
    counter = await connection.fetchval("select value from counters where name = 'jobs'")
    seats = await connection.fetch(_SEATS)
    homeless = await connection.fetchval(_HOMELESS)
    distrust = await connection.fetchval(_DISTRUST)
    held = await leases.audit(connection)
    rows = [
        Row("jobs accepted (a client holds a receipt)", ledger.accepted, not_accepted(planned, ledger)),
        Row("accepted jobs stored as their receipt says", ledger.accepted, lost(jobs, ledger)),
        Row("jobs in a gapless sequence, one for each key", len(jobs), gaps(jobs, counter, ledger)),
        Row("jobs that reached an end", len(jobs), unfinished(jobs, "job"), ends(jobs)),
        Row("rounds that reached an end", len(rounds), unfinished(rounds, "round"), ends(rounds)),
        Row("failed jobs with a reason", *_reasons(jobs)),
        Row(
            "seats that answered, with exactly one result or score",
            sum(seat["state"] == "answered" for seat in seats),
            [*wrong_seats(seats), *([f"{homeless} rows of nobody on the committee"] if homeless else [])],
        ),
        Row("completed rounds with exactly one executor", *executors(rounds, seats)),
        Row(
            "writes under the lease held then",
            held.written,
            held.violations,
            f"{held.late} late, but not taken over; {held.takeovers} leases taken over",
        ),
        Row(
            "honest operators distrusted",
            distrust,
            ["somebody was suspended, or found wrong"] * bool(distrust),
        ),
    ]
    return rows + await _clock_rows(connection, rounds, jobs)


def not_accepted(planned: Iterable[PlannedJob], ledger: Ledger) -> list[str]:
    """Every planned job must have been accepted in the end."""
    return [f"key {job.key} was never accepted" for job in planned if job.key not in ledger.receipts]


def lost(jobs: Iterable[Record], ledger: Ledger) -> list[str]:
    """Every receipt must be that of a stored job, under its key."""
    known = {job["id"]: job for job in jobs}
    problems = []
    for key, receipt in ledger.receipts.items():
        job = known.get(receipt.job_id)
        said = (receipt.sequence, receipt.request_digest, receipt.signature, key)
        if job is None:
            problems.append(f"job {receipt.job_id} (sequence {receipt.sequence}) is lost")
        elif said != (job["sequence"], job["request_digest"], job["receipt"], job["idempotency_key"]):
            problems.append(f"job {receipt.job_id} is not what its receipt says")
        elif receipt.job_id in ledger.cancelled and job["status"] != "cancelled":
            problems.append(f"job {receipt.job_id} was cancelled, and is {job['status']}")
    return problems


def gaps(jobs: Sequence[Record], counter: int, ledger: Ledger) -> list[str]:
    """Jobs must be numbered from 1 on without a gap, and there must be no more of them than keys."""
    numbers = [job["sequence"] for job in jobs]
    problems = [] if numbers == list(range(1, len(jobs) + 1)) else ["the sequence has gaps"]
    if counter != len(jobs):
        problems.append(f"the counter says {counter}, and there are {len(jobs)} jobs")
    if len(jobs) > ledger.accepted:
        problems.append(f"{len(jobs) - ledger.accepted} jobs are stored that no client has a receipt of")
    return problems


def unfinished(rows: Iterable[Record], what: str) -> list[str]:
    """Nothing may be open any more."""
    return [f"{what} {row['id']} is {row['status']}" for row in rows if row["status"] not in ENDED]


def ends(rows: Iterable[Record]) -> str:
    """How they ended, counted."""
    counted = Counter(row["status"] for row in rows)
    return ", ".join(f"{counted[status]} {status}" for status in sorted(counted))


def _reasons(jobs: Iterable[Record]) -> tuple[int, list[str], str]:
    failed = [job for job in jobs if job["status"] == "failed"]
    why = Counter(job["reason"].split(":")[0][:60] for job in failed)
    said = "; ".join(f"{count} x {reason}" for reason, count in why.most_common(3))
    return (
        len(failed),
        [f"job {job['id']} failed without a reason" for job in failed if not job["reason"]],
        said,
    )


def wrong_seats(seats: Iterable[Record]) -> list[str]:
    """Who answered has given exactly what its seat asks for; who is still asked to, in a round that ended, has not ended."""
    problems = []
    for seat in seats:
        who = f"{seat['role']} {seat['operator']} of round {seat['id']}"
        if seat["state"] == "assigned" and seat["status"] in {"completed", "failed"}:
            problems.append(f"{who} is still to answer")
        if seat["state"] != "answered":
            continue
        executes = seat["role"] == "executor"
        blind = seat["tag"] == "malicious" and not seat["challenge"]
        if (seat["results"], seat["scores"]) != (int(executes or blind), int(not executes)):
            problems.append(f"{who}: {seat['results']} results, {seat['scores']} scores")
    return problems


def executors(rounds: Iterable[Record], seats: Iterable[Record]) -> tuple[int, list[str]]:
    """Every completed round that is no challenge has exactly one executor that answered."""
    done = {row["id"] for row in rounds if row["status"] == "completed" and not row["challenge"]}
    answered = Counter(
        seat["id"] for seat in seats if seat["role"] == "executor" and seat["state"] == "answered"
    )
    return len(done), [
        f"round {id_}: {answered[id_]} executors answered" for id_ in done if answered[id_] != 1
    ]


async def _clock_rows(
    connection: asyncpg.Connection, rounds: Sequence[Record], jobs: Sequence[Record]
) -> list[Row]:
    numbers = dict(await connection.fetch("select address, number from operators"))
    frames = [
        row["frame"]
        for table in ("results", "scores", "rejections")
        for row in await connection.fetch(f"select frame from {table}")
    ]
    said = clocks.operators_events([*frames, *clocks.tickets(rounds)], numbers)
    ticks = clocks.dispatcher_ticks(rounds, jobs)
    rejected = await connection.fetch("select reason, count(*) as n from rejections group by reason")
    why = Counter[str]()
    for row in rejected:
        why[row["reason"].split(":")[0][:40]] += row["n"]
    note = "; ".join(f"{count} x {reason}" for reason, count in why.most_common(3))
    return [
        Row("events that operators signed, each with a counter of its own", len(said), clocks.reused(said)),
        Row("events of the dispatcher, each with a tick of its own", len(ticks), clocks.repeated(ticks)),
        Row("refused frames that were kept", sum(why.values()), note=note),
    ]
