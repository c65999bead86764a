"""What the states of challenges are called, and what each party can do next."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from aos_cli.chain_amounts import span

if TYPE_CHECKING:
    from aos_chain.challenges import Challenge, Seat

GROUNDS: Final = {
    "MEMBERSHIP": "membership",
    "MISMATCH": "mismatch",
    "EQUIVOCATION": "equivocation",
    "INVALID_PROOF": "proof",
    "FOREIGN_SIGNATURE": "key",
}
"""The contract's grounds, as `aos chain challenge --ground` names them."""

STATES: Final = {
    "OPEN": "waits for an answer",
    "VOTING": "waits for the jury",
    "UPHELD": "is upheld: the operator has lost",
    "REJECTED": "is rejected: the challenger has lost",
    "INCONCLUSIVE": "is inconclusive: the jury cannot tell",
    "UNDECIDED": "is undecided: no three jurors agree",
}
"""What a challenge does in each of the contract's states."""


def states_of(seats: "Iterable[Seat]") -> str:
    """Return how a jury has voted so far."""
    votes = Counter(seat.verdict.name.lower() for seat in seats)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(votes.items())) or "no votes"


def next_steps(challenge: "Challenge", now: int) -> list[str]:
    """Return what each party can do next, at a time in Unix seconds; nothing once it is decided."""
    left, this = challenge.deadline - now, challenge.id
    if challenge.state.name not in {"OPEN", "VOTING"}:
        return ["whoever is owed something: aos chain credit --withdraw"]
    if left <= 0:
        loser = " (the operator loses, having said nothing)" if challenge.state.name == "OPEN" else ""
        return [f"anybody: aos chain close {this}{loser}"]
    if challenge.state.name == "VOTING":
        return [f"jurors, for {span(left)} more: aos chain vote {this} --worker URL"]
    if challenge.ground.name == "MEMBERSHIP":
        return [
            f"anybody with the dispatcher's seat, for {span(left)} more: aos chain answer {this} --operator-config FILE (or --seat SIGNATURE)"
        ]
    return [f"{challenge.operator}, for {span(left)} more: aos chain answer {this}"]
