"""How answers are shown on a terminal."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aos_cli.client import JsonObject

COLOURS = {"match": "green", "mismatch": "bold red", "inconclusive": "yellow"}
"""How verdicts are coloured."""

_MEANING = {
    "match": "verdict: match. The verifiers ran the same prompt and tokens through their own copies of the model, and found "
    "what only that model gives.",
    "mismatch": "verdict: mismatch. By the verifiers' own copies of the model, this answer is not what it is said to be.",
    "inconclusive": "verdict: inconclusive. It could not be decided, which is no failure; the reason says what would decide it.",
    None: "no verdict: nobody has scored this answer, so nothing but its operator's signature stands for it.",
}
_UNSCORED = "no verdict: nobody has scored this answer; what stands for it is the attestation of its enclave"
_SEALED = (
    "sealed: only the enclave and the project can read prompt and answer, so nobody else can score it; what stands for it is the "
    "attestation of its enclave"
)
_FILE_WIDTH = 200


def make_console() -> Console:
    """Return the console of stdout; what goes into a file or a pipe is not folded at a terminal's width."""
    return Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


def show_rows(console: Console, rows: Sequence[JsonObject]) -> None:
    """Print who executed and who verified, with verdicts and reasons, then the answers. Enclaves' answers name their kind."""
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    attested = any(row.get("attestation") for row in rows)
    for column in ("operator", "role", *(["enclave"] if attested else []), "verdict", "reason"):
        table.add_column(column, overflow="fold", no_wrap=column != "reason")
    for row in rows:
        verdict = str(row.get("verdict") or "-")
        reason = Text(printable(str(row.get("reason") or "")))
        role = " ".join(str(row[key]) for key in ("role", "tag", "position") if row.get(key))
        if row.get("challenge"):
            role = f"{row.get('role')} of challenge {row['challenge']}"
        kind = [kind_text(str(row.get("attestation") or "-"))] if attested else []
        table.add_row(
            Text(str(row.get("operator"))), Text(role), *kind, Text(verdict, COLOURS.get(verdict, "")), reason
        )
    console.print(table)
    show_answers(console, rows)


def show_answers(console: Console, rows: Sequence[JsonObject]) -> None:
    """Print a job's answers, each under the operator that signed it, without its control characters."""
    for row in rows:
        text = printable(str(row.get("result") or "")).strip()
        if text:
            tag = f"  {row['tag']}" if row.get("tag") else ""
            console.print()
            console.print(Text(f"{row.get('operator')}{tag}", "cyan"), soft_wrap=True)
            console.print(Text(text), soft_wrap=True)


def kind_text(kind: str) -> Text:
    """Return a kind of enclave as it is shown: nobody is to overlook that one is simulated."""
    return Text("SIMULATED", "yellow") if kind == "simulated" else Text(printable(kind))


def verdict_text(outcome: str | None, kind: str | None = None, *, sealed: bool = False) -> str:
    """Return what a verdict means, in a sentence, of an answer that an enclave of this `kind` gave (None: of no enclave)."""
    if kind is None or outcome in COLOURS:
        return _MEANING[outcome if outcome in COLOURS else None]
    warning = ", which is SIMULATED and proves nothing about hardware" if kind == "simulated" else ""
    return f"{_SEALED if sealed else _UNSCORED}{warning}."


def printable(text: str) -> str:
    """Return a text without what could steer a terminal: a model, or whoever runs it, chose every character of it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
