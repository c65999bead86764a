"""What one follower of a job has been given of its answer, and what it is given next: state machines without I/O.

1. Text comes in *runs*: one begins with the delta that starts at 0, and every other delta continues it at its end. What does neither is ignored: it
   came twice, or something before it was lost, and the answer has all of it in the end.
2. A new run (the operator was connected again, or does the job again) may repeat what was given out. It may not contradict it.
3. Another operator's run counts only while nothing was given out.
4. The signed answer must begin with what was given out. Its rest is the last piece.

Whatever comes, what is given out is the beginning of the signed answer, or the end is `Broken`.
"""

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from aos_protocol.messages import Delta, JobResult, TokenLogprob

_LOGPROB = 64
"""Characters that count for each probability of a token: about what it takes as JSON."""


@dataclass(frozen=True)
class Piece:
    """More of the answer's text, with the logprobs of its tokens as far as they have come."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Queued:
    """The job waits for a place on its model, as the `position`-th, from 1."""

    position: int


@dataclass(frozen=True)
class Answered:
    """The executor's answer, verified and stored; all pieces together are its text. Verdicts follow later."""

    result: JobResult


@dataclass(frozen=True)
class Broken:
    """There will be no answer, or another one than what was given out. `status` is the HTTP status that says so; the job has ended."""

    reason: str
    status: int


News: TypeAlias = Piece | Queued | Answered | Broken


class Reading:
    """What one follower has been given, and will be. A run that has more than `most` characters is not taken in beyond that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: list[str] = []
        self._given_logprobs: list[TokenLogprob] = []
        self._source: str | None = None
        self._fresh: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._repeats = False
        self._length = 0
        self._size = 0
        self._position: int | None = None
        self._end: Answered | Broken | None = None
        self.gave_up = False
        """True once this follower itself has found that the stream cannot go on: then nobody else has ended the job."""

    @property
    def over(self) -> bool:
        """True when nothing that may come changes anything."""
        return self._end is not None

    def told(self, operator: str, delta: Delta) -> None:
        """Take in what the job's executor has said of it, by the word of whoever leads the job."""
        if self._end is not None:
            return
        if operator != self._source and not self._change(operator):
            return
        if delta.position is not None:
            self._position = None if self._length else delta.position
            return
        if delta.start == 0:
            self._begin()
        size = len(delta.text) + _size(delta)
        if delta.start != self._length or self._size + size > self._most:
            return
        self._size += size
        self._length += len(delta.text)
        self._position = None
        self._logprobs += delta.logprobs or ()
        text = self._beyond(delta) if self._repeats else delta.text
        if text:
            self._fresh.append(text)

    def given_up(self, operator: str, reason: str) -> None:
        """Take in that the round goes on without this operator."""
        if self._end is not None or operator != self._source:
            return
        if self._given:
            self.fail(f"the operator that streamed the answer was given up: {reason}", HTTPStatus.BAD_GATEWAY)
        else:
            self._source = None
            self._begin()

    def answered(self, result: JobResult) -> None:
        """Take in the signed answer; what was not given out of it is the last piece."""
        if self._end is not None:
            return
        given, logprobs = self._given_out(), result.logprobs or []
        count = len(self._given_logprobs)
        if not result.result.startswith(given) or logprobs[:count] != self._given_logprobs:
            self.fail("the signed answer is another one than what was streamed", HTTPStatus.BAD_GATEWAY)
            return
        rest = result.result[len(given) :]
        self._fresh, self._logprobs = [rest] if rest else [], list(logprobs)
        self._repeats, self._position, self._end = False, None, Answered(result)

    def ended(self, reason: str, status: int) -> None:
        """Take in that the job has ended without an answer."""
        if self._end is None:
            self._begin()
            self._repeats, self._position, self._end = False, None, Broken(reason, status)

    def fail(self, reason: str, status: int) -> None:
        """Give the stream up, though the job has not ended."""
        if self._end is None:
            self.gave_up = True
            self.ended(reason, status)

    def next(self) -> News | None:
        """Return what to give now, all that has come since the last time together; None when there is nothing yet."""
        logprobs = self._logprobs[len(self._given_logprobs) :]
        if not self._repeats and (self._fresh or logprobs):
            text = "".join(self._fresh)
            self._fresh.clear()
            self._given.append(text)
            self._given_logprobs += logprobs
            return Piece(text, tuple(logprobs))
        if self._position is not None:
            position, self._position = self._position, None
            return Queued(position)
        return self._end

    def _change(self, operator: str) -> bool:
        """Let another operator take over, if nothing was given out; else give the stream up."""
        if self._given:
            self.fail("another operator took over after text had been streamed", HTTPStatus.BAD_GATEWAY)
            return False
        self._source = operator
        self._begin()
        return True

    def _begin(self) -> None:
        """Begin a run: nothing of the last one counts but what was given out."""
        self._fresh.clear()
        self._logprobs.clear()
        self._length = self._size = 0
        self._repeats = bool(self._given_out())

    def _beyond(self, delta: Delta) -> str:
        """Hold the delta of a run that repeats what was given out against that; return what goes beyond it."""
        given = self._given_out()
        known = given[delta.start : self._length]
        if not delta.text.startswith(known):
            self.fail(
                "the operator did the job again, with another answer than what was streamed",
                HTTPStatus.BAD_GATEWAY,
            )
            return ""
        self._repeats = self._length < len(given)
        return delta.text[len(known) :]

    def _given_out(self) -> str:
        """Return all text that was given out, which is put together once for all who ask in a row."""
        if len(self._given) > 1:
            self._given = ["".join(self._given)]
        return self._given[0] if self._given else ""


def _size(delta: Delta) -> int:
    """Return how much room a delta's logprobs take, in characters."""
    return sum(
        _LOGPROB * (1 + len(one.top)) + len(one.token) + sum(len(token) for token, _ in one.top)
        for one in delta.logprobs or ()
    )


class Told:
    """What the executor of a round has said of its answer so far, as a digest: whoever leads the round holds the signed answer against that."""

    def __init__(self) -> None:
        self._operator = ""
        self._begin()

    def add(self, operator: str, delta: Delta) -> None:
        """Take in a delta. After a gap nothing is known until a run begins anew."""
        if delta.position is not None:
            return
        if operator != self._operator or delta.start == 0:
            self._operator = operator
            self._begin()
        if delta.start == self._length:
            self._length += len(delta.text)
            self._digest.update(delta.text.encode())

    def agrees(self, operator: str, answer: str) -> bool:
        """Whether an operator's answer begins with what it has streamed last."""
        if operator != self._operator or self._length == 0:
            return True
        beginning = answer[: self._length].encode()
        return hashlib.sha256(beginning).digest() == self._digest.digest()

    def _begin(self) -> None:
        self._length = 0
        self._digest = hashlib.sha256()
