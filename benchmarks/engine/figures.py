"""What contenders took in turns, and the ratio of one to the others."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal, Protocol


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and seconds of processor time over all threads."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def __truediv__(self, parts: float) -> "Spent":
        return Spent(self.wall / parts, self.cpu / parts)


def now() -> Spent:
    """The clock, and this process' time so far: two of these make a difference."""
    return Spent(time.perf_counter(), time.process_time())


class Printable(Protocol):
    """What was found: text for people as a string, and for machines `to_json`."""

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        ...


@dataclass(frozen=True)
class Figure:
    """Ours against one peer: medians over the rounds, their ratio, the least and greatest ratio of a round.

    `cpu` is the ratio of medians of processor time: it moves less than the clock where others use the machine.
    """

    peer: str
    ours: float
    theirs: float
    ratio: float
    least: float
    greatest: float
    cpu: float


@dataclass(frozen=True)
class Table:
    """Figures under one title; `unit` "rate": per second, more is better; "cost": milliseconds each, less is better."""

    title: str
    ours: str
    unit: Literal["rate", "cost"]
    figures: list[Figure]

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        what = "a second" if self.unit == "rate" else "ms each"
        head = f"{f'{self.title}, {what}':<58}{self.ours:>14}{'peer':>10}{'ratio':>7}{'of CPU':>8}   rounds"
        lines = (
            f"  beside {figure.peer:<49}{figure.ours:>14.1f}{figure.theirs:>10.1f}{figure.ratio:>7.2f}{figure.cpu:>8.2f}"
            f"   {figure.least:.2f} to {figure.greatest:.2f}"
            for figure in self.figures
        )
        return "\n".join([head, *lines])


class Series:
    """What contenders took for the same work, one entry a round."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, list[Spent]] = defaultdict(list)

    def add(self, name: str, spent: Spent) -> None:
        """What a unit of work (a token, a job) took in this round."""
        self._spent[name].append(spent)

    def table(self, title: str, ours: str, unit: Literal["rate", "cost"]) -> Table:
        """Ours beside every other contender."""
        own = self._spent[ours]
        figures = [_figure(name, own, spent, unit) for name, spent in self._spent.items() if name != ours]
        return Table(title, ours, unit, figures)


def _figure(
    peer: str, own: Sequence[Spent], theirs: Sequence[Spent], unit: Literal["rate", "cost"]
) -> Figure:
    def value(seconds: float) -> float:
        return 1 / seconds if unit == "rate" else 1000 * seconds

    def ratio(ours: float, others: float) -> float:
        return value(ours) / value(others)

    ours, others = (median(spent.wall for spent in each) for each in (own, theirs))
    rounds = [ratio(mine.wall, other.wall) for mine, other in zip(own, theirs, strict=True)]
    return Figure(
        peer=peer,
        ours=value(ours),
        theirs=value(others),
        ratio=ratio(ours, others),
        least=min(rounds),
        greatest=max(rounds),
        cpu=ratio(median(spent.cpu for spent in own), median(spent.cpu for spent in theirs)),
    )
