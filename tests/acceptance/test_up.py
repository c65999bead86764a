"""`aos up` where something is in its way."""

import os
import socket
from pathlib import Path

import pytest

from acceptance.processes import run_aos


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
