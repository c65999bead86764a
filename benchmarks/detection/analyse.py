"""What the raw data of the study say: tables and plots for docs/verification.md, and a summary.

    python benchmarks/detection/analyse.py OUT [--write]

OUT is the folder that generate.py filled. Tables go to standard output; with --write, into docs/verification.md between its marks,
with plots in docs/images/ and numbers in benchmarks/detection/summary.json.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aims import aim_table
from cases import CASES
from judging import LENGTHS
from open_tables import accusation_table, caught_table, entropy_table, open_aim_table, same_table
from plots import Range, lines, ranges
from prompts import ROOT
from records import Records, read
from study import Study
from tables import (
    area_table,
    differing_table,
    miss_table,
    noise_table,
    other_models_table,
    pool_table,
    rate_table,
    sampling_table,
)

from aos_protocol.calibration import Calibration

PAGE = ROOT / "docs/verification.md"
IMAGES = ROOT / "docs/images"
SUMMARY = ROOT / "benchmarks/detection/summary.json"
COMMITTED = ROOT / "models/aos-demo-5m.F16.calibration.json"


_DRAWN = {
    "other seed",
    "temperature x 0.8",
    "temperature x 0.9",
    "temperature x 1.25",
    "top_p x 0.9",
    "1 token edited, the likeliest other",
    "4 tokens edited, the likeliest others",
}


def plots(study: Study) -> dict[str, str]:
    """The page's plots by file name."""
    spread = [
        Range(
            one.case.name, *(float(q) for q in np.quantile(one.distances, (0.01, 0.5, 0.99))), one.case.honest
        )
        for one in study.all
    ]
    chosen = [one.case.name for one in study.cheats if one.tokens.shape[1] == LENGTHS[-1]]
    repaired = {name.partition(",")[0]: study.areas(name, "margins") for name in chosen if "repaired" in name}
    drawn = {name: study.areas(name, "both") for name in chosen if name in _DRAWN}
    title = "ROC area per job by tokens: "
    return {
        "distances.svg": ranges(
            "Fingerprint distance a token: median, 1st to 99th percentile", spread, 1e-4, 10.0
        ),
        "repaired.svg": lines(f"{title}fingerprints repaired, margins alone", LENGTHS, repaired, 0.5, 1.0),
        "draws.svg": lines(f"{title}true model, other draws", LENGTHS, drawn, 0.5, 1.0),
    }


def tables(study: Study, others: Sequence[Study], opened: Study | None) -> dict[str, list[str]]:
    """Every table of the page by its mark, as far as there are data."""
    committed = Calibration.from_json(json.loads(COMMITTED.read_text()))
    found = {
        "aims": aim_table(study.areas),
        "noise": noise_table(study),
        "areas-fingerprints": area_table(study, "fingerprints"),
        "areas-margins": area_table(study, "margins"),
        "areas-both": area_table(study, "both"),
        "differing": differing_table(study),
        "sampling": sampling_table(study),
        "rates": rate_table(study.cases, study.calibration),
        "misses": miss_table(study.cases, study.calibration, "fingerprint", 300),
        "misses-seeded": miss_table(study.cases, study.calibration, "seeded", 300),
        "rates-committed": rate_table(study.all, committed),
        "misses-committed": miss_table(study.all, committed, "fingerprint", 300),
        "pool": pool_table(study),
    }
    if others:
        found["others"] = other_models_table(others)
    if opened is not None:
        found |= open_tables(study, opened, committed)
    return found


def open_tables(study: Study, opened: Study, committed: Calibration) -> dict[str, list[str]]:
    """Those on open jobs."""
    return {
        "open-aims": open_aim_table(study, opened),
        "open-entropy": entropy_table(study, opened),
        "open-same": same_table(study, opened),
        "open-areas": area_table(opened, "margins"),
        "open-rates": accusation_table(opened, committed),
        "open-misses": caught_table(opened, committed),
        "open-pool": pool_table(opened),
    }


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
            one.case.label: {
                kind: [round(area, 5) for area in study.areas(one.case.label, kind)]
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
    groups: dict[str, list[Records]] = {}
    for case in CASES:
        if (one := read(options.out, case)) is not None:
            groups.setdefault(case.group, []).append(one)
    studies = {group: Study(cases) for group, cases in groups.items()}
    study, opened = studies.pop("F16"), studies.pop("open", None)
    found = tables(study, list(studies.values()), opened)
    if not options.write:
        print("\n\n".join(f"## {name}\n\n" + "\n".join(rows) for name, rows in found.items()))
        return
    PAGE.write_text(fill(PAGE.read_text(), found))
    numbers = summary(study) | ({} if opened is None else {"open": summary(opened)})
    SUMMARY.write_text(json.dumps(numbers, indent=1) + "\n")
    IMAGES.mkdir(exist_ok=True)
    for name, text in plots(study).items():
        (IMAGES / name).write_text(text)


if __name__ == "__main__":
    main()
