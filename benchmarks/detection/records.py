"""The raw data of the study, read back: one `Records` a case."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import Case
from generate import PART, place
from numpy.typing import NDArray

from aos_inference.trials import Measures


class Records(NamedTuple):
    """A case's jobs, one a row, and their tokens, one a column."""

    case: Case
    distances: NDArray[np.float32]
    margins: NDArray[np.float32]
    surprisals: NDArray[np.float32]
    entropies: NDArray[np.float32]
    variances: NDArray[np.float32]
    tokens: NDArray[np.int32]
    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]

    @property
    def jobs(self) -> int:
        """How many jobs there are."""
        return len(self.tokens)

    def half(self, second: bool) -> "Records":
        """Every other job: the first half is for choosing thresholds, the second for scoring them."""
        return Records(self.case, *(array[int(second) :: 2] for array in self[1:]))

    def sampled(self) -> "Records":
        """The jobs that are not greedy."""
        drawn = self.temperature > 0
        return Records(self.case, *(array[drawn] for array in self[1:]))

    def measured(self) -> list[Measures]:
        """The jobs as the calibration's fitting takes them."""
        return [Measures(*(array[row] for array in self[1:6])) for row in range(self.jobs)]


def read(out: Path, case: Case) -> Records | None:
    """What was generated of a case so far; None if nothing was."""
    files = [file for part in range(-(-case.jobs // PART)) if (file := place(out, case, part)).exists()]
    if not files:
        return None
    loaded = [dict(np.load(file)) for file in files]
    return Records(case, *(np.concatenate([one[name] for one in loaded]) for name in Records._fields[1:]))
