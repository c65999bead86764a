"""Checks of what follows from the scores: a round's verdict, and what stands in the end of each thing that was scored."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence_document import VerdictDocument
from aos_protocol.evidence_view import Check, Planned, RoundView
from aos_protocol.evidence_work import scores_of
from aos_protocol.verdict import Verdict, judge, overall

_STATUS: dict[str, Literal["PASS", "FAIL", "SKIP"]] = {
    "match": "PASS",
    "mismatch": "FAIL",
    "inconclusive": "SKIP",
}


@dataclass(frozen=True)
class Judged:
    """One thing that operators stand for, and the verdict on it; None when nobody has scored it, for the `missing` reason."""

    what: str
    verdict: Verdict | None
    missing: str = ""


def verdict_checks(view: RoundView) -> Iterator[Planned]:
    """Plan the check of a round's verdict; a round without verifiers has none."""
    stated = view.document.verdict
    if not (view.verifiers or view.document.scores or stated):
        return
    decided = view.document.scores or stated or view.unscorable
    missing = view.undrawn or ("" if decided else "no verifier has scored")
    if not missing and stated is None and not view.ended:
        missing = f"there is no verdict yet: the round is {view.status}"
    outcome = stated.outcome if stated else "none"
    what = f"the verdict, {outcome}, follows from the scores and the model's calibration"
    yield Planned("AOS-VERDICT-1", missing, what, lambda: _check_verdict(view))


def verdicts_of(view: RoundView) -> list[tuple[str, Verdict]]:
    """Return each verifier with the verdict on its score, computed here. Raises `ProtocolError` or `KeyError`."""
    scores, calibration = scores_of(view), view.calibration
    return [
        (said.operator, judge(score, calibration)) for said, score in zip(view.scores, scores, strict=True)
    ]


def verdict_of(view: RoundView) -> Verdict:
    """Return the verdict of a round, computed here. Raises `ProtocolError` or `KeyError`."""
    return overall([verdict for _, verdict in verdicts_of(view)])


def judged(views: Sequence[RoundView]) -> list[Judged]:
    """Return what the rounds decide of each answer, or of the claim: the last look that decides anything stands.

    Raises `ProtocolError` or `KeyError` where the scores do not hold.
    """
    standing: dict[tuple[str, str | None], Judged] = {}
    for view in views:
        if view.undrawn or view.sealed or not view.has_subject:
            continue
        key = (view.subject.digest, view.subject.operator)
        before = standing.get(key)
        looked = _look(view, before.what if before else "")
        decides = looked.verdict is not None and looked.verdict.outcome != "inconclusive"
        if decides or before is None or before.verdict is None:
            standing[key] = looked
    return list(standing.values())


def match_checks(views: Sequence[RoundView]) -> Iterator[Check]:
    """Say of each answer, or of the claim, whether verifiers found it to be the model's: could not check is no failure.

    Nothing is said of a sealed answer, which nobody but its project can read: its enclave's attestation stands for it.
    """
    if any(view.sealed for view in views):
        return
    try:
        things = judged(views)
    except (ProtocolError, KeyError) as error:
        yield Check("AOS-MATCH-1", "FAIL", f"the scores do not hold, so nothing follows from them: {error}")
        return
    if not things:
        yield Check("AOS-MATCH-1", "SKIP", "there is nothing yet that could be scored")
    for thing in things:
        if thing.verdict is None:
            yield Check("AOS-MATCH-1", "SKIP", f"{thing.what}: {thing.missing}")
        else:
            yield _match(thing.what, thing.verdict)


def _look(view: RoundView, what: str) -> Judged:
    """Return what a round says of its subject, which an earlier round may have named already by `what`."""
    operator = view.subject.operator
    what = what or (f"the answer of {operator}{view.where}" if operator else "the claim")
    if view.document.scores:
        return Judged(what, verdict_of(view))
    unscored = "no verifier has scored it yet" if view.verifiers else "nobody was asked to score it"
    return Judged(what, None, view.unscorable or unscored)


def _match(what: str, verdict: Verdict) -> Check:
    return Check("AOS-MATCH-1", _STATUS[verdict.outcome], f"{what}: {verdict.outcome}: {verdict.reason}")


def _check_verdict(view: RoundView) -> None:
    stated = view.document.verdict
    own = verdict_of(view)
    if stated is None:
        raise InvalidEvidence(f"the scores give {own.outcome}, and the document states no verdict")
    if (stated.outcome, stated.level, stated.tokens_needed) != (own.outcome, own.level, own.tokens_needed):
        raise InvalidEvidence(f"the scores give {own.outcome}, level {own.level}: {own.reason}")
    if not _same_statistics(stated, own):
        raise InvalidEvidence("the statistics are not those of the scores")


def _same_statistics(stated: VerdictDocument, own: Verdict) -> bool:
    """Another machine adds up the same numbers to the last few digits only, more where they nearly cancel out."""
    if stated.statistics.keys() != own.statistics.keys():
        return False
    return all(
        math.isclose(value, own.statistics[name], rel_tol=1e-9, abs_tol=1e-6)
        for name, value in stated.statistics.items()
    )
