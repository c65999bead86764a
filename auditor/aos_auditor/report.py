"""How an audit is told: a line a check, a verdict that counts passes, failures and skips apart, an exit status."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import typer

from aos_protocol.evidence import Check

PASSED, FAILED, SKIPPED, NOT_AUDITED = 0, 1, 2, 3
"""Exit statuses: nothing failed; something failed; something was skipped (with --strict); nothing could be audited."""

_COLOURS: Final = {"PASS": typer.colors.GREEN, "FAIL": typer.colors.RED, "SKIP": typer.colors.YELLOW}


def exit_status(checks: Sequence[Check], *, strict: bool) -> int:
    """Return the exit status for an audit with these outcomes; failures win over skips."""
    found = {check.status for check in checks}
    if "FAIL" in found or not checks:
        return FAILED
    return SKIPPED if strict and "SKIP" in found else PASSED


def verdict(checks: Sequence[Check]) -> str:
    """Return the audit's last line."""
    counts = Counter(check.status for check in checks)
    told = f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped"
    if counts["FAIL"] or not checks:
        return f"verdict: FAIL ({told})"
    if counts["SKIP"]:
        return f"verdict: nothing failed, and not everything could be checked ({told})"
    return f"verdict: PASS ({told})"


def print_checks(checks: Sequence[Check]) -> None:
    """Print a line for each check, and the verdict, on stdout; colours only on a terminal."""
    width = max((len(check.id) for check in checks), default=0)
    for check in checks:
        typer.secho(check.status, fg=_COLOURS[check.status], bold=check.status == "FAIL", nl=False)
        typer.echo(f"  {check.id:<{width}}  {printable(check.what)}")
    typer.echo(verdict(checks))


def as_json(subject: str, checks: Sequence[Check], *, strict: bool) -> dict[str, Any]:
    """Return the audit for machines."""
    counts = Counter(check.status for check in checks)
    return {
        "subject": subject,
        "passed": counts["PASS"],
        "failed": counts["FAIL"],
        "skipped": counts["SKIP"],
        "exit_status": exit_status(checks, strict=strict),
        "checks": [{"id": check.id, "status": check.status, "what": check.what} for check in checks],
    }


def printable(text: str) -> str:
    """Return a text in one line without control characters: reasons come from whoever is audited, who could draw on the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
