"""Evidence of dishonest work: everything here is signed by its operator, and still does not hold."""

from collections.abc import Callable
from typing import Any

import pytest

from aos_protocol.calibration import Calibration
from aos_protocol.errors import InvalidEvidence, InvalidMessage
from aos_protocol.evidence import Check, check_evidence, round_views
from aos_protocol.evidence_verdict import judged, verdict_of, verdicts_of
from aos_protocol.evidence_work import check_extent
from aos_protocol.fields import parse_message
from aos_protocol.job import Claim, JobSpec
from aos_protocol.score_document import Score
from aos_protocol.transcript import Transcript
from support.calibration import calibration
from support.evidence import (
    CALIBRATION,
    CHEATING,
    CLAIM,
    DISPATCHER,
    FINGERPRINTED,
    MODEL,
    SEEDED,
    TOKENS,
    Actor,
    Story,
    logged,
)

Said = dict[str, Any]
OTHER = "7" * 64


def checks(document: Any) -> list[Check]:
    return check_evidence(document, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])


def failing(document: Any) -> dict[str, str]:
    outcome = checks(document | {"log": logged(document)})
    return {check.id: check.what for check in outcome if check.status == "FAIL"}


def held(tag: str = "suspicion", **how: Any) -> Any:
    story = Story(tag, **how)
    story.own()
    return story.document()


def in_results(change: Callable[[Said], object]) -> Callable[[Actor, Said], None]:
    def bend(_actor: Actor, said: Said) -> None:
        if "role" in said:
            change(said)

    return bend


def in_scores(change: Callable[[Said], object]) -> Callable[[Actor, Said], None]:
    def bend(_actor: Actor, said: Said) -> None:
        if "score" in said:
            change(said)

    return bend


def transcript(**members: Any) -> Callable[[Said], object]:
    return lambda said: said["transcript"].update(members)


def numbers(**members: Any) -> Callable[[Said], object]:
    return lambda said: said["score"].update(members)


RESULTS: dict[str, tuple[Callable[[Said], object], str, str]] = {
    "another seed": (transcript(seed=OTHER), "AOS-TRANSCRIPT-1", "sampled with another seed than the job's"),
    "a copied answer": (transcript(prover="0x" + "1" * 40), "AOS-TRANSCRIPT-1", "has the fingerprints of 0x11"),
    "a stop that nobody asked for": (
        transcript(finish_reason="stop"), "AOS-TRANSCRIPT-1", "ends by a stop text, and the job has none",
    ),
    "another model": (transcript(model=OTHER), "AOS-MODEL-1", f"ran tiny.gguf, {OTHER}"),
    "other parameters": (
        transcript(params={"temperature": 0.8, "top_p": 0.5, "max_tokens": 1024, "stop": []}),
        "AOS-RESULT-1", "with other parameters than the job's",
    ),
    "another model's name": (
        lambda said: said["model"].update(name="big.gguf"), "AOS-MODEL-1", "ran big.gguf",
    ),
    "the wrong role": (lambda said: said.update(role="verifier"), "AOS-RESULT-1", "role or operator is not what was"),
    "another job": (lambda said: said.update(job_id=OTHER), "AOS-RESULT-1", "is not what was dispatched"),
    "another tag": (lambda said: said.update(tag=""), "AOS-RESULT-1", "is not what was dispatched"),
    "an old clock": (lambda said: said.update(clock={"1": "1", "2": "1"}), "AOS-RESULT-1", "does not dominate"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_its_operator_bent_is_found(name: str) -> None:
    change, check, why = RESULTS[name]
    assert why in failing(held(bend=in_results(change)))[check]


def test_a_refusal_is_no_answer() -> None:
    refuse = in_results(lambda said: said.update(transcript=None, result="", reason="too hot"))
    document = held("", audit_ppm=0, bend=refuse)
    assert "AOS-TRANSCRIPT-1" in failing(document)
    assert "neither a transcript nor a record" in failing(document)["AOS-MATCH-1"]


SCORES: dict[str, tuple[Callable[[Said], object], str]] = {
    "another subject": (lambda said: said.update(subject=OTHER), "subject is not what was to be scored"),
    "another's answer": (
        lambda said: said.update(subject_operator=DISPATCHER.address), "subject is not what was to be scored",
    ),
    "numbers of another subject": (numbers(subject=OTHER), "of another subject or model"),
    "numbers of another model": (numbers(model=OTHER), "of another subject or model"),
    "the first token only": (
        numbers(positions=1, distances=[0.0], margins=[0.0], surprisals=[3.0], winners=[4]),
        "1 positions are scored, of 3",
    ),
    "a weaker level": (numbers(level="likelihood", distances=None, margins=None), "of level likelihood, where fingerprint"),
    "another challenge": (lambda said: said.update(challenge=1), "of another round"),
    "another position": (lambda said: said.update(position="before"), "of another round"),
    "a reason for none": (lambda said: said.update(score=None, reason="too hot"), "has not scored: too hot"),
    "neither": (lambda said: said.update(score=None), "needs either its numbers or a reason"),
    "lists of other lengths": (numbers(surprisals=[1.0]), "3"),
    "what is no score": (lambda said: said.update(score={"all": "well"}), "Score: "),
    "an old clock": (lambda said: said.update(clock={"1": "1", "2": "1"}), "does not dominate its call's"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
def test_a_score_that_its_verifier_bent_is_found(name: str) -> None:
    change, why = SCORES[name]
    failed = failing(held(bend=in_scores(change)))
    assert why in failed["AOS-SCORE-1"]
    assert {"AOS-VERDICT-1", "AOS-MATCH-1"} <= failed.keys(), "nothing follows from scores that do not hold"


def test_a_score_that_did_not_see_what_it_scores_is_found() -> None:
    def forget(actor: Actor, said: Said) -> None:
        if "score" in said:
            said["clock"] = (
                {"1": said["clock"]["1"]}
                | {number: counter for number, counter in tickets.items() if number != str(actor.number)}
                | {str(actor.number): said["clock"][str(actor.number)]}
            )
        else:
            tickets.update({k: v for k, v in said["clock"].items() if k != str(actor.number)})
            tickets[str(actor.number)] = str(int(said["clock"][str(actor.number)]) - 1)

    tickets: dict[str, str] = {}
    assert "does not follow the result that it scores" in failing(held(bend=forget))["AOS-CLOCK-1"]


@pytest.mark.parametrize("who", ["executor", "stranger"])
def test_a_score_of_somebody_who_was_not_to_score_is_found(who: str) -> None:
    """A genuine score, from another round, of an operator that the draw gave no such seat here."""
    story = Story("suspicion", operators=9)
    story.own()
    again = story.before("malicious")
    document = story.document()
    own = document["rounds"][0]
    verifiers = {seat["operator"] for seat in own["committee"] if seat["role"] == "verifier"}
    others = [
        frame
        for frame in again["scores"]
        if not any(v in frame.rpartition('"address"')[2] for v in verifiers)
    ]
    own["scores"] = (
        [*own["scores"][1:], others[0]] if who == "stranger" else [own["results"][0], *own["scores"][1:]]
    )
    why = "is no verifier of this committee" if who == "stranger" else "is no job_score"
    assert why in failing(document)["AOS-SCORE-1"]


def test_a_verifier_that_executes_after_it_has_seen_the_answer_is_found() -> None:
    """Under `malicious`, verifiers execute before they see what the executor said."""
    seen: dict[str, str] = {}

    def peek(_actor: Actor, said: Said) -> None:
        if said.get("role") == "executor":
            seen.update(said["clock"])
        elif "role" in said:
            said["clock"] = {n: max(seen.get(n, "0"), c, key=int) for n, c in (seen | said["clock"]).items()}

    assert "executed after it had seen" in failing(held("malicious", bend=peek))["AOS-CLOCK-1"]


def test_a_verifier_that_never_executes_is_found_where_it_must() -> None:
    document = held("malicious")
    del document["rounds"][0]["results"][1]
    assert "has 0 results and 1 scores" in failing(document)["AOS-COMPLETE-1"]


@pytest.mark.parametrize("outcome", ["mismatch", "inconclusive"])
def test_a_wrong_verdict_of_the_dispatcher_is_found(outcome: str) -> None:
    document = held()
    document["rounds"][0]["verdict"]["outcome"] = outcome
    failed = failing(document)
    assert "the scores give match, level fingerprint" in failed["AOS-VERDICT-1"]
    assert failed.keys() <= {"AOS-VERDICT-1", "AOS-CHALLENGE-1"}


def test_a_mismatch_that_is_called_a_match_is_found() -> None:
    good, bad = held(), held(distance=CHEATING)
    bad["rounds"][0]["verdict"] = good["rounds"][0]["verdict"]
    failed = failing(bad)
    assert "the scores give mismatch" in failed["AOS-VERDICT-1"]
    assert ": mismatch: 2 of 2 verifiers: the fingerprints are not those" in failed["AOS-MATCH-1"]


@pytest.mark.parametrize("bent", ["distance_evidence", "mean_margin"])
def test_statistics_that_are_not_those_of_the_scores_are_found(bent: str) -> None:
    document = held()
    document["rounds"][0]["verdict"]["statistics"][bent] += 0.01
    assert "the statistics are not those of the scores" in failing(document)["AOS-VERDICT-1"]
    del document["rounds"][0]["verdict"]["statistics"][bent]
    assert "the statistics are not those of the scores" in failing(document)["AOS-VERDICT-1"]


def test_another_machine_s_last_digits_are_no_difference() -> None:
    document = held()
    for name, value in document["rounds"][0]["verdict"]["statistics"].items():
        document["rounds"][0]["verdict"]["statistics"][name] = value * (1 + 1e-12)
    assert failing(document) == {}


def test_a_verdict_that_is_kept_back_is_found() -> None:
    document = held()
    document["rounds"][0]["verdict"] = None
    assert "the document states no verdict" in failing(document)["AOS-VERDICT-1"]


def test_a_verdict_without_scores_is_found() -> None:
    document = held()
    document["rounds"][0]["scores"] = []
    assert {"AOS-VERDICT-1", "AOS-COMPLETE-1"} <= failing(document).keys()


def test_without_a_calibration_nothing_is_decided_and_nothing_fails() -> None:
    outcome = checks(held(calibrated=False))
    assert [check.id for check in outcome if check.status != "PASS"] == ["AOS-MATCH-1"]
    assert outcome[-1].status == "SKIP"
    assert f"inconclusive: there is no calibration of model {MODEL.sha256}" in outcome[-1].what


def test_a_calibration_that_is_named_and_missing_is_found() -> None:
    document = held()
    document["calibrations"] = []
    failed = failing(document)
    assert (
        f"the calibration {CALIBRATION.digest()}, by which the round is judged, is missing"
        in failed["AOS-VERDICT-1"]
    )
    assert "AOS-MATCH-1" in failed


def test_a_calibration_that_is_denied_makes_no_match() -> None:
    document = held()
    document["rounds"][0]["calibration"] = None
    assert "the scores give inconclusive" in failing(document)["AOS-VERDICT-1"]
    assert checks(document)[-1].status == "SKIP"


@pytest.mark.parametrize("other", [calibration(OTHER), calibration(MODEL.sha256, alpha=1e-300)])
def test_a_calibration_of_something_else_is_found(other: Calibration) -> None:
    """One of another model says nothing; another one of this model gives another verdict or other statistics, or the same one."""
    document = held(distance=CHEATING)
    document["calibrations"] = [other.to_json()]
    document["rounds"][0]["calibration"] = other.digest()
    own = verdict_of(round_views(document)[0])
    assert own.outcome == "inconclusive"
    assert "the scores give inconclusive" in failing(document)["AOS-VERDICT-1"]


def test_what_is_no_calibration_is_found() -> None:
    document = held()
    document["calibrations"] = [{"version": "aos-calibration/1"}]
    assert "Calibration: " in failing(document)["AOS-VERDICT-1"]


def test_the_majority_of_the_verifiers_decides() -> None:
    """One verifier of four lies; the verdict is that of the other three, and each one's own can be seen."""
    story = Story("malicious")
    liar = story.crew[0].address

    def lie(actor: Actor, said: Said) -> None:
        if "score" in said and actor.address == liar:
            said["score"]["distances"] = [CHEATING] * len(TOKENS)

    story = Story("malicious", bend=lie)
    story.own()
    [view] = round_views(story.document())
    outcomes = {operator: verdict.outcome for operator, verdict in verdicts_of(view)}
    expected = {operator: "mismatch" if operator == liar else "match" for operator in outcomes}
    assert outcomes == expected
    assert verdict_of(view).outcome == "match"


def test_a_later_look_that_decides_stands_before_one_that_does_not() -> None:
    story = Story(distance=CHEATING)
    story.own()
    story.distance = 0.001
    story.challenge()
    [thing] = judged(round_views(story.document()))
    assert thing.verdict is not None
    assert thing.verdict.outcome == "match"


def test_a_look_that_decides_nothing_changes_nothing() -> None:
    story = Story(distance=CHEATING)
    story.own()
    story.calibrated = False
    story.challenge()
    story.calibrated = True
    [thing] = judged(round_views(story.document()))
    assert thing.verdict is not None
    assert thing.verdict.outcome == "mismatch"


def score(level: Any, count: int) -> Score:
    numbers = [0.0] * count
    margins = None if level == "likelihood" else numbers
    distances = numbers if level == "fingerprint" else None
    return Score(
        level=level, subject=OTHER, model=OTHER, engine="e", positions=count, distances=distances, margins=margins,
        surprisals=numbers, winners=[1] * count, entropy=0.0, variance=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "temperature", "level"),
    [
        (CLAIM, 1.0, "likelihood"),
        (CLAIM, 0.0, "greedy"),
        (SEEDED, 1.0, "seeded"),
        (SEEDED, 0.0, "greedy"),
        (FINGERPRINTED, 0.0, "fingerprint"),
        ({"text": "an answer"}, 1.0, "likelihood"),
    ],
)
def test_the_level_follows_from_what_a_claim_brings(claim: Said, temperature: float, level: str) -> None:
    job = JobSpec(
        tag="opml", prompt="?", model="m", params=_params(temperature), claim=parse_message(Claim, claim)
    )
    check_extent(score(level, 3), job, None)
    for other in {"likelihood", "greedy", "seeded", "fingerprint"} - {level}:
        with pytest.raises(InvalidMessage, match=f"of level {other}, where {level} can be had"):
            check_extent(score(other, 3), job, None)


def test_only_a_text_may_have_any_number_of_tokens() -> None:
    def job(claim: Said) -> JobSpec:
        return JobSpec(tag="opml", prompt="?", model="m", claim=parse_message(Claim, claim))

    check_extent(score("likelihood", 17), job({"text": "an answer"}), None)
    with pytest.raises(InvalidMessage, match="17 positions are scored, of 3"):
        check_extent(score("likelihood", 17), job(CLAIM), None)


def test_an_answer_s_transcript_is_scored_whole_and_by_fingerprints() -> None:
    document = held()
    [view] = round_views(document)
    answer = view.subject.shown
    assert isinstance(answer, Transcript)
    check_extent(score("fingerprint", 3), view.request.job, answer)
    for bad in (score("fingerprint", 2), score("seeded", 3)):
        with pytest.raises(InvalidMessage):
            check_extent(bad, view.request.job, answer)


def test_there_is_no_subject_without_the_executor_s_answer() -> None:
    document = held()
    document["rounds"][0]["results"] = []
    with pytest.raises(InvalidEvidence, match="no one answer of the executor"):
        assert round_views(document)[0].subject


def _params(temperature: float) -> Any:
    from aos_protocol.job import Params

    return Params(temperature=temperature)
