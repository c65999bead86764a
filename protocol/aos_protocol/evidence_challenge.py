"""Checks of second looks at a result: that a mismatch has one, and that each was asked for, drawn and numbered rightly."""

from collections.abc import Iterator

from aos_protocol.errors import InvalidEvidence, InvalidSignature
from aos_protocol.evidence_document import PleaDocument, RoundDocument
from aos_protocol.evidence_view import Planned, RoundView, open_result
from aos_protocol.messages import JobResult
from aos_protocol.typed_data import ChallengeClaim, recover_typed
from aos_protocol.verification import check_seed


def challenge_checks(view: RoundView) -> Iterator[Planned]:
    """Plan the check of a challenge, or of a round whose mismatch calls for one; others have nothing to check."""
    document = view.document
    if document.challenge:
        what = f"challenge {document.challenge} of a result of this job, {_asked_by(document.plea)}, has a seed of its own"
        yield Planned("AOS-CHALLENGE-1", "", what, lambda: _check_challenge(view))
    elif view.executes and view.ended and document.verdict and document.verdict.outcome == "mismatch":
        what = "a fresh committee looked again at what does not match"
        yield Planned("AOS-CHALLENGE-1", "", what, lambda: _check_second_look(view))


def _asked_by(plea: PleaDocument | None) -> str:
    if plea is None:
        return "which nobody asked for"
    return f"an {plea.purpose} of its operator" if plea.purpose == "appeal" else f"asked for by the {plea.by}"


def _check_second_look(view: RoundView) -> None:
    executor = view.subject.operator
    looked_at = {open_result(text).operator: text for text in view.document.results}.get(executor or "")
    if not any(other.challenge and other.subject == looked_at for other in view.evidence.rounds):
        raise InvalidEvidence(f"the answer of {executor} does not match, and there is no challenge of it")


def _check_challenge(view: RoundView) -> None:
    """Raise unless a challenge has its number, its own seed, one of the job's results, and a committee without a party.

    1. Challenges are numbered without a gap.  2. The seed is the dispatcher's on job and number.
    3. The subject is a result of this job.  4. Whoever asked for it may, and signed for it.
    5. Neither whose result it is nor who challenges was asked for a ticket.
    """
    document, evidence = view.document, view.evidence
    numbers = [other.challenge for other in evidence.rounds if other.challenge]
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise InvalidEvidence(
            "the challenges of this job are not numbered 1, 2, ...: one is missing or twice"
        )
    if (document.tag, document.position, document.cause) != ("suspicion", "after", None):
        raise InvalidEvidence("a challenge is held under suspicion, after the result, and needs no cause")
    if document.seed is None or document.plea is None:
        raise InvalidEvidence("a challenge has a seed of its own, and somebody who asked for it")
    check_seed(
        evidence.dispatcher.address,
        evidence.dispatcher.public_key,
        evidence.job.job_id,
        document.seed.value,
        document.seed.proof,
        challenge=document.challenge,
    )
    challenged = _round_of_subject(view)
    result = open_result(document.subject or "")
    _check_plea(view, document.plea, result, challenged.tag)
    for elector in document.electorate or []:
        if elector.operator in {result.operator, document.plea.operator}:
            raise InvalidEvidence(f"{elector.operator} was asked to judge, but is a party")


def _round_of_subject(view: RoundView) -> RoundDocument:
    document = view.document
    for other in view.evidence.rounds:
        if not other.challenge and document.subject in other.results and not document.results:
            return other
    raise InvalidEvidence("the challenged result is none of this job's")


def _check_plea(view: RoundView, plea: PleaDocument, result: JobResult, tag: str) -> None:
    if plea.purpose == "appeal":
        if plea.operator != result.operator:
            raise InvalidEvidence(f"an appeal about a result of {result.operator} is its own to make")
        if not any(_found_against(other, view.document) for other in view.evidence.rounds):
            raise InvalidEvidence("no challenge before this appeal found against the result")
    elif plea.operator == result.operator:
        raise InvalidEvidence(f"{plea.operator} challenges a result of its own")
    if plea.operator is None or plea.signature is None:
        return
    row = f"{result.operator}_{result.job_id}_{tag}"
    signer = recover_typed(
        view.domain, ChallengeClaim(plea.operator, plea.purpose, row, plea.reason), plea.signature
    )
    if signer != plea.operator:
        raise InvalidSignature(f"the {plea.purpose} of {plea.operator} is signed by {signer}")


def _found_against(other: RoundDocument, appeal: RoundDocument) -> bool:
    found = other.verdict is not None and other.verdict.outcome == "mismatch"
    return found and 0 < other.challenge < appeal.challenge and other.subject == appeal.subject
