"""Checks of operators' own counters over everything that they signed for a job: none is used twice, none comes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidClock, InvalidEvidence
from aos_protocol.evidence_document import RoundDocument
from aos_protocol.evidence_view import Planned, RoundView, clock_of, open_any
from aos_protocol.messages import JobResult, JobScore, Ticket


@dataclass(frozen=True)
class Statement:
    """One thing that an operator signed: its place in that operator's clock, and the frame as it was sent."""

    operator: str
    counter: int
    frame: str

    def content(self) -> str:
        """Return the SHA-256 hex of what was said: whoever sends the same again, or signs it afresh, says nothing else.

        Raises `ProtocolError` for a bad frame.
        """
        frame = open_any(self.frame)
        said = frame.params[0] if frame.params else (frame.result or {}).get("ticket")
        if not isinstance(said, dict):
            raise InvalidEvidence(f"a frame of {self.operator} says nothing")
        kind = frame.method or "ticket"
        return digest({"kind": kind, "said": {key: said[key] for key in said if key != "signature"}})


def clock_checks(views: Sequence[RoundView]) -> Iterator[Planned]:
    """Plan the check of every operator's counters over all rounds of a job."""
    signed = sum(_signed(view.document) for view in views)
    yield Planned(
        "AOS-CLOCK-2",
        "" if signed else "nothing is signed by an operator yet",
        f"no operator used an entry of its clock twice, nor one that had been seen: {signed} signed statements",
        lambda: _check_counters(views),
    )


def statements_of(views: Sequence[RoundView]) -> list[Statement]:
    """Return all that operators signed in the rounds of a document and that counts, by their entry for it.

    Raises `ProtocolError`, and `KeyError` for an operator without a number.
    """
    return [statement for view in views for statement, _ in _statements(view)]


def equivocation(first: Statement, second: Statement) -> bool:
    """Whether two statements prove that their operator said two different things as one event. Raises `ProtocolError`."""
    same = (first.operator, first.counter) == (second.operator, second.counter)
    return same and first.frame != second.frame and first.content() != second.content()


def _signed(document: RoundDocument) -> int:
    tickets = [elector for elector in document.electorate or [] if not elector.reason]
    return len(tickets) + len(document.results) + len(document.scores)


def _statements(view: RoundView) -> Iterator[tuple[Statement, int]]:
    """Each statement of a round, with the own counter that the dispatcher had seen when it asked for it."""
    document = view.document
    drawn, dispatched = clock_of(document.draw_clock), clock_of(document.dispatch_clock)
    texts = {elector.operator: elector.frame or "" for elector in document.electorate or []}
    said: list[tuple[Ticket | JobResult | JobScore, str]] = [
        (ticket, texts[operator]) for operator, (ticket, _) in view.tickets.items()
    ]
    said += zip(view.results, document.results, strict=True)
    said += zip(view.scores, document.scores, strict=True)
    for message, text in said:
        number = view.entries[message.operator].number
        seen = (drawn if isinstance(message, Ticket) else dispatched).get(number)
        yield Statement(message.operator, clock_of(message.clock).get(number), text), seen


def _check_counters(views: Sequence[RoundView]) -> None:
    known: dict[tuple[str, int], Statement] = {}
    for view in views:
        for statement, seen in _statements(view):
            if statement.counter <= seen:
                raise InvalidClock(
                    f"{statement.operator} signed its event {statement.counter} when {seen} of them had been seen: a replay"
                )
            before = known.setdefault((statement.operator, statement.counter), statement)
            if equivocation(before, statement):
                raise InvalidClock(
                    f"{statement.operator} signed two different things as its event {statement.counter}"
                )
