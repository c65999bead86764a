"""What a starting provider says, step by step: as Symmetry's client shows it on a terminal, else as records in the log."""

import sys
from typing import Final

import structlog
import typer

_log = structlog.get_logger(__name__)

_SHOWN: Final = {
    "reading the settings": "🔗 Initializing client using config file: {file}",
    "initialized": "📁 AOS client initialized: {name}",
    "identity": "🔑 Discovery key: {operator}",
    "pinned dispatcher": "🔑 Server key: {pin}",
    "joining the dispatcher": "🔗 Joining server, please wait.",
    "reached the dispatcher": "🔗 Connected to server.",
    "verified the dispatcher": "✅ Verification successful.",
    "saying hello to the model server": "👋 Saying hello to your provider...",
    "sending a test request": "🚀 Sending test request to {url}",
    "checking the stream": "📡 Got response, checking stream...",
    "the test call succeeded": "✅ Test inference call successful!",
    "serving": "✅ Serving {model} to the network as {operator}",
}
"""The steps in their order, and how each is shown to somebody who watches."""


class Steps:
    """Says each step once; `watched` is whether somebody does, by default whether stderr is a terminal."""

    def __init__(self, *, watched: bool | None = None) -> None:
        self._watched = sys.stderr.isatty() if watched is None else watched

    def say(self, step: str, **facts: str) -> None:
        """Say a step of `_SHOWN` with its facts, none of which is secret."""
        shown = _SHOWN[step].format(**facts)
        if self._watched:
            typer.echo(f"ℹ️ INFO: {shown}", err=True)  # noqa: RUF001 - the sign that Symmetry's client prints
        else:
            _log.info(step, **facts)

    def warn(self, what: str) -> None:
        """Say what works, and is not well."""
        if self._watched:
            typer.echo(f"⚠️ WARN: {what}", err=True)
        else:
            _log.warning(what)
