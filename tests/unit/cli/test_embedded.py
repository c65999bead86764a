import os
from pathlib import Path

import pytest

from aos_cli.embedded import default_data_folder


def test_root_s_data_lies_outside_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/somebody/data")
    assert default_data_folder() == Path("/var/lib/aos")


def test_a_user_s_data_lies_in_the_xdg_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/somebody/data")
    assert default_data_folder() == Path("/home/somebody/data/aos")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_data_folder() == Path("/home/somebody/.local/share/aos")
