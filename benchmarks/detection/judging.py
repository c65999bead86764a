"""The study's own calibration, the statistics that it gives to answers, and the verdicts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from records import Records

from aos_inference.calibrate import Run, fit
from aos_protocol.calibration import Calibration
from aos_protocol.pool import Pool
from aos_protocol.score_document import Level, Score
from aos_protocol.verdict import Verdict, judge

LENGTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 300)
MODEL: Final = "00" * 32
_ALTERNATIVES: Final = (
    "weights Q8_0",
    "weights Q6_K",
    "weights Q4_K_M",
    "weights Q4_0",
    "cache Q8_0",
    "cache Q4_0",
    "prompt without its first half",
    "other seed",
    "temperature x 0.8",
)


def fitted(cases: Sequence[Records]) -> Calibration:
    """The calibration from the first half of what `aos calibrate` can measure too: no other machine, and no other cheats."""
    runs = [
        Run(one.case.name, one.case.honest, one.half(second=False).sampled().measured())
        for one in cases
        if (one.case.honest and not one.case.elsewhere) or one.case.label in _ALTERNATIVES
    ]
    return fit(MODEL, "study", runs)


@dataclass(frozen=True)
class Statistics:
    """What speaks against answers, in nats, by their first n tokens: arrays of shape (lengths, jobs)."""

    fingerprints: NDArray[np.float64]
    margins: NDArray[np.float64]

    @property
    def both(self) -> NDArray[np.float64]:
        """What a verdict looks at: either is enough."""
        return np.maximum(self.fingerprints, self.margins)


def joined(found: Sequence[Statistics]) -> Statistics:
    """Several cases' statistics side by side; all must have the same lengths."""
    return Statistics(
        np.concatenate([one.fingerprints for one in found], axis=1),
        np.concatenate([one.margins for one in found], axis=1),
    )


def statistics(records: Records, calibration: Calibration) -> Statistics:
    """The statistics of every job, at those of LENGTHS that it has."""
    lengths = [length for length in LENGTHS if length <= records.tokens.shape[1]]
    distances = [[calibration.distances.against(row[:n]) for row in records.distances] for n in lengths]
    margins = [[calibration.margins.against(row[:n]) for row in records.margins] for n in lengths]
    return Statistics(np.array(distances), np.array(margins))


def differing(records: Records, length: int) -> NDArray[np.bool_]:
    """Which jobs have a token, among the first so many, that the honest draw would not give."""
    return np.asarray((records.margins[:, :length] > 0).any(axis=1))


def verdicts(records: Records, calibration: Calibration, length: int, level: Level) -> list[Verdict]:
    """The verdicts on the first `length` tokens of every job, as if the claim had brought what its level needs."""
    return [
        judge(_score(records, row, length, level, calibration.model), calibration)
        for row in range(records.jobs)
    ]


def outcomes(
    records: Records, calibration: Calibration, length: int, level: Level = "fingerprint"
) -> Counter[str]:
    """How many verdicts there are of each kind."""
    return Counter(verdict.outcome for verdict in verdicts(records, calibration, length, level))


def _score(records: Records, row: int, length: int, level: Level, model: str) -> Score:
    surprisals = records.surprisals[row, :length].astype(float)
    return Score(
        level=level,
        subject=MODEL,
        model=model,
        engine="study",
        positions=len(surprisals),
        distances=records.distances[row, :length].astype(float).tolist() if level == "fingerprint" else None,
        margins=None if level == "likelihood" else records.margins[row, :length].astype(float).tolist(),
        surprisals=surprisals.tolist(),
        winners=[0] * len(surprisals),
        entropy=float(records.entropies[row, :length].sum()),
        variance=float(records.variances[row, :length].sum()),
    )


def pooled(records: Sequence[Records], calibration: Calibration, operators: int, most: int) -> list[Pool]:
    """Operators whose answers are drawn at random from the records, until their pool says `cheating` or has `most` tokens."""
    random = np.random.default_rng(1)
    margins = np.concatenate([one.margins for one in records])
    ends = []
    for _ in range(operators):
        pool = Pool()
        while pool.decision != "cheating" and pool.tokens < most:
            pool = pool.add(margins[random.integers(len(margins))].tolist(), calibration)
        ends.append(pool)
    return ends
