"""What disputes decide, without a database: outcomes, finality, and which step a finding names."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from aos_dispatcher.challenges import Case, decision, final_after, final_at, found
from aos_dispatcher.verdicts import Judgement, verdict_json
from aos_protocol import fingerprint
from aos_protocol.evidence_document import VerdictDocument
from aos_protocol.fields import parse_message
from aos_protocol.score_document import Score
from aos_protocol.transcript import StepProof, Transcript
from aos_protocol.verdict import Verdict, judge, overall
from support.calibration import calibration

MODEL = "ab" * 32
CALIBRATION = calibration(MODEL)
STEPS = 12
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("purpose", "outcome", "decided"),
    [
        ("challenge", "mismatch", "upheld"),
        ("challenge", "match", "rejected"),
        ("challenge", "inconclusive", "undecided"),
        ("challenge", None, "undecided"),
        ("appeal", "match", "upheld"),
        ("appeal", "mismatch", "rejected"),
        ("appeal", "inconclusive", "undecided"),
        ("appeal", None, "undecided"),
    ],
)
def test_what_an_outcome_means_for_whoever_asked(purpose: Any, outcome: str | None, decided: str) -> None:
    assert decision(purpose, outcome) == decided


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_without_an_answer_is_never_final(status: str) -> None:
    assert final_at(status, NOW, timedelta(hours=1)) is None


def test_finality_waits_for_the_window_unless_the_answer_was_decided() -> None:
    assert final_at("completed", NOW, timedelta(hours=1)) == NOW + timedelta(hours=1)
    ends = NOW + timedelta(minutes=5)
    assert final_after(True, NOW, ends) == NOW
    assert final_after(False, NOW, ends) == ends
    assert final_after(False, ends + timedelta(days=1), ends) == ends + timedelta(days=1)


def transcript() -> Transcript:
    return Transcript.from_json(
        {
            "rule": 1,
            "model": MODEL,
            "engine": "scripted",
            "params": {"max_tokens": 64, "stop": [], "temperature": 1.0, "top_p": 0.5},
            "seed": "cd" * 32,
            "prover": "0x" + "1" * 40,
            "prompt_tokens": [1, 2],
            "output_tokens": list(range(3, 3 + STEPS)),
            "fingerprints": fingerprint.to_text(bytes(fingerprint.BYTES * STEPS)),
            "finish_reason": "eos",
        }
    )


def score(bad_from: int | None, contradiction: Any = None) -> Score:
    """What a verifier measures of an answer whose fingerprints are another model's from a step on."""
    honest = STEPS if bad_from is None else bad_from
    return Score(
        level="fingerprint",
        subject=transcript().commitment(),
        model=MODEL,
        engine="scripted",
        positions=STEPS,
        distances=[0.001] * honest + [0.3] * (STEPS - honest),
        margins=[0.0] * STEPS,
        surprisals=[1.0] * STEPS,
        winners=list(range(3, 3 + STEPS)),
        entropy=1.0,
        variance=1.0,
        contradiction=contradiction,
    )


def finding(*scores: Score) -> Any:
    """The finding of a challenge that these verifiers' scores uphold."""
    said = SimpleNamespace(operator="0xcheat", transcript=transcript().to_json())
    case: Any = Case(SimpleNamespace(id="job"), None, said, "result", "frame")  # type: ignore[arg-type]
    named = {f"verifier {n}": score for n, score in enumerate(scores)}
    verdict = overall([judge(score, CALIBRATION) for score in scores])
    return found(case, 7, Judgement(named, CALIBRATION, verdict))


def test_a_finding_names_the_step_that_most_verifiers_found_with_its_proof() -> None:
    kept = finding(score(5), score(5), score(2))
    assert (kept.operator, kept.job_id, kept.result, kept.round_id, kept.step) == (
        "0xcheat", "job", "result", 7, 5,
    )  # fmt: skip
    proof = dict(kept.proof)
    assert proof.pop("commitment") == transcript().commitment()
    StepProof.model_validate(proof).check(transcript().commitment())
    assert [at["distance"] for at in kept.verdict["verifiers"]] == [0.3, 0.3, 0.3]
    assert [at["token"] for at in kept.verdict["verifiers"]] == [8, 8, 8]


def test_of_steps_named_as_often_the_earliest_counts() -> None:
    assert finding(score(6), score(3)).step == 3


def test_verifiers_that_found_nothing_name_no_step() -> None:
    assert finding(score(4), score(4), score(None)).step == 4


def test_a_contradiction_is_no_step() -> None:
    kept = finding(score(None, "text"), score(None, "text"))
    assert (kept.step, kept.proof, kept.verdict["verifiers"]) == (None, None, [])
    assert kept.verdict["outcome"] == "mismatch"


def test_a_verdict_is_stored_as_evidence_shows_it() -> None:
    verdict = Verdict("inconclusive", "seeded", "too short", {"margin_evidence": 0.1}, 40)
    document = parse_message(VerdictDocument, verdict_json(verdict))
    assert document.model_dump() == verdict_json(verdict)
    assert parse_message(VerdictDocument, verdict_json(overall([]))).level is None
