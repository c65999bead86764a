"""Which model file the one-machine stack runs, and the calibration by which its answers are judged."""

from pathlib import Path
from typing import Annotated

import typer

from aos_cli.errors import CliError
from aos_protocol.calibration import Calibration
from aos_protocol.canonical import parse
from aos_protocol.errors import ProtocolError

DEMO_MODEL = Path(__file__).resolve().parents[2] / "models" / "aos-demo-5m.F16.gguf"
"""The small model of the checkout; an installed wheel has none."""

ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="PATH",
        help="Any GGUF file; its file name is what jobs call the model. Default: the demo model of the checkout.",
        show_default=False,
    ),
]


def model_file(chosen: Path | None) -> Path:
    """Return the file to run.

    Raises:
        CliError: when it is not there.
    """
    path = chosen or DEMO_MODEL
    if not path.is_file():
        where = "the demo model is part of the checkout; " if chosen is None else ""
        raise CliError(
            f"there is no model file {path}: {where}give another with --model, or fetch one with "
            "scripts/download_model.sh"
        )
    return path.absolute()


def calibration_file(model: Path) -> Path:
    """Return where the calibration of a model lies: beside it, `NAME.calibration.json` for `NAME.gguf`."""
    return model.with_suffix(".calibration.json")


def read_calibration(model: Path) -> Calibration | None:
    """Return the calibration that lies beside a model, of whichever file it is; None when there is none.

    Raises:
        CliError: when what lies there is none.
    """
    file = calibration_file(model)
    try:
        document = parse(file.read_bytes())
        if not isinstance(document, dict):
            raise CliError(f"{file} is no calibration: make it anew with aos calibrate {model}")
        return Calibration.from_json(document)
    except FileNotFoundError:
        return None
    except (OSError, ProtocolError) as error:
        raise CliError(
            f"the calibration {file} cannot be used: {error}; move it away, and make it anew with aos calibrate {model}"
        ) from error


def missing_calibration(model: Path, digest: str, found: Calibration | None) -> str | None:
    """Say what it means that a model of this SHA-256 has no calibration, or one of another file; None when it has its own."""
    if found is not None and found.model == digest:
        return None
    there = "is of another file" if found is not None else "is missing"
    return (
        f"{calibration_file(model)} {there}, so every verdict will be inconclusive: move on like this, or stop and run "
        f"aos calibrate {model}"
    )
