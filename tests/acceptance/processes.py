"""Real commands as real processes, and whether anything of them is left."""

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

SCRIPTS = Path(sysconfig.get_path("scripts"))
HANG_S = 240
"""How long a test may take. Nothing here shows how quick anything is, so all times are bounds on hangs."""

COMMAND_S = 180.0
"""How long one of its commands may take."""

ANSWER_S = 60.0
"""How long a server may take to answer one request."""

_GONE_S = 60.0
_ENDED = {"completed", "failed", "cancelled"}


def command(name: str, *arguments: str) -> list[str]:
    """The command line of one of our installed commands."""
    return [str(SCRIPTS / name), *arguments]


CHECKS = [
    "AOS-PIN-1",
    "AOS-JOB-1",
    "AOS-RECEIPT-1",
    "AOS-SEED-1",
    "AOS-HEAD-1",
    "AOS-LOG-1",
    "AOS-CLOCK-2",
    "AOS-TICKET-1",
    "AOS-COMMITTEE-1",
    "AOS-ROLE-1",
    "AOS-AUDIT-1",
    "AOS-RESULT-1",
    "AOS-TRANSCRIPT-1",
    "AOS-SCORE-1",
    "AOS-CLOCK-1",
    "AOS-MODEL-1",
    "AOS-COMPLETE-1",
    "AOS-VERDICT-1",
    "AOS-MATCH-1",
    "AOS-ANSWER-1",
]
"""What `aos verify` checks of an audited job that nobody disputes, in order."""


class Program:
    """One of our commands running in a process group of its own; its lines can be waited for.

    Leaving kills it, whatever state a failed test left it in. Its stderr joins its stdout.
    """

    def __init__(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command(name, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def read_until(self, start: str) -> str:
        """Wait for a line that starts so; fail with all that was said when the output ends first."""
        for line in self._read():
            if line.strip().startswith(start):
                return line
        raise AssertionError(f"no line starts with {start!r}:\n{self.output}")

    def wait(self) -> int:
        """Read to the end; the exit status."""
        for _ in self._read():
            pass
        return self.process.wait()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def family(self) -> dict[int, str]:
        """Every process that it started, directly or not, as pid and start time: a pid alone may be given out again."""
        parents = {pid: int(fields[1]) for pid, fields in _processes()}
        found, fresh = set(), {self.process.pid}
        while fresh:
            found |= fresh
            fresh = {pid for pid, parent in parents.items() if parent in fresh}
        return {pid: fields[19] for pid, fields in _processes() if pid in found}

    def _read(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            yield line


def left_of(family: dict[int, str]) -> list[str]:
    """The command lines of those processes that are still there after a moment: what was killed needs one to end."""
    deadline = time.monotonic() + _GONE_S
    while left := [pid for pid, fields in _processes() if family.get(pid) == fields[19] and fields[0] != "Z"]:
        if time.monotonic() > deadline:
            return [said.replace(b"\0", b" ").decode() for said in shown(left, "cmdline").values()]
        time.sleep(0.02)  # a process that is no child of ours tells nobody of its end
    return []


def shown(pids: Iterable[int], what: str) -> dict[int, bytes]:
    """A file of /proc of each of these processes; none of one that has ended meanwhile, as PostgreSQL's helpers do at any time."""
    said = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            said[pid] = Path(f"/proc/{pid}/{what}").read_bytes()
    return said


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Every process, with the fields of its stat file from the third on: state, parent, ..., start time (the 20th)."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(folder.name), stat.rpartition(")")[2].split()


class Network:
    """A running `aos up` and the folder of its data."""

    def __init__(self, program: Program, data: Path) -> None:
        self.program = program
        self.data = data
        running: dict[str, Any] = json.loads((data / "running.json").read_text())
        self.url: str = running["url"]
        self.model: str = running["model"]
        self.token = (data / "token").read_text().strip()

    def aos(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an `aos` command beside the network and return what it said."""
        return run_aos(*arguments, environment={"AOS_DATA": str(self.data)} | (environment or {}))

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the dispatcher's API answers to the project: a POST if there is a body."""
        token = {"Authorization": f"Bearer {self.token}"}
        method = "GET" if body is None else "POST"
        answer = httpx.request(
            method, self.url + path, json=body, headers=token, trust_env=False, timeout=ANSWER_S
        )
        assert answer.is_success, answer.text
        return answer.json()

    def settled(self, job_id: str) -> dict[str, Any]:
        """Wait until nobody works on any round of a job any more; its detail."""
        while True:
            detail: dict[str, Any] = self.ask("/api/job/detail", {"job_id": job_id})["result"]
            if all(entry["status"] in _ENDED for entry in detail["rounds"]) and detail["status"] in _ENDED:
                return detail
            time.sleep(0.05)  # a job's end is for its project to ask for


def run_aos(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run an `aos` command to its end."""
    return subprocess.run(
        command("aos", *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
        env=os.environ | (environment or {}),
    )
