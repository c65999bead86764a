"""Which model file the one-machine stack runs."""

from pathlib import Path
from typing import Annotated

import typer

from aos_cli.errors import CliError

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
