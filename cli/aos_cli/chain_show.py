"""How `aos chain status` looks on a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aos_cli.chain_amounts import ether, span
from aos_cli.chain_words import STATES
from aos_cli.client import JsonObject
from aos_protocol.sortition import MAX_RANGE

_COLOURS = {"open": "yellow", "voting": "yellow", "upheld": "bold red", "rejected": "green"}


def show_status(console: Console, found: JsonObject) -> None:
    """Print contracts, terms, operators, anchors and challenges."""
    _say(console, f"chain {found['chain_id']} at {found['rpc']}, block {found['block']}")
    for name, address in found["contracts"].items():
        _say(console, f"  {name:<10} {address}")
    terms = found["terms"]
    _say(
        console,
        f"bond {ether(terms['bond_per_slot'])} a slot, paid back {span(terms['leave_delay'])} after leaving; a challenge stakes "
        f"{ether(terms['challenge_bond'])}, {span(terms['answer_window'])} to answer, {span(terms['vote_window'])} to vote, of results "
        f"up to {terms['max_age']:,} blocks old",
    )
    _show_operators(console, found)
    _show_anchors(console, found["anchors"])
    _say(console, "")
    if not found["challenges"]:
        _say(console, "no challenge was opened yet")
    for challenge in found["challenges"]:
        show_challenge(console, challenge)


def show_operator(console: Console, found: JsonObject) -> None:
    """Print where one operator stands in the registry, and the challenges against it."""
    held = f"[{found['start']}, {found['end']}), {_share(found)}" if found["end"] else "no range"
    _say(console, f"{found['operator']}  number {found['number']}  {held}")
    _say(
        console,
        f"bond {ether(found['bond'])}{_freedom(found)}; credit {ether(found['credit'])}; account {ether(found['balance'])}",
    )
    for challenge in found["challenges"]:
        show_challenge(console, challenge)


def show_challenge(console: Console, found: JsonObject) -> None:
    """Print one challenge: its parties, its state, its votes, and what each party can do next."""
    state = found["state"]
    line = Text.assemble(
        f"challenge {found['id']} ({found['ground']}) ", (STATES[state.upper()], _COLOURS.get(state, ""))
    )
    console.print(line, soft_wrap=True)
    _say(console, f"  job {found['job_id']}")
    _say(console, f"  {found['challenger']} against {found['operator']}")
    for vote in found["votes"]:
        _say(console, f"  {vote['juror']} votes {vote['verdict']}")
    for step in found["next"]:
        _say(console, f"  next: {step}")


def _show_operators(console: Console, found: JsonObject) -> None:
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("operator", "number", "range", "share", "bond", ""):
        table.add_column(column, overflow="fold", no_wrap=column == "operator")
    for row in found["operators"]:
        held = f"[{row['start']}, {row['end']})"
        locked = "locked by a challenge" if row["locks"] else ""
        table.add_row(
            row["operator"], str(row["number"]), held, _share(row), ether(row["bond"]), Text(locked, "yellow")
        )
    _say(console, "")
    console.print(table if found["operators"] else "no operator is registered: aos chain register")
    free = sum(end - start for start, end in found["free"])
    if free:
        shown = ", ".join(f"[{start}, {end})" for start, end in found["free"][:8])
        _say(console, f"free: {free:,} slots of {MAX_RANGE:,}: {shown}")


def _show_anchors(console: Console, anchors: list[JsonObject]) -> None:
    _say(console, "")
    if not anchors:
        _say(console, "no log is anchored yet")
    for anchor in anchors:
        _say(console, f"log of {anchor['dispatcher']}: {_anchored(anchor)}")
        if anchor["forked"]:
            console.print(Text("  FORKED: it signed two logs of one size; believe neither", "bold red"))


def _anchored(anchor: JsonObject) -> str:
    now = anchor["log_size"]
    if not anchor["size"]:
        return f"nothing is anchored yet of its {now} entries"
    held = f"{anchor['size']} entries anchored in block {anchor['block']}, {span(anchor['age'])} ago"
    if now is None:
        return held
    if now < anchor["size"]:
        return f"{held}; it shows only {now} now: entries are hidden or lost"
    return (
        f"{held}; {now - anchor['size']} more since" if now > anchor["size"] else f"{held}; that is all of it"
    )


def _freedom(found: JsonObject) -> str:
    if found["locks"]:
        return f", locked by {found['locks']} challenges"
    wait = found["withdrawable_in"]
    if wait is None or not found["bond"]:
        return ""
    return f", to be withdrawn in {span(wait)}" if wait else ", to be withdrawn now: aos chain withdraw"


def _share(row: JsonObject) -> str:
    return f"{100 * (row['end'] - row['start']) / MAX_RANGE:.2f}%"


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
