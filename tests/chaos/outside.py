"""What must hold as seen from outside: the evidence of every job, the log as a monitor reads it, and the processes' own logs."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from acceptance.processes import command
from aos_protocol.evidence import check_evidence
from chaos.checks import Row
from chaos.network import Network
from chaos.processes import Process

_AT_ONCE = 4
_BAD_IN_LOGS = re.compile(
    r'Traceback \(most recent call last\)|"level": ?"critical"|PANIC:|by an internal error|Segmentation fault'
)
_WATCH_S = 900.0


async def evidence(network: Network, job_ids: Sequence[str]) -> Row:
    """Check the evidence of all jobs."""
    statuses: Counter[str] = Counter()
    problems: list[str] = []
    todo = iter(job_ids)

    async def check_some() -> None:
        async with httpx.AsyncClient(base_url=network.direct[0], trust_env=False, timeout=30) as client:
            for job_id in todo:
                answer = await client.get(f"/api/job/evidence/{job_id}")
                if answer.status_code != 200:
                    problems.append(f"job {job_id}: {answer.status_code} {answer.text[:200]}")
                    continue
                address = network.dispatcher_key.address
                checks = await asyncio.to_thread(
                    check_evidence, answer.json(), dispatcher=address, job_id=job_id
                )
                statuses.update(check.status for check in checks)
                problems.extend(f"job {job_id}: {c.id} {c.what}" for c in checks if c.status == "FAIL")

    await asyncio.gather(*(check_some() for _ in range(_AT_ONCE)))
    note = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    return Row("jobs whose evidence passes check_evidence", len(job_ids), problems, note)


async def watched(network: Network) -> Row:
    """Have `aos-audit watch --once` read the whole log and audit every job."""
    line = (
        "watch",
        "--dispatcher",
        network.direct[0],
        "--dispatcher-address",
        network.dispatcher_key.address,
    )
    state = ("--state", str(network.folder / "monitor.json"), "--once", "--json")
    process = await asyncio.create_subprocess_exec(
        *command("aos-audit", *line, *state), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(_WATCH_S):
        output, error = await process.communicate()
    if process.returncode not in {0, 1}:
        return Row(
            "checks of aos-audit watch --once", 0, [f"exit {process.returncode}: {error.decode()[-500:]}"]
        )
    report: dict[str, Any] = json.loads(output)
    failed = [check for check in report["checks"] if check["status"] == "FAIL"]
    said = [f"{check['id']} {check.get('what', '')}"[:300] for check in failed]
    note = f"{report['passed']} passed, {report['skipped']} skipped, {report['failed']} failed"
    return Row("checks of aos-audit watch --once", len(report["checks"]), said, note)


def logs(folder: Path) -> Row:
    """Look for tracebacks and the like in everything that any process has said."""
    files = sorted([*folder.glob("*.log*"), *folder.glob("*/*.log*")])
    problems = []
    for file in files:
        text = file.read_text("utf-8", "replace")
        found = Counter(match[0] for match in _BAD_IN_LOGS.finditer(text))
        problems += [f"{file.name}: {count} x {what}" for what, count in found.items()]
    return Row("logs without a traceback", len(files), problems)


def ends(processes: Iterable[Process]) -> Row:
    """Count the processes that ended by themselves: with a plain message, since what they need was away, they may."""
    ended = [end for process in processes for end in process.ended]
    # A status below 0 is a signal that this run did not send; 1 is that PostgreSQL or Redis cannot be used at the start.
    bad = [f"{end.name} ended with {end.status}: {end.said[:200]}" for end in ended if end.status != 1]
    why = Counter(end.name.rpartition("-")[0] for end in ended)
    note = ", ".join(f"{count} x {name}" for name, count in why.items())
    said = f" ({ended[0].said[:100]})" if ended else ""
    return Row("processes that ended by themselves, and were restarted", len(ended), bad, note + said)
