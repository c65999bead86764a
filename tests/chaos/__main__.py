"""`python -m tests.chaos`: runs a network through its faults and prints what held; exit status 0 when all did.

Usage, from the project's root: python -m tests.chaos [--jobs 2000] [--seed N] [--operators 4] [--dispatchers 1|2] [--faults 90]
"""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.plan import Options
from chaos.run import run


def main() -> None:
    """Read the options, run, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=(__doc__ or "").split("\n", 1)[0]
    )
    for option in fields(Options):
        name = "--" + option.name.replace("_", "-")
        parser.add_argument(name, type=type(option.default), default=option.default)
    parser.add_argument("--keep", type=Path, help="a folder for settings, logs and data, which stays")
    asked = vars(parser.parse_args())
    keep = asked.pop("keep")
    with tempfile.TemporaryDirectory(prefix="aos-chaos-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        report = asyncio.run(run(Options(**asked), folder))
    sys.stdout.write(report.table() + "\n")
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
