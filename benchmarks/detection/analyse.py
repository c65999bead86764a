"""What the raw data of the study say: tables and plots for docs/verification.md, and a summary.

    python benchmarks/detection/analyse.py OUT [--write]

OUT is the folder that generate.py filled. Tables go to standard output; with --write, into docs/verification.md between its marks,
with plots in docs/images/ and numbers in benchmarks/detection/summary.json.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aims import aim_table
from cases import CASES
from judging import LENGTHS, Statistics, differing, fitted, joined, outcomes, pooled, statistics
from numpy.typing import NDArray
from plots import Range, lines, ranges
from prompts import ROOT
from rates import interval, roc_area
from records import Records, read

from aos_protocol.calibration import Calibration
from aos_protocol.score_document import Level

PAGE = ROOT / "docs/verification.md"
IMAGES = ROOT / "docs/images"
SUMMARY = ROOT / "benchmarks/detection/summary.json"
COMMITTED = ROOT / "models/aos-demo-5m.F16.calibration.json"


OPERATORS = 200
POOL_MOST = 30_000
_TRUTHS = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
_DRAWN = {
    "other seed",
    "temperature x 0.8",
    "temperature x 0.9",
    "temperature x 1.25",
    "top_p x 0.9",
    "1 token edited, the likeliest other",
    "4 tokens edited, the likeliest others",
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
        areas = [_area(area) for area in study.areas(one.case.name, kind)]
        padded = areas + [""] * (len(LENGTHS) - len(areas))
        rows.append(f"| {one.case.name} | {one.jobs} | {' | '.join(padded)} |")
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
            rows.append(f"| {one.case.name} | {' | '.join(cells)} |")
    return rows


def _differing_cells(study: Study, one: Records, length: int) -> tuple[str, str]:
    if one.tokens.shape[1] < length:
        return "", ""
    place, which = LENGTHS.index(length), differing(one, length)
    if not which.any():
        return "0%", ""
    area = roc_area(study.own.margins[place], study.found[one.case.name].margins[place][which])
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
                f"| {level} | {length} | {jobs} | {counts['mismatch']} | {_rate(counts['mismatch'], jobs)}"
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
            f"| {one.case.name} | {kept.jobs} | {found['mismatch'] / kept.jobs:.1%}"
            f" | {_rate(found['match'], kept.jobs)} | {found['inconclusive'] / kept.jobs:.1%} |"
        )
    return rows


def pool_table(study: Study) -> list[str]:
    """Operators that answer in one manner: whether their pool accuses them, and after how many tokens."""
    rows = [
        f"| operators that answer by | accused of {OPERATORS} (95% interval) | tokens until then: median | 90% | most |",
        "|---|---|--:|--:|--:|",
    ]
    repaired = [[one] for one in study.cheats if "repaired" in one.case.name]
    for group in ([one for one in study.honest if one.tokens.shape[1] == LENGTHS[-1]], *repaired):
        ends = pooled(group, study.calibration, OPERATORS, POOL_MOST)
        told = sorted(end.tokens for end in ends if end.decision == "cheating")
        name = group[0].case.name if len(group) == 1 else f"every honest case, to {POOL_MOST:,} tokens each"
        spread = [f"{np.quantile(told, share):,.0f}" for share in (0.5, 0.9, 1.0)] if told else ["", "", ""]
        rows.append(f"| {name} | {_rate(len(told), OPERATORS)} | {' | '.join(spread)} |")
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
            areas = study.areas(one.case.name, "both")
            picked = [_area(areas[LENGTHS.index(length)]) for length in (1, 2, 16, 64)]
            rows.append(
                f"| {truth} | {honest.total()} | {usual:.4f} | {_rate(honest['mismatch'], honest.total())}"
                f" | {one.case.name.partition(': ')[2]} | {one.jobs} | {' | '.join(picked)} |"
            )
    return rows


def plots(study: Study) -> dict[str, str]:
    """The page's plots by file name."""
    spread = [
        Range(
            one.case.name, *(float(q) for q in np.quantile(one.distances, (0.01, 0.5, 0.99))), one.case.honest
        )
        for one in study.all
    ]
    chosen = [one.case.name for one in study.cheats if one.tokens.shape[1] == LENGTHS[-1]]
    repaired = {name: study.areas(name, "both") for name in chosen if "repaired" in name}
    drawn = {name: study.areas(name, "both") for name in chosen if name in _DRAWN}
    title = "ROC area per job by tokens: "
    return {
        "distances.svg": ranges(
            "Fingerprint distance a token: median, 1st to 99th percentile", spread, 1e-4, 10.0
        ),
        "repaired.svg": lines(f"{title}repaired fingerprints (margins alone)", LENGTHS, repaired, 0.5, 1.0),
        "draws.svg": lines(f"{title}true model, other draws", LENGTHS, drawn, 0.5, 1.0),
    }


def tables(study: Study, others: Sequence[Study]) -> dict[str, list[str]]:
    """Every table of the page by its mark."""
    committed = Calibration.from_json(json.loads(COMMITTED.read_text()))
    found = {
        "aims": aim_table(study.areas),
        "noise": noise_table(study),
        "areas-fingerprints": area_table(study, "fingerprints"),
        "areas-margins": area_table(study, "margins"),
        "areas-both": area_table(study, "both"),
        "differing": differing_table(study),
        "rates": rate_table(study.cases, study.calibration),
        "misses": miss_table(study.cases, study.calibration, "fingerprint", 300),
        "misses-seeded": miss_table(study.cases, study.calibration, "seeded", 300),
        "rates-committed": rate_table(study.all, committed),
        "misses-committed": miss_table(study.all, committed, "fingerprint", 300),
        "pool": pool_table(study),
    }
    return found | ({"others": other_models_table(others)} if others else {})


def summary(study: Study) -> dict[str, Any]:
    """The numbers behind the page that are worth comparing with another run's."""
    return {
        "honest_jobs": sum(one.jobs for one in study.all if one.case.honest),
        "lengths": LENGTHS,
        "greatest_honest_evidence": {
            "fingerprints": [round(float(row.max()), 3) for row in study.own.fingerprints],
            "margins": [round(float(row.max()), 3) for row in study.own.margins],
        },
        "areas": {
            one.case.name: {
                kind: [round(area, 5) for area in study.areas(one.case.name, kind)]
                for kind in ("fingerprints", "margins", "both")
            }
            for one in study.cheats
        },
    }


def fill(page: str, found: dict[str, list[str]]) -> str:
    """The page with every table between its marks replaced. Raises KeyError for a mark that has no table."""

    def replaced(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{chr(10).join(found[match[1]])}\n<!-- end -->"

    return re.sub(r"<!-- ([a-z-]+) -->\n.*?<!-- end -->", replaced, page, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    everything = [one for case in CASES if (one := read(options.out, case)) is not None]
    by_truth = {truth: [one for one in everything if one.case.truth == truth] for truth in _TRUTHS}
    study, *others = (Study(cases) for cases in by_truth.values() if cases)
    found = tables(study, others)
    if not options.write:
        print("\n\n".join(f"## {name}\n\n" + "\n".join(rows) for name, rows in found.items()))
        return
    PAGE.write_text(fill(PAGE.read_text(), found))
    SUMMARY.write_text(json.dumps(summary(study), indent=1) + "\n")
    IMAGES.mkdir(exist_ok=True)
    for name, text in plots(study).items():
        (IMAGES / name).write_text(text)


def _marked(one: Records) -> str:
    return f"**{one.case.name}**" if one.case.honest else one.case.name


def _area(area: float) -> str:
    """Four digits, and never a 1 that is none."""
    return "1" if area == 1 else f"{min(area, 0.9999):.4f}"


def _rate(hits: int, trials: int) -> str:
    low, high = interval(hits, trials)
    return f"{hits} = {hits / trials:.2%} ({low:.2%} to {high:.2%})"


if __name__ == "__main__":
    sys.exit(main())
