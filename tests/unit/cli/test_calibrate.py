"""`aos calibrate`: what it refuses, and what it writes (with the measuring itself replaced; tests/integration measures)."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aos_cli import calibrate
from aos_cli.main import app
from aos_protocol.calibration import Calibration
from support.calibration import calibration

runner = CliRunner()
FITTED = calibration("ab" * 32)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibrate, "_measured", lambda *_: FITTED)
    path = tmp_path / "llama.Q4_0.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_the_calibration_lies_beside_the_model(model: Path) -> None:
    result = runner.invoke(app, ["calibrate", str(model)])
    assert result.exit_code == 0, result.output
    written = model.with_name("llama.Q4_0.calibration.json")
    assert Calibration.from_json(json.loads(written.read_text())) == FITTED
    assert str(written) in result.output
    assert "other seed" in result.output


def test_it_goes_where_it_is_told(model: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["calibrate", str(model), "--out", str(tmp_path / "here.json")])
    assert result.exit_code == 0, result.output
    assert [file.name for file in tmp_path.glob("*.json")] == ["here.json"]


def test_a_calibration_is_not_overwritten(model: Path) -> None:
    target = model.with_suffix(".calibration.json")
    target.write_text("mine")
    result = runner.invoke(app, ["calibrate", str(model)])
    assert result.exit_code == 1
    assert "there already" in result.output
    assert target.read_text() == "mine"


def test_a_folder_that_is_not_there_is_told_before_anything_runs(model: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["calibrate", str(model), "--out", str(tmp_path / "no/where.json")])
    assert result.exit_code == 1
    assert "cannot write to the folder" in result.output


@pytest.mark.parametrize("content", [None, b"no model", b"GG"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    result = runner.invoke(app, ["calibrate", str(path)])
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert not list(tmp_path.glob("*.json"))
