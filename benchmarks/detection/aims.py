"""What the study was to show, and whether it did."""

from collections.abc import Callable
from typing import Final, NamedTuple

from judging import LENGTHS

_WEIGHTS: Final = ("weights Q6_K", "weights Q4_K_M", "weights Q4_0")
_PROMPTS: Final = ("hidden system prompt", "prompt without its first half", "prompt without its first token")
_CHECKPOINTS: Final = tuple(f"checkpoint at step {step}" for step in (1200, 850, 500))
_EDITS: Final = (
    "1 token edited, the likeliest other",
    "1 token edited, any other",
    "4 tokens edited, the likeliest others",
    "1 token edited afterwards",
)


class Aim(NamedTuple):
    """Cases that are to be found with an ROC area above `area` by `tokens` tokens, by one kind of evidence."""

    what: str
    cases: tuple[str, ...]
    area: float
    tokens: int
    kind: str = "both"


AIMS: Final = (
    Aim("weights of Q6_K and coarser", _WEIGHTS, 0.999, 2),
    Aim("cache Q4_0", ("cache Q4_0",), 0.999, 2),
    Aim("another checkpoint", _CHECKPOINTS, 0.999, 2),
    Aim("another prompt", _PROMPTS, 0.999, 2),
    Aim("weights Q8_0", ("weights Q8_0",), 0.95, 64),
    Aim("cache Q8_0", ("cache Q8_0",), 0.95, 64),
    Aim("another seed", ("other seed",), 0.999, 64),
    Aim("temperature x 0.8", ("temperature x 0.8",), 0.999, 64),
    Aim("edited tokens", _EDITS, 0.999, 64),
    Aim("Q4_0, fingerprints repaired", ("weights Q4_0, repaired fingerprints",), 0.999, 300),
    Aim("Q4_K_M, fingerprints repaired", ("weights Q4_K_M, repaired fingerprints",), 0.999, 300),
    Aim(
        "4-bit weights by tokens alone (Token-DiFR)",
        ("weights Q4_K_M", "weights Q4_0"),
        0.999,
        300,
        "margins",
    ),
)


def aim_table(areas: Callable[[str, str], list[float]]) -> list[str]:
    """A line for each aim; `areas` gives a case's ROC areas at every length by one kind of evidence."""
    rows = [
        "| aim: ROC area per job | above | within | measured (the worst of its cases) | met |",
        "|---|--:|--:|--:|---|",
    ]
    for aim in AIMS:
        worst = min(areas(name, aim.kind)[LENGTHS.index(aim.tokens)] for name in aim.cases)
        met = "yes" if worst > aim.area else "**no**"
        rows.append(f"| {aim.what} | {aim.area} | {aim.tokens} tokens | {worst:.4f} | {met} |")
    return rows
