"""`aos-audit watch` as a process, over real HTTP: it goes on through outages, and tells on stderr what it finds."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from aos_cli import ports
from aos_protocol.log_entries import job_entries
from support.logged_dispatcher import LoggedDispatcher, serving

AUDIT = Path(sys.executable).with_name("aos-audit")


class Watch:
    """A running monitor, whose log lines can be waited for."""

    def __init__(self, url: str, state: Path) -> None:
        command = [AUDIT, "watch", "--dispatcher", url, "--state", state, "--interval", "0.1"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        self._lines: Queue[dict[str, Any]] = Queue()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(json.loads(line))

    def until(self, **members: Any) -> dict[str, Any]:
        """The next line that has these members."""
        while True:
            line = self._lines.get(timeout=50)
            if members.items() <= line.items():
                return line

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=50)


@pytest.fixture
def shown() -> LoggedDispatcher:
    dispatcher = LoggedDispatcher()
    dispatcher.job()
    return dispatcher


@pytest.fixture
def watches() -> Iterator[list[Watch]]:
    running: list[Watch] = []
    yield running
    for watch in running:
        watch.end()


def once(url: str, state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [AUDIT, "watch", "--dispatcher", url, "--state", state, "--once", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_it_follows_through_an_outage_and_reports_a_fork(
    shown: LoggedDispatcher, tmp_path: Path, watches: list[Watch]
) -> None:
    state = tmp_path / "monitor.json"
    with ports.reserve(0) as holder:  # nobody else gets the port during the outage
        port = ports.number(holder)
        with serving(shown, port) as url:
            watch = Watch(url, state)
            watches.append(watch)
            assert watch.until(event="the log is followed")["size"] == len(shown.entries)
            shown.job()
            assert watch.until(event="the log is followed")["size"] == len(shown.entries)
        assert url in watch.until(event="the dispatcher cannot be asked")["reason"]
        shown.entries[0] = shown.entries[1]
        with serving(shown, port):
            found = watch.until(event="check", status="FAIL")
            assert (found["id"], found["level"]) == ("AOS-FORK-1", "error")
            assert watch.stop() == 0
    assert json.loads(state.read_text())["head"]["size"] == len(shown.entries)
    [proof] = tmp_path.glob("fork-*.json")
    assert str(proof) in found["what"]


@pytest.mark.timeout(180)
def test_once_is_for_cron(shown: LoggedDispatcher, tmp_path: Path) -> None:
    state = tmp_path / "monitor.json"
    with serving(shown) as url:
        first = once(url, state)
        assert (first.returncode, first.stderr) == (0, "")
        assert first.stdout.splitlines()[-1].startswith("verdict: PASS (")
        told = json.loads(once(url, state, "--json", "--strict").stdout)
        assert (told["failed"], told["skipped"], told["exit_status"]) == (0, 0, 0)
        shown.instead["job/evidence"] = lambda _: 401
        shown.job()
        assert once(url, state, "--strict").returncode == 2
        shown.entries = shown.entries[:-1]
        rolled = once(url, state)
        assert rolled.returncode == 1
        assert "FAIL  AOS-ROLLBACK-1" in rolled.stdout
    away = once(url, state)
    assert away.returncode == 3
    assert "nothing answers at" in away.stderr
    state.write_text("{}")
    assert once(url, state).returncode == 3


def test_a_job_is_audited_over_http(shown: LoggedDispatcher, tmp_path: Path) -> None:
    [job_id] = shown.documents
    with serving(shown) as url:
        done = subprocess.run(
            [AUDIT, job_id, "--dispatcher", url], capture_output=True, text=True, check=False, timeout=50
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PASS  AOS-FRESH-1" in done.stdout
    assert f"{len(job_entries(shown.documents[job_id]))} entries" in done.stdout
