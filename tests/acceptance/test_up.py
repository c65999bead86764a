"""`aos up` where something is in its way, or goes wrong."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from acceptance.processes import Program, left_of, run_aos


def test_a_part_that_ends_is_named_and_ends_the_rest(data: Path, demo_model: Path) -> None:
    arguments = ("up", "--data", str(data), "--port", "0", "--operators", "2", "--model", str(demo_model))
    with Program("aos", *arguments) as up:
        up.read_until("ready:")
        family = up.family()
        os.kill(pid_of("operator-2.yaml", family), signal.SIGKILL)
        assert up.wait() == 1
        log = data / "logs" / "operator-2.log"
        assert re.search(
            rf"^error: operator-2 ended with status -9\. Its log, {log}, ends:$", up.output, re.MULTILINE
        )
        assert "connected to the dispatcher" in up.output.partition("error:")[2]
    assert left_of(family) == []
    token = (data / "token").read_text()
    with Program("aos", *arguments) as again:
        again.read_until("ready:")
        family = again.family()
        assert again.interrupt(signal.SIGTERM) == 0
    assert left_of(family) == []
    assert token.strip() not in again.output
    assert "keys" not in [line.split()[0] for line in again.lines if line]


def pid_of(argument: str, family: dict[int, str]) -> int:
    for pid in family:
        if argument.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"nobody runs with {argument}")


def test_a_port_that_is_taken(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = run_aos("up", "--data", str(data), "--port", str(port))
    assert said.returncode == 1
    assert said.stderr == (
        f"error: port {port} cannot be used (Address already in use): stop what uses it, or choose another with --port "
        "(0 takes any free one)\n"
    )
    assert said.stdout == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_folder_that_cannot_be_made() -> None:
    said = run_aos("up", "--data", "/proc/aos")
    assert said.returncode == 1
    assert "error: the data folder /proc/aos cannot be made" in said.stderr
