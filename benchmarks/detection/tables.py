"""The tables of docs/verification.md, in Markdown."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from judging import LENGTHS, differing, outcomes, pooled
from numpy.typing import NDArray
from rates import proportion, roc_area
from records import Records
from study import Study

from aos_protocol.calibration import Calibration
from aos_protocol.score_document import Level

OPERATORS = 200
POOL_MOST = 30_000
_BY_SAMPLING = {
    "other seed",
    "temperature x 0.8",
    "weights Q6_K, repaired fingerprints",
    "weights Q4_K_M, repaired fingerprints",
    "weights Q4_0, repaired fingerprints",
}


def _greedy(one: Records) -> Records:
    chosen = one.temperature == 0
    return Records(one.case, *(array[chosen] for array in one[1:]))


_LEVELS: tuple[tuple[Level, Callable[[Records], Records]], ...] = (
    ("fingerprint", lambda one: one),
    ("seeded", Records.sampled),
    ("greedy", _greedy),
    ("likelihood", Records.sampled),
)


def noise_table(study: Study) -> list[str]:
    """Distances and margins of every case."""
    rows = [
        "| case | jobs | distance: median | 99% | greatest | tokens drawn otherwise | greatest margin |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in study.all:
        apart, margins = one.distances, one.margins
        rows.append(
            f"| {_marked(one)} | {one.jobs} | {np.median(apart):.4f} | {np.quantile(apart, 0.99):.4f} | {apart.max():.4f}"
            f" | {(margins > 0).mean():.3%} | {margins.max():.3g} |"
        )
    return rows


def area_table(study: Study, kind: str) -> list[str]:
    """ROC areas by length."""
    rows = [f"| cheat | jobs | {' | '.join(map(str, LENGTHS))} |", "|---|--:|" + "--:|" * len(LENGTHS)]
    for one in study.cheats:
        areas = [_area(area) for area in study.areas(one.case.label, kind)]
        padded = areas + [""] * (len(LENGTHS) - len(areas))
        rows.append(f"| {one.case.label} | {one.jobs} | {' | '.join(padded)} |")
    return rows


def differing_table(study: Study) -> list[str]:
    """Margins alone, told apart by whether the cheat's answer has any token that the honest one has not."""
    rows = [
        "| cheat | differ by 64 tokens | AUC of those | differ by 300 | AUC of those |",
        "|---|--:|--:|--:|--:|",
    ]
    for one in study.cheats:
        cells = [cell for length in (64, 300) for cell in _differing_cells(study, one, length)]
        if any(cells):
            rows.append(f"| {one.case.label} | {' | '.join(cells)} |")
    return rows


def sampling_table(study: Study) -> list[str]:
    """Margins alone by temperature and top_p: the model's entropy, answers that do not differ, and ROC areas."""
    rows = [
        "| cheat | temperature, top_p | jobs | entropy, nats a token | same tokens at 64 | AUC | same tokens at 300 | AUC |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for one in (one for one in study.cheats if one.case.label in _BY_SAMPLING):
        for params in ((1.0, 1.0), (0.8, 0.95), (0.7, 1.0), (0.0, 1.0)):
            which = (one.temperature == params[0]) & (one.top_p == params[1])
            if which.any():
                cells = [cell for length in (64, 300) for cell in _same_cells(study, one, which, length)]
                rows.append(
                    f"| {one.case.label} | {params[0]}, {params[1]} | {which.sum()} | {one.entropies[which].mean():.2f} | {' | '.join(cells)} |"
                )
    return rows


def _same_cells(study: Study, one: Records, which: NDArray[np.bool_], length: int) -> tuple[str, str]:
    place = LENGTHS.index(length)
    area = roc_area(study.own.margins[place], study.found[one.case.label].margins[place][which])
    return f"{(~differing(one, length)[which]).mean():.0%}", _area(area)


def _differing_cells(study: Study, one: Records, length: int) -> tuple[str, str]:
    if one.tokens.shape[1] < length:
        return "", ""
    place, which = LENGTHS.index(length), differing(one, length)
    if not which.any():
        return "0%", ""
    area = roc_area(study.own.margins[place], study.found[one.case.label].margins[place][which])
    return f"{which.mean():.0%}", _area(area)


def rate_table(cases: Sequence[Records], calibration: Calibration) -> list[str]:
    """Honest answers that were accused, and how many could be decided, by level and length."""
    rows = [
        "| level | tokens | honest jobs | accused | rate (95% interval) | match | undecided |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    for level, kind in _LEVELS:
        honest = [kept for one in cases if one.case.honest and (kept := kind(one)).jobs]
        for length in LENGTHS:
            counts = sum((outcomes(one, calibration, length, level) for one in honest), start=Counter[str]())
            jobs = counts.total()
            rows.append(
                f"| {level} | {length} | {jobs} | {counts['mismatch']} | {proportion(counts['mismatch'], jobs)}"
                f" | {counts['match'] / jobs:.1%} | {counts['inconclusive'] / jobs:.1%} |"
            )
    return rows


def miss_table(cases: Sequence[Records], calibration: Calibration, level: Level, length: int) -> list[str]:
    """What became of cheats: caught, passed as a match, or undecided."""
    rows = [
        f"| cheat, {length} tokens at most, level {level} | jobs | caught | passed as match (95% interval) | undecided |",
        "|---|--:|--:|---|--:|",
    ]
    for one in cases:
        kept = one if level == "fingerprint" else one.sampled()
        if one.case.honest or not kept.jobs:
            continue
        found = outcomes(kept, calibration, length, level)
        rows.append(
            f"| {one.case.label} | {kept.jobs} | {found['mismatch'] / kept.jobs:.1%}"
            f" | {proportion(found['match'], kept.jobs)} | {found['inconclusive'] / kept.jobs:.1%} |"
        )
    return rows


def pool_table(study: Study) -> list[str]:
    """Operators that answer in one manner: whether their pool accuses them, and after how many tokens."""
    rows = [
        f"| operators that answer by | accused of {OPERATORS} (95% interval) | tokens until then: median | 90% | most |",
        "|---|---|--:|--:|--:|",
    ]
    repaired = [[one] for one in study.cheats if "repaired" in one.case.label]
    for group in ([one for one in study.honest if one.tokens.shape[1] == LENGTHS[-1]], *repaired):
        ends = pooled(group, study.calibration, OPERATORS, POOL_MOST)
        told = sorted(end.tokens for end in ends if end.decision == "cheating")
        name = group[0].case.label if len(group) == 1 else f"every honest case, to {POOL_MOST:,} tokens each"
        spread = [f"{np.quantile(told, share):,.0f}" for share in (0.5, 0.9, 1.0)] if told else ["", "", ""]
        rows.append(f"| {name} | {proportion(len(told), OPERATORS)} | {' | '.join(spread)} |")
    return rows


def other_models_table(others: Sequence[Study]) -> list[str]:
    """Quantised files as the pinned model, each with a calibration of its own."""
    rows = [
        "| pinned | honest jobs | usual distance | accused (95% interval) | cheat | jobs | AUC at 1 | 2 | 16 | 64 |",
        "|---|--:|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for study in others:
        truth = study.cheats[0].case.truth
        honest = sum((outcomes(one, study.calibration, 300) for one in study.honest), start=Counter[str]())
        usual = np.median(np.concatenate([one.distances.ravel() for one in study.honest]))
        for one in study.cheats:
            areas = study.areas(one.case.label, "both")
            picked = [_area(areas[LENGTHS.index(length)]) for length in (1, 2, 16, 64)]
            rows.append(
                f"| {truth} | {honest.total()} | {usual:.4f} | {proportion(honest['mismatch'], honest.total())}"
                f" | {one.case.label} | {one.jobs} | {' | '.join(picked)} |"
            )
    return rows


def _marked(one: Records) -> str:
    return f"**{one.case.label}**" if one.case.honest else one.case.label


def _area(area: float) -> str:
    """Four digits, and never a 1 that is none."""
    return "1" if area == 1 else f"{min(area, 0.9999):.4f}"
