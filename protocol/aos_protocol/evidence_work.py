"""Checks of what a round's members did: results, transcripts, scores, clocks, model, and whether all is there."""

from collections import Counter
from collections.abc import Iterator

from aos_protocol.clock import VectorClock
from aos_protocol.errors import (
    InvalidClock,
    InvalidEvidence,
    InvalidMessage,
    InvalidSignature,
    InvalidTranscript,
)
from aos_protocol.evidence_document import SeatDocument
from aos_protocol.evidence_view import Planned, RoundView, clock_of, is_given_up
from aos_protocol.fields import Role
from aos_protocol.job import JobSpec
from aos_protocol.messages import JobResult, JobScore
from aos_protocol.record import Record
from aos_protocol.score_document import Level, Score
from aos_protocol.shown import Shown, check_level, check_shown, read_shown
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import recover_typed
from aos_protocol.verification import check_counter, check_score, check_work, result_claim

_DISPATCHER = 1


def work_checks(view: RoundView) -> Iterator[Planned]:
    """Plan the checks of a round's results and scores; a claim or challenge has no results to look at."""
    document = view.document
    results, scores = len(document.results), len(document.scores)
    said = f"results: {results}, scores: {scores}" if view.executes else f"scores: {scores}"
    unsaid = view.undrawn or ("" if results or scores else "there is neither a result nor a score")
    unanswered = view.undrawn or ("" if results else "there is no result")
    unscored = view.undrawn or ("" if scores else view.unscorable or "no verifier has scored")
    if view.executes or results:
        yield Planned(
            "AOS-RESULT-1",
            unanswered,
            f"results are signed by their operators: {results}",
            lambda: _check_results(view),
        )
    if (view.executes or results) and not view.sealed:
        yield from _shown_checks(view, unanswered)
    if view.verifiers or scores:
        yield Planned(
            "AOS-SCORE-1",
            unscored,
            f"scores are signed by their verifiers, and of the whole: {scores}",
            lambda: scores_of(view),
        )
    yield Planned(
        "AOS-CLOCK-1", unsaid, f"the clocks are in causal order: {said}", lambda: _check_clocks(view)
    )
    model = f"the model is {document.model.name}, {document.model.sha256}"
    yield Planned("AOS-MODEL-1", unsaid, model, lambda: _check_model(view))
    unfinished = "" if view.ended else f"the {'job' if view.is_own else 'round'} is {view.status}"
    yield Planned(
        "AOS-COMPLETE-1",
        unfinished,
        f"all that was asked of members that were not given up is there: {said}",
        lambda: _check_complete(view),
    )


def _shown_checks(view: RoundView, unanswered: str) -> Iterator[Planned]:
    """Plan the checks of what answers come with; one with a record has no transcript, so nothing of that can pass."""
    recorded = view.recorded
    transcripts = len(view.document.results) - len(recorded)
    if transcripts or not recorded:
        yield Planned(
            "AOS-TRANSCRIPT-1",
            unanswered,
            f"transcripts have the job's seed, their operator's name and its signature: {transcripts}",
            lambda: _check_transcripts(view),
        )
    if not recorded:
        return
    said = ", ".join(f"{operator} shows {what}" for operator, what in sorted(recorded.items()))
    yield Planned("AOS-TRANSCRIPT-1", f"there is no transcript: {said}", "", lambda: None)
    yield Planned(
        "AOS-RECORD-1",
        "",
        f"records are signed, fit their answers, and show {view.least} or more: {said}",
        lambda: _check_records(view),
    )


def scores_of(view: RoundView) -> list[Score]:
    """Return the numbers of every score, verified against its round, its verifier's ticket, and its subject.

    Raises `ProtocolError`, and `KeyError` for a verifier without a ticket.
    """
    if view.verified_scores is None:
        view.verified_scores = _verified_scores(view)
    return view.verified_scores


def _verified_scores(view: RoundView) -> list[Score]:
    subject, terms = view.subject, view.terms()
    verifiers = {seat.operator for seat in view.verifiers}
    scores = []
    for said in view.scores:
        if said.operator not in verifiers:
            raise InvalidEvidence(f"{said.operator} has scored, but is no verifier of this committee")
        ticket = view.tickets[said.operator][0]
        score = check_score(
            said, terms, ticket, view.domain, subject=subject.digest, subject_operator=subject.operator
        )
        if score is None:
            raise InvalidEvidence(f"{said.operator} has not scored: {said.reason}")
        try:
            check_extent(score, view.request.job, subject.shown)
        except InvalidMessage as error:
            raise InvalidEvidence(f"the score of {said.operator}: {error}") from None
        scores.append(score)
    return scores


def check_extent(score: Score, job: JobSpec, shown: Shown | None) -> None:
    """Raise `InvalidMessage` unless a score covers its whole subject, at the level that the subject allows.

    The subject is an answer that comes with this, or without it the job's claim. How many tokens a claimed text has, only its score says.
    """
    claim = job.claim
    tokens = shown.output_tokens if shown else claim.output_tokens if claim else None
    if tokens is not None and score.positions != len(tokens):
        raise InvalidMessage(f"{score.positions} positions are scored, of {len(tokens)}")
    level = _level(job, shown)
    if score.level != level:
        raise InvalidMessage(f"it is of level {score.level}, where {level} can be had")


def _level(job: JobSpec, shown: Shown | None) -> Level:
    claim = job.claim
    if isinstance(shown, Transcript) or (claim is not None and claim.fingerprints is not None):
        return "fingerprint"
    if job.params.temperature == 0:
        return "greedy"
    return "seeded" if claim is not None and claim.seed is not None else "likelihood"


def _check_results(view: RoundView) -> None:
    seats = {seat.operator: seat for seat in view.document.committee}
    terms = view.terms()
    for result in view.results:
        if result.operator not in seats or result.operator not in view.tickets:
            raise InvalidEvidence(f"{result.operator} has a result, but no seat and ticket")
        role = _signed_role(view, seats[result.operator], result)
        check_work(result, terms, view.tickets[result.operator][0], role, view.domain)


def _signed_role(view: RoundView, seat: SeatDocument, result: JobResult) -> Role:
    """The role that a result must carry: its seat's, or that of before its seat became the executor's.

    Members that execute beside the executor (tag `malicious`) may have answered as verifiers when it was given up.
    """
    promoted = seat.role == "executor" and seat.operator != view.document.committee[0].operator
    return result.role if promoted and view.document.tag == "malicious" else seat.role


def _check_transcripts(view: RoundView) -> None:
    for result in view.results:
        transcript = read_shown(result)
        if isinstance(transcript, Record):
            continue
        if transcript is None:
            raise InvalidTranscript(f"{result.operator} gives none")
        if transcript.seed != view.evidence.seed.value:
            raise InvalidTranscript(f"that of {result.operator} was sampled with another seed than the job's")
        if transcript.prover != result.operator:
            raise InvalidTranscript(f"that of {result.operator} has the fingerprints of {transcript.prover}")
        if transcript.finish_reason == "stop" and not view.request.job.params.stop:
            raise InvalidTranscript(f"that of {result.operator} ends by a stop text, and the job has none")
        _check_bound(view, result, transcript, "commitment")


def _check_records(view: RoundView) -> None:
    for result in view.results:
        if result.record is None:
            continue
        record = check_shown(result, view.request.job)
        check_level(record, view.least, f"what the dispatcher wanted of the answer of {result.operator}")
        _check_bound(view, result, record, "record")


def _check_bound(view: RoundView, result: JobResult, shown: Shown | None, what: str) -> None:
    claim = result_claim(result, view.request.job.params.digest(), shown, seed=view.seed.value)
    signer = recover_typed(view.domain, claim, result.signature)
    if signer != result.operator:
        raise InvalidSignature(f"the {what} of {result.operator} is signed by {signer}")


def _check_clocks(view: RoundView) -> None:
    document = view.document
    drawn, dispatched = clock_of(document.draw_clock), clock_of(document.dispatch_clock)
    if not dispatched.dominates(drawn) or not dispatched.get(_DISPATCHER) > drawn.get(_DISPATCHER) > 0:
        raise InvalidClock("the dispatch does not follow the draw")
    _check_nothing_invented(view)
    for operator, (ticket, _) in view.tickets.items():
        if clock_of(ticket.clock).get(view.entries[operator].number) == 0:
            raise InvalidClock(f"the ticket of {operator} does not tick its own number")
    for member in view.members:
        if not dispatched.dominates(clock_of(view.tickets[member.operator][0].clock)):
            raise InvalidClock(f"the dispatch does not follow the ticket of {member.operator}")
    for result in view.results:
        _check_answer_clock(view, result)
        check_counter(result, view.entries[result.operator].number)
    for score in view.scores:
        _check_answer_clock(view, score)
        _check_score_clock(view, score)


def _check_nothing_invented(view: RoundView) -> None:
    """Raise when the dispatcher claims to have known of an operator what this had not signed anywhere in the document."""
    signed = VectorClock()
    for other in view.rounds:
        signed = signed.merge(other.signed_clock)
    own = (view.document.draw_clock, view.document.dispatch_clock, view.evidence.job.clock)
    for number, counter in (entry for clock in own for entry in clock_of(clock).counters.items()):
        if number != _DISPATCHER and counter > signed.get(number):
            raise InvalidClock(f"participant {number} has signed nothing as its event {counter}")


def _check_answer_clock(view: RoundView, said: JobResult | JobScore) -> None:
    what = f"the {'result' if isinstance(said, JobResult) else 'score'} of {said.operator}"
    clock, ended = clock_of(said.clock), clock_of(view.evidence.job.clock)
    drawn = clock_of(view.tickets[said.operator][0].clock)
    number = view.entries[said.operator].number
    if clock.get(number) <= drawn.get(number):
        raise InvalidClock(f"{what} does not follow its own ticket")
    if view.is_own and view.ended and not ended.dominates(clock):
        raise InvalidClock(f"the end of the job does not follow {what}")


def _check_score_clock(view: RoundView, score: JobScore) -> None:
    """Raise unless the verifier scored what it had seen, and a verifier that executes had done so before."""
    subject = view.subject.result
    if subject is not None and not clock_of(score.clock).dominates(clock_of(subject.clock)):
        raise InvalidClock(f"the score of {score.operator} does not follow the result that it scores")
    own = next((result for result in view.results if result.operator == score.operator), None)
    if own is None or subject is None:
        return
    executor, verifier = view.entries[subject.operator].number, view.entries[score.operator].number
    if clock_of(own.clock).get(verifier) >= clock_of(score.clock).get(verifier):
        raise InvalidClock(f"{score.operator} scored before it had executed")
    if clock_of(own.clock).get(executor) >= clock_of(subject.clock).get(executor):
        raise InvalidClock(f"{score.operator} executed after it had seen the executor's result")


def _check_model(view: RoundView) -> None:
    model = view.document.model
    if model.name != view.request.job.model:
        raise InvalidEvidence(f"the request asks for {view.request.job.model}")
    for result in view.results:
        # The model of a sealed answer is in its enclave's keyset, which `check_result` compares. A record is its operator's word alone.
        inside = view.sealed or result.record is not None
        said = model.sha256 if inside else (result.transcript or {}).get("model")
        if result.model != model or said != model.sha256:
            raise InvalidEvidence(f"{result.operator} ran {result.model.name}, {said}")
    for score in view.scores:
        if score.model != model:
            raise InvalidEvidence(f"{score.operator} scored with {score.model.name}, {score.model.sha256}")


def _check_complete(view: RoundView) -> None:
    """Raise unless every seat that answered has said what its role asks for, once, and no other seat has."""
    seats = view.document.committee
    if view.document.status != view.status:
        raise InvalidEvidence(f"the job is {view.status}, its own round {view.document.status}")
    if any(seat.state == "assigned" for seat in seats):
        raise InvalidEvidence("a seat is still open")
    results = Counter(result.operator for result in view.results)
    scores = Counter(score.operator for score in view.scores)
    executing = view.document.tag == "malicious" and view.executes
    for seat in seats:
        executed, scored = results.pop(seat.operator, 0), scores.pop(seat.operator, 0)
        if is_given_up(seat):
            # It may have executed, under the tag that has verifiers do so, before it was lost.
            good = scored == 0 and executed <= executing
        else:
            verifies = seat.role == "verifier"
            good = (executed, scored) == (not verifies or executing, verifies)
        if not good:
            raise InvalidEvidence(f"{seat.operator}, {seat.role}, has {executed} results and {scored} scores")
    if results or scores:
        raise InvalidEvidence("somebody who has no seat has a result or score")
    answered = sum(seat.state == "answered" for seat in seats)
    # A job is not lost for want of verifiers: where nobody was left to ask, it has fewer. A challenge needs all of them.
    nobody_left = len(seats) == len(view.ranking) and not view.document.challenge
    needed = 1 if nobody_left or view.unscorable else min(view.minimum, len(view.members))
    if answered < needed:
        raise InvalidEvidence(f"{needed} members must have answered, {answered} have")
