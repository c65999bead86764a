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


_SEED: Final = Aim("another seed", ("other seed",), 0.999, 64)
_COLDER: Final = Aim("temperature x 0.8", ("temperature x 0.8",), 0.999, 64)
_REPAIRED: Final = tuple(
    Aim(f"{name}, fingerprints repaired", (f"{name}, repaired fingerprints",), 0.999, 300)
    for name in ("weights Q4_0", "weights Q4_K_M", "weights Q6_K", "weights Q8_0", "cache Q4_0")
)
_TOKENS: Final = Aim(
    "4-bit weights by tokens alone (Token-DiFR)", ("weights Q4_K_M", "weights Q4_0"), 0.999, 300, "margins"
)

AIMS: Final = (
    Aim("weights of Q6_K and coarser", _WEIGHTS, 0.999, 2),
    Aim("cache Q4_0", ("cache Q4_0",), 0.999, 2),
    Aim("another checkpoint", _CHECKPOINTS, 0.999, 2),
    Aim("another prompt", _PROMPTS, 0.999, 2),
    Aim("weights Q8_0", ("weights Q8_0",), 0.95, 64),
    Aim("cache Q8_0", ("cache Q8_0",), 0.95, 64),
    _SEED,
    _COLDER,
    Aim("edited tokens", _EDITS, 0.999, 64),
    *_REPAIRED,
    _TOKENS,
)

OPEN_AIMS: Final = (
    _SEED,
    _COLDER,
    Aim("1 token edited, the likeliest other", _EDITS[:1], 0.999, 64),
    *_REPAIRED,
    _TOKENS,
)
"""Those that need tokens to differ, as far as there are open cases for them."""

Areas = Callable[[str, str], list[float]]
"""A case's ROC areas at every length by one kind of evidence."""


def aim_cells(aim: Aim, areas: Areas) -> tuple[str, str]:
    """The area of the aim's worst case, and whether it is enough."""
    worst = min(areas(name, aim.kind)[LENGTHS.index(aim.tokens)] for name in aim.cases)
    return f"{worst:.4f}", "yes" if worst > aim.area else "**no**"


def aim_table(areas: Areas) -> list[str]:
    """A line for each aim."""
    rows = [
        "| aim: ROC area per job | above | within | measured (the worst of its cases) | met |",
        "|---|--:|--:|--:|---|",
    ]
    for aim in AIMS:
        measured, met = aim_cells(aim, areas)
        rows.append(f"| {aim.what} | {aim.area} | {aim.tokens} tokens | {measured} | {met} |")
    return rows
