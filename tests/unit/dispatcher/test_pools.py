"""Pools: which margins of an answer count where several verifiers measured them."""

import pytest

from aos_dispatcher.pools import Scored
from aos_protocol.score_document import Level, Score


def score(margins: list[float] | None, level: Level = "fingerprint") -> Score:
    count = len(margins or [1])
    return Score(
        level=level if margins is not None else "likelihood",
        distances=[0.1] * count if margins is not None and level == "fingerprint" else None,
        subject="cd" * 32,
        model="ab" * 32,
        engine="scripted",
        positions=count,
        margins=margins,
        surprisals=[1.0] * count,
        winners=[1] * count,
        entropy=1.0,
        variance=1.0,
    )


@pytest.mark.parametrize(
    ("measured", "counted"),
    [
        ([[0.1, 0.0]], [0.1, 0.0]),
        ([[0.1, 0.0], [0.0, 0.3]], [0.0, 0.0]),
        ([[0.1, 9.0], [0.2, 0.0], [0.3, 0.0]], [0.2, 0.0]),
        ([[9.0, 9.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
        ([], []),
    ],
)
def test_no_minority_of_verifiers_moves_a_pool(measured: list[list[float]], counted: list[float]) -> None:
    scores = {f"verifier {n}": score(margins) for n, margins in enumerate(measured)}
    assert Scored("0xoperator", "job", "ab" * 32, scores).margins() == counted


@pytest.mark.parametrize("level", ["seeded", "greedy"])
def test_margins_of_an_answer_without_a_transcript_add_nothing(level: Level) -> None:
    scores = {"verifier": score([0.1, 0.2], level)}
    assert Scored("0xoperator", "job", "ab" * 32, scores).margins() == []


def test_scores_without_margins_add_nothing() -> None:
    assert Scored("0xoperator", "job", "ab" * 32, {"verifier": score(None)}).margins() == []
