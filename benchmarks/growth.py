"""What a job costs as the queue and the tables grow: 0, 10,000 and 100,000 waiting jobs; 0, 1,000,000 and 5,000,000 finished ones.

    python benchmarks/growth.py [--waiting 0,10000,100000] [--finished 0,1000000,5000000] [--jobs 200] [--rounds 5] [--plans] [--json]

Each size has a dispatcher and a database of its own on one PostgreSQL (fsync on), filled by SQL; bursts of jobs go to them in turns, so that
what else the machine does falls on all alike. Waiting jobs are for a model whose operators are away. Finished jobs have all rows that theirs
would have but the log's (`benchmarks/log.py` has what that costs), with short texts in place of signed frames, so that 5,000,000 of them fit
15 GB; keys and all indexes are as they would be. A cost is processor time of dispatcher and PostgreSQL; `--plans` prints how PostgreSQL
answers the queries that every job makes.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from one_dispatcher import OneDispatcher, burst, one_dispatcher, own_postgres
from operators import CrowdProcess

BOUND_S = 3600.0
OPERATORS = 4
BATCH = 250_000
SIZES = {"waiting": "0,10000,100000", "finished": "0,1000000,5000000"}

# Job n of a filling: a digest is as random as a job's id. Keys come in order, so that indexes are filled from one end to the other.
_DIGEST = "encode(sha256(('{name} ' || n)::bytea), 'hex')"
_JOB_ID = _DIGEST.format(name="job")
_REQUEST = {
    "from": "bench",
    "tag": "",
    "user": "user",
    "job": {"tag": "opml", "prompt": "What is AI?", "model": "away.gguf"},
}


def _statements(first: int, last: int, *, finished: bool) -> list[str]:
    """What puts the jobs numbered so into the tables, with everything that the dispatcher would have written but the log."""
    status, ended = ("completed", "now()") if finished else ("created", "null")
    drawn = """'{"1": "2"}', '{"1": "3"}', '[]', 1""" if finished else "null, null, null, null"
    numbers = f"from generate_series({first}, {last}) n order by 1"
    of_rounds = f"from rounds where id > (select max(id) from rounds) - {last - first + 1}"
    jobs = f"""
        insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock,
                          created_at, deadline, finished_at, final_at)
        select {_JOB_ID}, n, 'bench', 'user ' || n % 100000, '{json.dumps(_REQUEST)}', {_DIGEST.format(name="request")}, '0x',
               {_DIGEST.format(name="seed")}, '', '{status}', '{{"1": "1"}}', now() - interval '1 day', now() + interval '1 day', {ended}, {ended}
        {numbers}
    """
    rounds = f"""
        insert into rounds (job_id, project_id, tag, position, job_type, model, model_sha256, status, deadline, finished_at,
                            draw_clock, dispatch_clock, electorate, size)
        select {_JOB_ID}, 'bench', '', '', 'opml', 'away.gguf', '{"ab" * 32}', '{status}', now() + interval '1 day', {ended}, {drawn}
        {numbers}
    """
    seats = f"""
        insert into assignments (round_id, operator, rank, role, filled, state)
        select id, '0x' || substr(job_id, 1, 40), 0, 'executor', false, 'answered' {of_rounds}
    """
    results = f"""
        insert into results (id, job_id, round_id, operator, frame)
        select '0x' || substr(job_id, 1, 40) || '_' || job_id || '_', job_id, id, '0x' || substr(job_id, 1, 40), 'a frame' {of_rounds}
    """
    return [jobs, rounds, seats, results] if finished else [jobs, rounds]


async def fill(here: OneDispatcher, kind: str, count: int) -> None:
    """Put so many waiting or finished jobs into a database, before its dispatcher has taken in any."""
    statements = [
        f"insert into counters (name, value) values ('jobs', {count}) on conflict (name) do update set value = {count}"
    ]
    for first in range(1, count + 1, BATCH):
        statements += _statements(first, min(count, first + BATCH - 1), finished=kind == "finished")
    await here.fill(statements)


async def one_burst(here: OneDispatcher, jobs: int) -> dict[str, float]:
    """What a job of a burst costs: ms of processor time of each, and of the clock."""
    before, began = here.cpu(), time.perf_counter()
    await burst(here, jobs)
    await here.until_ended()
    took = time.perf_counter() - began
    return (here.cpu() - before).of(jobs) | {"wall": 1e3 * took / jobs}


async def measure_kind(stack: AsyncExitStack, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fill one database for each size, and work on bursts in turns."""
    postgres = await stack.enter_async_context(own_postgres())
    sizes = [int(size) for size in getattr(options, kind).split(",")]
    networks: dict[int, OneDispatcher] = {}
    found: dict[str, Any] = {"sizes": sizes, "fill_s": {}, "bytes": {}}
    for size in sizes:
        here = await stack.enter_async_context(
            one_dispatcher(postgres, OPERATORS, name=f"{kind}_{size}", limits={"waiting_jobs": 1_000_000})
        )
        began = time.perf_counter()
        await fill(here, kind, size)
        found["fill_s"][size] = time.perf_counter() - began
        found["bytes"][size] = (await here.query("select pg_database_size(current_database())"))[0][0]
        print(f"{kind}: {size} filled in {found['fill_s'][size]:.0f} s", file=sys.stderr)
        crowd = await CrowdProcess.start(stack, here.url)
        await crowd.do("connect", OPERATORS)
        networks[size] = here
        await one_burst(here, 20)
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for turn in range(options.rounds):
        for size in sizes if turn % 2 == 0 else reversed(sizes):
            runs[size].append(await one_burst(networks[size], options.jobs))
    for size, measured in runs.items():
        found[str(size)] = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        first = runs[sizes[0]]
        ratios = [
            (run["dispatcher"] + run["postgres"]) / (base["dispatcher"] + base["postgres"])
            for run, base in zip(measured, first, strict=True)
        ]
        found[str(size)]["ratio_cpu"] = statistics.median(ratios)
        found[str(size)]["idle_cpu_percent"] = await idle(networks[size])
    if options.plans:
        found["plans"] = await plans(networks[sizes[-1]])
    return found


async def idle(here: OneDispatcher, seconds: float = 5.0) -> float:
    """How much of a core dispatcher and PostgreSQL take while nothing comes, in percent: of all dispatchers on this PostgreSQL."""
    before = here.cpu()
    await asyncio.sleep(seconds)
    used = here.cpu() - before
    return 100 * (used.dispatcher + used.postgres) / seconds


async def plans(here: OneDispatcher) -> dict[str, list[str]]:
    """How PostgreSQL answers what every job asks, on the largest size."""
    from aos_dispatcher.rounds_store import _CLAIM

    claim = str(_CLAIM)
    for name, value in {
        ":types": "array['opml']", ":models": "array['tiny.gguf']", ":count": "256", ":owner": "'nobody'", ":lease": "15",
    }.items():  # fmt: skip
        claim = claim.replace(name, value)
    asked = {
        "claim": claim,
        "tags of earlier jobs": "select id from jobs where project_id = 'bench' and user_id = 'user 7' and sequence < 1000000000 order by sequence desc limit 10",
        "idempotency": "select id from jobs where project_id = 'bench' and idempotency_key = any(array['a', 'b'])",
        "result page": f"select * from results where job_id = '{'ab' * 32}'",
        "results of a round": "select frame from results where round_id = 1",
        "round by name": f"select status from rounds where job_id = '{'ab' * 32}' and tag = '' and challenge = 0",
    }
    said = {}
    for name, statement in asked.items():
        rows = await here.query("explain (analyze, buffers, costs off, timing off) " + statement)
        said[name] = [row[0] for row in rows]
    return said


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both kinds, one after the other."""
    found: dict[str, Any] = {"free_bytes": shutil.disk_usage("/tmp").free}
    for kind in SIZES:
        if getattr(options, kind):
            async with AsyncExitStack() as stack:
                found[kind] = await measure_kind(stack, kind, options)
    return found | {"load": os.getloadavg()}


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for kind, sizes in SIZES.items():
        parser.add_argument(
            f"--{kind}", default=sizes, help=f"{kind} jobs, by size (default: {sizes}); empty leaves it out"
        )
    parser.add_argument("--jobs", type=int, default=200, help="jobs of a burst (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each size (default: 5)")
    parser.add_argument("--plans", action="store_true", help="print the plans of the hot queries")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    options = parser.parse_args()
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    print(json.dumps(result, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
