"""One pinned model's cases: a calibration from the first half of the jobs, and what it says of the second."""

from collections.abc import Sequence

from judging import fitted, joined, statistics
from rates import roc_area
from records import Records


class Study:
    """Cases of one pinned model, a calibration from the first half of the jobs, and the statistics of the second by cases' labels."""

    def __init__(self, cases: Sequence[Records]) -> None:
        self.all = cases
        self.calibration = fitted(cases)
        self.cases = [one.half(second=True) for one in cases]
        self.honest = [one for one in self.cases if one.case.honest]
        self.cheats = [one for one in self.cases if not one.case.honest]
        self.found = {one.case.label: statistics(one, self.calibration) for one in self.cases}
        self.own = joined([self.found[one.case.label] for one in self.honest])

    def areas(self, name: str, kind: str) -> list[float]:
        """The ROC areas of a case at every length that it has."""
        honest, cheats = getattr(self.own, kind), getattr(self.found[name], kind)
        return [roc_area(own, other) for own, other in zip(honest, cheats, strict=False)]
