"""The command line's own checks, before any database is asked."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aos_dispatcher.main import app


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"[]", "holds no JSON object"),
        (b"{", "JSON"),
        (b"{}", "Calibration: "),
        (b'{"version": "aos-calibration/2"}', "aos-calibration/1"),
    ],
)
def test_what_is_no_calibration_is_refused_plainly(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "model.calibration.json"
    if content is not None:
        file.write_bytes(content)
    arguments = ["model", "pin", "tiny.gguf", "ab" * 32, "--calibration", str(file), "-c", "nowhere.yaml"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 1
    assert ran.stderr.startswith("dispatcher: ")
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
