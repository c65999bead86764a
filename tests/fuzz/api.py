"""Fuzzes the dispatcher's HTTP API by its own OpenAPI document: no 5xx, and every answer as the document says.

Usage, from the project's root: python -m tests.fuzz.api --seconds 600 [--seed N]

The dispatcher is a real process on a PostgreSQL of its own, with operators that have answered jobs before. schemathesis makes the requests, good
ones and bad ones. The exit status is 1 when it finds something, or when the dispatcher's log holds a traceback.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aos_cli.embedded import EmbeddedPostgres
from fuzz.api_hooks import KNOWN
from support.dispatcher_process import DispatcherProcess, dispatcher_process
from support.logs import marks
from support.operators import MODEL, ScriptedOperator

TESTS = Path(__file__).resolve().parents[1]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
_JOBS = 6
_STARTED_S = 30.0


@dataclass(frozen=True)
class Effort:
    """How much is tried: some examples for each operation, or for some seconds, then with every combination of bounds before."""

    seed: int
    examples: int | None = None
    seconds: int | None = None

    def options(self) -> list[str]:
        """As schemathesis is told."""
        said = ["--seed", str(self.seed)]
        said += ["--phases", "examples,fuzzing" if self.seconds is None else "examples,coverage,fuzzing"]
        said += [] if self.examples is None else ["--max-examples", str(self.examples)]
        return said + ([] if self.seconds is None else ["--max-time", str(self.seconds)])


@dataclass(frozen=True)
class Found:
    """What came of it: schemathesis' exit status and report, and suspicious lines of the dispatcher's log."""

    status: int
    report: str
    marks: list[str]

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return self.status == 0 and not self.marks


async def prepare(dispatcher: DispatcherProcess, operators: list[ScriptedOperator]) -> dict[str, list[Any]]:
    """Have jobs done by these operators, under all tags; what requests can be about, by the names of fields."""
    tags = ["", "suspicion", "malicious"]
    jobs = [await dispatcher.submit(user=f"user {n}", tag=tags[n % 3]) for n in range(_JOBS)]
    async with asyncio.timeout(_STARTED_S):
        for job in jobs:
            while (await dispatcher.detail(job))["status"] in {"created", "dispatched"}:
                await asyncio.sleep(0.05)
    addresses = [operator.signer.address for operator in operators]
    return {
        "job_id": jobs,
        "user": ["user 0", "user 1", "user 2"],
        "from": ["shop"],
        "verify": [dispatcher.token],
        "model": [MODEL.name],
        "operator": addresses,
        "challenger": addresses,
        "address": addresses,
        "result": [f"{addresses[0]}_{job}_" for job in jobs],
        "index": [0, 1, 2],
        "size": [3, 4],
        "first": [1, 2],
        "second": [3, 4],
        "authorization": [f"Bearer {dispatcher.token}"],
    }


async def attack(dispatcher: DispatcherProcess, known: dict[str, list[Any]], effort: Effort) -> Found:
    """Let schemathesis loose on it."""
    process = await asyncio.create_subprocess_exec(
        f"{get_path('scripts')}/schemathesis",
        "run",
        f"{dispatcher.url}/openapi.json",
        *effort.options(),
        *("--checks", ",".join(CHECKS)),
        *("--generation-database", "none", "--warnings", "off", "--no-color", "--continue-on-failure"),
        env=os.environ
        | {KNOWN: json.dumps(known), "SCHEMATHESIS_HOOKS": "fuzz.api_hooks", "PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=dispatcher.child.log.parent,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    assert dispatcher.child.returncode is None, "the dispatcher has ended: " + dispatcher.child.log_tail()
    return Found(process.returncode, out.decode(), marks(dispatcher.log()))


async def run(effort: Effort) -> Found:
    """Run it all, on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="aos-fuzz-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with (
            EmbeddedPostgres(folder / "postgres", durable=False) as postgres,
            dispatcher_process(folder, postgres.url("dispatcher")) as dispatcher,
        ):
            operators = [await dispatcher.operator() for _ in range(3)]
            try:
                return await attack(dispatcher, await prepare(dispatcher, operators), effort)
            finally:
                for operator in operators:
                    await operator.close()


def main() -> int:
    """Fuzz for as long as is asked; the exit status is 1 when something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="which requests (default 1)")
    arguments = parser.parse_args()
    found = asyncio.run(run(Effort(arguments.seed, seconds=arguments.seconds)))
    sys.stdout.write("\n".join([found.report, *found.marks, "good" if found.good else "FAILED", ""]))
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
