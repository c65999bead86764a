"""The calibration beside a model: found, read, and missed in words that say what to do."""

import json
from pathlib import Path

import pytest

from aos_cli.errors import CliError
from aos_cli.models import DEMO_MODEL, calibration_file, missing_calibration, read_calibration
from support.calibration import calibration

OWN, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "big.Q4_0.gguf"


def test_the_calibration_lies_beside_the_model() -> None:
    assert calibration_file(DEMO_MODEL).name == "aos-demo-5m.F16.calibration.json"
    assert calibration_file(Path("/m/llama-2-7b-chat.Q4_0.gguf")) == Path(
        "/m/llama-2-7b-chat.Q4_0.calibration.json"
    )


def test_it_is_read_as_it_was_written(model: Path) -> None:
    assert read_calibration(model) is None
    made = calibration(OWN)
    calibration_file(model).write_text(json.dumps(made.to_json()))
    read = read_calibration(model)
    assert read is not None
    assert read.digest() == made.digest()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 1}', '{"a": 1, "a": 2}', "[" * 1000])
def test_a_file_that_is_none_is_no_missing_one(model: Path, text: str) -> None:
    calibration_file(model).write_text(text)
    with pytest.raises(CliError, match=rf"big.Q4_0.calibration.json .*aos calibrate {model}$"):
        read_calibration(model)


def test_a_folder_in_its_place_is_said_to_be_one(model: Path) -> None:
    calibration_file(model).mkdir()
    with pytest.raises(CliError, match=r"cannot be used: .*directory"):
        read_calibration(model)


def test_a_missing_one_is_told_with_what_follows(model: Path) -> None:
    file = calibration_file(model)
    assert missing_calibration(model, OWN, None) == (
        f"{file} is missing, so every verdict will be inconclusive: move on like this, or stop and run aos calibrate {model}"
    )
    assert str(missing_calibration(model, OWN, calibration(OTHER))).startswith(
        f"{file} is of another file, so every"
    )
    assert missing_calibration(model, OWN, calibration(OWN)) is None


def test_the_demo_model_has_its_own() -> None:
    from aos_cli.checks import file_digest

    assert missing_calibration(DEMO_MODEL, file_digest(DEMO_MODEL), read_calibration(DEMO_MODEL)) is None
