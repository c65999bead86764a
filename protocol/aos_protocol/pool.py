"""An operator's answers taken together: Wald's sequential probability ratio test over their margins.

A coarser model whose fingerprints were repaired, by prefilling the true one over its tokens, differs only in margins, and too
little for one answer. Its margins add up over many. (A. Wald, Sequential Tests of Statistical Hypotheses, 1945.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from aos_protocol.calibration import Calibration, margin_counts

Decision = Literal["open", "honest", "cheating"]


@dataclass(frozen=True)
class Pool:
    """How the test stands: `llr` in nats (above 0 speaks for cheating) since it last said `honest`, over `tokens` tokens in all.

    It accuses an honest operator with a chance of at most the calibration's alpha each time it starts, and lets the
    alternative that is hardest to see pass with one of beta. A test that says `honest` starts anew with the next answer; `cheating` stands.
    """

    llr: float = 0.0
    tokens: int = 0
    decision: Decision = "open"

    def add(self, margins: Sequence[float], calibration: Calibration) -> Self:
        """Return the pool with one more answer's margins, in logits; those beyond the calibration's reach are no evidence."""
        if self.decision == "cheating":
            return replace(self, tokens=self.tokens + len(margins))
        before = 0.0 if self.decision == "honest" else self.llr
        counts = np.asarray(margin_counts(margins[: calibration.reach]), dtype=np.float64)
        llr = before + float(counts @ calibration.pooled)
        return replace(self, llr=llr, tokens=self.tokens + len(margins), decision=_decide(llr, calibration))


def _decide(llr: float, calibration: Calibration) -> Decision:
    if llr >= math.log(1 / calibration.alpha):
        return "cheating"
    return "honest" if llr <= math.log(calibration.beta) else "open"
