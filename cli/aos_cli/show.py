"""How answers are shown on a terminal."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from aos_cli.client import JsonObject

_FILE_WIDTH = 200


def make_console() -> Console:
    """Return the console of stdout; what goes into a file or a pipe is not folded at a terminal's width."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def show_answers(console: Console, rows: Sequence[JsonObject]) -> None:
    """Print a job's answers, each under the operator that signed it, without its control characters."""
    for row in rows:
        tag = f"  {row['tag']}" if row.get("tag") else ""
        console.print(Text(f"{row.get('operator')}{tag}", "cyan"), soft_wrap=True)
        console.print(Text(printable(str(row.get("result"))).strip()), soft_wrap=True)


def printable(text: str) -> str:
    """Return a text without what could steer a terminal: a model, or whoever runs it, chose every character of it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
