"""Progress of a long step, on standard error."""

import sys
import time
from typing import Final

import typer

_QUIET: Final = 1.0
"""Seconds that a step may take before it is worth a word."""


class Progress:
    """Prints `label: 40%`: in place on a terminal, else a line every ten percent; nothing for a quick step."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = time.monotonic()
        self._shown = -1
        self._terminal = sys.stderr.isatty()

    def __call__(self, fraction: float) -> None:
        """Tell that `fraction` (0 to 1) of the step is done."""
        percent = int(fraction * 100)
        step = 1 if self._terminal else 10
        if time.monotonic() - self._started < _QUIET or percent // step <= self._shown // step:
            return
        self._shown = percent
        typer.echo(f"{self._label}: {percent}%", err=True, nl=not self._terminal)
        if self._terminal:
            typer.echo("\n" if percent == 100 else "\r", err=True, nl=False)
