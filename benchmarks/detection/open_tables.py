"""The tables of docs/verification.md on jobs whose answers are not forced, beside the usual ones."""

from collections.abc import Sequence
from itertools import starmap
from typing import Final

import numpy as np
from aims import OPEN_AIMS, aim_cells
from judging import LENGTHS, differing, verdicts
from rates import proportion
from records import Records
from study import Study

from aos_protocol.calibration import Calibration
from aos_protocol.score_document import Level

_LEVELS: Final[tuple[Level, ...]] = ("fingerprint", "seeded", "likelihood")


def open_aim_table(usual: Study, opened: Study) -> list[str]:
    """The aims that depend on how sure the model is: as it is usually sampled, and open."""
    rows = [
        "| aim: ROC area per job | above | within | usual sampling | met | open | met |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    for aim in OPEN_AIMS:
        cells = [cell for study in (usual, opened) for cell in aim_cells(aim, study.areas)]
        rows.append(f"| {aim.what} | {aim.area} | {aim.tokens} tokens | {' | '.join(cells)} |")
    return rows


def entropy_table(usual: Study, opened: Study) -> list[str]:
    """How unsure the model is, and how large honest noise is then."""
    rows = [
        "| honest answers | jobs | entropy, nats a token | lowest to highest tenth of jobs | first 64 tokens"
        " | distance: median | tokens drawn otherwise | greatest margin |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, study in (("usual sampling", usual), ("open", opened)):
        honest = [one for one in study.all if one.case.honest]
        entropies, distances, margins = (
            np.concatenate([getattr(one, what) for one in honest])
            for what in ("entropies", "distances", "margins")
        )
        low, high = np.quantile(entropies.mean(axis=1), (0.1, 0.9))
        rows.append(
            f"| {name} | {len(entropies)} | {entropies.mean():.2f} | {low:.2f} to {high:.2f} | {entropies[:, :64].mean():.2f}"
            f" | {np.median(distances):.4f} | {(margins > 0).mean():.3%} | {margins.max():.3g} |"
        )
    return rows


def same_table(usual: Study, opened: Study) -> list[str]:
    """How many cheats' answers are token for token the honest ones, and how sure the model was in them."""
    rows = [
        "| cheat | usual: entropy, nats a token | same at 64 tokens (their entropy) | at 300"
        " | open: entropy | same at 64 tokens (their entropy) | at 300 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    known = {one.case.label: one for one in usual.cheats}
    for one in opened.cheats:
        cells = [cell for kind in (known[one.case.label], one) for cell in _same_cells(kind)]
        rows.append(f"| {one.case.label} | {' | '.join(cells)} |")
    return rows


def _same_cells(one: Records) -> list[str]:
    lengths = (64, 300)
    shares = [_same_cell(one, length) if length <= one.tokens.shape[1] else "" for length in lengths]
    return [f"{one.entropies.mean():.2f}", *shares]


def _same_cell(one: Records, length: int) -> str:
    same = ~differing(one, length)
    return f"{same.mean():.0%} ({one.entropies[same, :length].mean():.2f})" if same.any() else "0%"


def accusation_table(opened: Study, committed: Calibration) -> list[str]:
    """Honest answers accused at any of the lengths, by the regime's own calibration and by the one beside the model."""
    rows = [
        "| calibration | level | honest jobs | accused at any length (95% interval) | match at 64 | match at 300 |",
        "|---|---|--:|---|--:|--:|",
    ]
    everyone = [one for one in opened.all if one.case.honest]
    judges = (
        ("of the first half", opened.honest, opened.calibration),
        ("of the model", everyone, committed),
    )
    return rows + [
        f"| {name} | {level} | {' | '.join(_accusation_cells(honest, calibration, level))} |"
        for name, honest, calibration in judges
        for level in _LEVELS
    ]


def _accusation_cells(honest: Sequence[Records], calibration: Calibration, level: Level) -> list[str]:
    """Jobs, accusations and matches."""
    outcomes = np.concatenate(
        [
            [[verdict.outcome for verdict in verdicts(one, calibration, n, level)] for n in LENGTHS]
            for one in honest
        ],
        axis=1,
    )
    jobs = outcomes.shape[1]
    accused = int((outcomes == "mismatch").any(axis=0).sum())
    matches = [f"{(outcomes[LENGTHS.index(n)] == 'match').mean():.1%}" for n in (64, 300)]
    return [str(jobs), proportion(accused, jobs), *matches]


def caught_table(opened: Study, committed: Calibration) -> list[str]:
    """What became of the cheats, by both calibrations."""
    rows = [
        "| cheat, 300 tokens at most, level fingerprint | jobs | caught | passed | undecided | by the model's calibration: jobs | caught | passed | undecided |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    whole = {one.case.label: one for one in opened.all}
    for one in opened.cheats:
        pairs = ((one, opened.calibration), (whole[one.case.label], committed))
        cells = [cell for found in starmap(_outcome_cells, pairs) for cell in found]
        rows.append(f"| {one.case.label} | {' | '.join(cells)} |")
    return rows


def _outcome_cells(one: Records, calibration: Calibration) -> list[str]:
    found = [verdict.outcome for verdict in verdicts(one, calibration, LENGTHS[-1], "fingerprint")]
    shares = (found.count(outcome) / one.jobs for outcome in ("mismatch", "match", "inconclusive"))
    return [str(one.jobs), *(f"{share:.1%}" for share in shares)]
