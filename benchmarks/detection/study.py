"""One pinned model's cases: a calibration from the first half of the jobs, and what it says of the second."""

from collections.abc import Sequence

import numpy as np
from judging import Statistics, fitted, joined, statistics
from numpy.typing import NDArray
from rates import roc_area
from records import Records


class Study:
    """The cases of one pinned model, its calibration from the first half of the jobs, and the statistics of the second."""

    def __init__(self, cases: Sequence[Records]) -> None:
        self.all = cases
        self.calibration = fitted(cases)
        self.cases = [one.half(second=True) for one in cases]
        self.honest = [one for one in self.cases if one.case.honest]
        self.cheats = [one for one in self.cases if not one.case.honest]
        self.found = {one.case.name: statistics(one, self.calibration) for one in self.cases}
        self.own = joined([self.found[one.case.name] for one in self.honest])
        first = [one.half(second=False) for one in cases if one.case.honest]
        self.usual = joined([statistics(one, self.calibration) for one in first])

    def areas(self, name: str, kind: str) -> list[float]:
        """The ROC areas of a case at every length that it has."""
        honest, cheats = self._statistic(self.own, kind), self._statistic(self.found[name], kind)
        return [roc_area(own, other) for own, other in zip(honest, cheats, strict=False)]

    def _statistic(self, found: Statistics, kind: str) -> NDArray[np.float64]:
        """One kind of evidence; `both` is by how much either exceeds the most that it was in the first half's honest answers."""
        apart, margins = (
            getattr(found, name) - getattr(self.usual, name).max(axis=1)[: len(found.margins), None]
            for name in ("fingerprints", "margins")
        )
        return {"fingerprints": apart, "margins": margins, "both": np.maximum(apart, margins)}[kind]
