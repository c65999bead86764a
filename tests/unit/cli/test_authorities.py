"""`aos --ca` reaches every client command, as an option or from the environment."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aos_cli.client import certificate_authorities
from aos_cli.main import app

JOB = "0" * 64
ASKED = ["detail", JOB, "--dispatcher", "https://dispatcher.invalid"]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_file_that_holds_no_authority_is_named(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_DATA", str(tmp_path))
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    if by == "environment":
        monkeypatch.setenv("AOS_CA", str(file))
    ran = CliRunner().invoke(app, [*(["--ca", str(file)] if by == "option" else []), *ASKED])
    assert ran.exit_code == 1
    said = f"the file of certificate authorities {file} holds no certificate in PEM form"
    assert ran.stderr.replace("\n", " ").strip() == f"error: {said}"


def test_without_the_option_the_system_s_authorities_are_believed(tmp_path: Path) -> None:
    certificate_authorities.set(tmp_path / "of-an-earlier-command")
    CliRunner().invoke(app, ["keys", "show", str(tmp_path / "nothing")])
    assert certificate_authorities.get() is None
