"""Checks of how a round came about: its place among the job's rounds, tickets, committee, roles and audit."""

from collections.abc import Iterator

from aos_protocol import sortition
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence_document import ElectorDocument, RegistryDocument, RoundDocument
from aos_protocol.evidence_view import Planned, RoundView, is_given_up

_STRENGTH = {"": 0, "suspicion": 1, "malicious": 2}


def draw_checks(view: RoundView) -> Iterator[Planned]:
    """Plan the checks of a round's draw."""
    document, undrawn = view.document, view.undrawn
    asked = document.electorate or []
    valid = sum(not elector.reason for elector in asked)
    seated = ", ".join(seat.operator for seat in document.committee)
    yield Planned(
        "AOS-TICKET-1",
        undrawn,
        f"{valid} good tickets of {len(asked)} operators asked",
        lambda: _check_tickets(view),
    )
    registered, most = len(view.entries), sortition.electorate_size(document.tag)
    if registered > most:
        yield Planned("AOS-ELECTORATE-1", undrawn, _electorate(view), lambda: _check_electorate(view))
    yield Planned(
        "AOS-COMMITTEE-1",
        undrawn,
        f"the committee follows from the draw: {seated}",
        lambda: _check_committee(view),
    )
    yield Planned("AOS-ROLE-1", undrawn, _roles(view), lambda: _check_roles(view))
    if view.is_own and not document.tag:
        yield Planned("AOS-AUDIT-1", undrawn, _audit(view), lambda: _check_audit(view))


def _check_tickets(view: RoundView) -> None:
    for elector in view.document.electorate or []:
        if elector.reason and elector.frame is not None and _is_good(view, elector):
            raise InvalidEvidence(f"the good ticket of {elector.operator} was set aside: {elector.reason}")
    if not view.tickets:
        raise InvalidEvidence("there is no good ticket")


def _is_good(view: RoundView, elector: ElectorDocument) -> bool:
    try:
        view.verified(elector)
    except ProtocolError:
        return False
    return True


def _electorate(view: RoundView) -> str:
    asked, most = len(view.document.electorate or []), sortition.electorate_size(view.document.tag)
    of_all = f"of {len(view.entries)} operators {asked} were asked"
    if asked < most:
        return f"{of_all}, which by the dispatcher's word are all that could be"
    return f"{of_all}, the first {most} by the seed of those that could be, by the dispatcher's word"


def _check_electorate(view: RoundView) -> None:
    """Raise unless no more were asked than may be, and where that many were, those whom the seed finds, in its order."""
    asked = [elector.operator for elector in view.document.electorate or []]
    most = sortition.electorate_size(view.document.tag)
    if len(asked) > most:
        raise InvalidEvidence(f"{len(asked)} operators were asked, and an electorate has {most} at most")
    if view.points is not None and list(view.points) != asked:
        raise InvalidEvidence("those who were asked are not in the order in which the seed finds them")


def _check_committee(view: RoundView) -> None:
    _check_place(view)
    _check_registry(view)
    seats = view.document.committee
    given_up = sum(map(is_given_up, seats))
    expected = view.ranking[: len(view.members) + given_up]
    if [seat.operator for seat in seats] != [candidate.operator for candidate in expected[: len(seats)]]:
        raise InvalidEvidence("the seats are not the head of the draw, in its order")
    # While a round goes on, the last replacement may not be seated yet; of an answer that nobody can score, no verifier is replaced.
    whole = view.ended and not view.unscorable
    if len(seats) < (len(expected) if whole else len(view.members)):
        raise InvalidEvidence("the committee is smaller than the draw made it")
    for seat, candidate in zip(seats, expected, strict=False):
        if seat.filled == candidate.selected:
            raise InvalidEvidence(f"{seat.operator} is not rightly marked as filled or selected")


def _check_place(view: RoundView) -> None:
    """Raise unless tag and position are the request's, or those that a tagged job of its user has brought."""
    document, rounds = view.document, view.evidence.rounds
    claim = view.request.job.claim
    for elector in document.electorate or []:
        if claim is not None and claim.made_by(elector.operator):
            raise InvalidEvidence(f"{elector.operator} was asked to judge a claim of its own")
        if view.request.job.sealed and elector.operator not in view.request.job.sealed.operators:
            raise InvalidEvidence(
                f"{elector.operator} was asked, and the prompt is not sealed to its enclave"
            )
    if view.hidden and document.tag:
        raise InvalidEvidence("a sealed or direct prompt cannot be verified under a tag")
    if sum((other.tag, other.challenge) == (document.tag, document.challenge) for other in rounds) > 1:
        raise InvalidEvidence("a job has two rounds under one tag")
    if sum(not other.challenge and other.position != "before" for other in rounds) != 1:
        raise InvalidEvidence("a job has exactly one round of its own")
    if document.challenge:
        return  # AOS-CHALLENGE-1 looks at its place
    if (document.seed, document.subject, document.plea) != (None, None, None):
        raise InvalidEvidence("only a challenge has a seed and a subject of its own, and a plea")
    if document.cause is None:
        wanted = (view.request.tag, "after" if view.request.tag else "")
        if (document.tag, document.position) != wanted:
            raise InvalidEvidence(
                "tag and position are not the request's, and no tagged job is named as their cause"
            )
    else:
        _check_cause(view, document)


def _check_cause(view: RoundView, document: RoundDocument) -> None:
    if document.cause == view.evidence.job.job_id or not document.tag or not document.position:
        raise InvalidEvidence("a round that another job has caused has that job's tag, and a position")
    if document.position == "after" and _STRENGTH[document.tag] <= _STRENGTH[view.request.tag]:
        raise InvalidEvidence("the tag that an earlier job brought is not stronger than the request's own")


def _check_registry(view: RoundView) -> None:
    """Raise unless every operator is in the registry once, with a range of its own: an equal share where there is no chain."""
    registry = view.document.registry
    if registry is None or registry.max_range != sortition.MAX_RANGE:
        raise InvalidEvidence(f"the registry's range is not {sortition.MAX_RANGE}")
    numbers = [entry.number for entry in registry.operators]
    if len(view.entries) != len(registry.operators) or numbers != sorted(set(numbers)):
        raise InvalidEvidence("an operator or a number is twice in the registry, or out of order")
    for other in view.rounds:
        for entry in registry.operators:
            if entry.operator in other.entries and other.entries[entry.operator].number != entry.number:
                raise InvalidEvidence(
                    f"{entry.operator} has another number in another round; it is given for ever"
                )
    if registry.chain is None:
        shares = [(entry.operator, entry.start, entry.end) for entry in registry.operators]
        if shares != sortition.equal_shares(list(view.entries)):
            raise InvalidEvidence("the registry does not give every operator the same share of the range")
        return
    domain = view.domain
    if (registry.chain.chain_id, registry.chain.registry) != (domain.chain_id, domain.registry):
        raise InvalidEvidence("the registry is another contract than the one that signatures are valid for")
    _check_ranges(registry)


def _check_ranges(registry: RegistryDocument) -> None:
    """Raise unless all ranges lie within the whole, and none overlaps another, as the contract has it."""
    taken = 0
    for entry in sorted(registry.operators, key=lambda entry: entry.start):
        if not taken <= entry.start < entry.end <= registry.max_range:
            raise InvalidEvidence(
                f"the range of {entry.operator} is empty, overlaps another, or is too large"
            )
        taken = entry.end


def _roles(view: RoundView) -> str:
    executor = view.executor
    verifying = f"verifiers: {sum(not is_given_up(seat) for seat in view.verifiers)}"
    if executor is None:
        return f"nobody executes, {verifying}"
    return f"{executor.operator} executes, being the first that was not given up; {verifying}"


def _check_roles(view: RoundView) -> None:
    """Raise unless the first seat not given up executes and the others verify; nobody executes a claim or a challenge.

    A seat before the executor's was given up, and may have been the executor until then, as the very first was.
    """
    executor, seats = view.executor, view.document.committee
    last = seats.index(executor) if executor is not None else (len(seats) if view.executes else -1)
    for rank, seat in enumerate(seats):
        executes = rank in {0, last} if view.executes else False
        if (rank >= last or rank == 0) and (seat.role == "executor") != executes:
            raise InvalidEvidence(f"{seat.operator} has role {seat.role}, which its place does not give")


def _audit(view: RoundView) -> str:
    if view.hidden:
        kind = "sealed" if view.sealed else "direct"
        return f"nobody can audit an answer to a {kind} prompt, and nobody was asked to"
    share = f"{view.evidence.policy.audit_ppm / 10_000:g}% of the untagged jobs"
    return f"the seed puts this job among the {share} that are audited" if view.audited else (
        f"the seed does not put this job among the {share} that are audited"
    )  # fmt: skip


def _check_audit(view: RoundView) -> None:
    seated = sum(not is_given_up(seat) for seat in view.document.committee)
    nobody_left = len(view.document.committee) == len(view.ranking)
    excused = nobody_left or view.unscorable
    if seated < min(view.minimum, len(view.members)) and view.ended and not excused:
        raise InvalidEvidence(f"it needs a committee of {view.minimum}, and has one of {seated}")
