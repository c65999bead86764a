"""What comes of streamed jobs while they run, on its way to the dispatcher: collected by job, and sent in groups under one signature.

1. Text that comes when nothing was sent for `GROUP_S` leaves at once; what comes sooner leaves together when that time is over.
2. What comes while a slow connection still takes the last group is joined: a job never keeps more than its own text.
3. What was on a lost connection is lost. On the next one each job begins a new run, with all its text from the start: nobody can know how much of it
   arrived, and the dispatcher skips what it has.
4. A job that is run again begins a new run, too. Nothing of this is durable: the result has all.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from pydantic import ValidationError

from aos_operator.backends.protocol import Piece, Queued
from aos_operator.errors import AnswerRejected, LinkLost
from aos_operator.tasks import Outcome, Request, TaskKey
from aos_protocol.canonical import JsonObject
from aos_protocol.messages import Delta, Dispatch, JobStream, TokenLogprob

GROUP_S: Final = 0.005
"""For how long after a sending what comes is collected: so one signature serves many tokens, and nobody reads faster than that."""

_MOST_DELTAS: Final = 256
_MOST_CHARACTERS: Final = 128 << 10  # of one notice; each may have six bytes
_LOGPROB: Final = 2048  # characters that count for a token's probability with those of its rivals

_log = structlog.get_logger(__name__)


class Notices(Protocol):
    """Where notices go. `connection` is another number on every connection."""

    @property
    def connection(self) -> int:
        """Return the number of the connection that is open, or was last."""
        ...

    async def notice(self, method: str, param: JsonObject) -> None:
        """Hand a notice to the connection; returns when that has taken it. Raises `LinkLost`."""
        ...


@dataclass(eq=False)
class Telling:
    """What has come of one job, in the run that it is in; pieces from `sent` on, and `start` characters, are still to be sent."""

    dispatch: Dispatch
    streams: "Streams"
    pieces: list[Piece] = field(default_factory=list)
    sent: int = 0
    start: int = 0
    position: int | None = None

    def begin(self) -> None:
        """Begin a run: the backend is asked, or asked again."""
        self.pieces.clear()
        self.rewind()

    def rewind(self) -> None:
        """Have everything sent once more: what of it arrived is not known."""
        self.sent = self.start = 0

    def hear(self, said: Piece | Queued) -> None:
        """Take what comes of the job; it leaves as soon as there is room for it."""
        if isinstance(said, Queued):
            self.position = said.position
        else:
            self.position = None
            self.pieces.append(said)
        self.streams.send(self)

    def check(self, outcome: Outcome) -> None:
        """Raise `AnswerRejected` unless an answer begins with what was streamed of it: the dispatcher would refuse it, too."""
        told = "".join(piece.text for piece in self.pieces)
        shown = [one.to_json() for piece in self.pieces for one in piece.logprobs]
        if not outcome.result.startswith(told) or (outcome.logprobs or [])[: len(shown)] != shown:
            raise AnswerRejected("the backend's answer is another one than what it has streamed")

    @property
    def due(self) -> bool:
        """True while there is something to send."""
        return self.sent < len(self.pieces) or self.position is not None

    def next(self) -> Delta | None:
        """Return what is to be sent now, as much of it as one notice holds, and count it as sent; None for what no notice can carry."""
        if self.sent == len(self.pieces):
            position, self.position = self.position, None
            return self._delta("", [], position)
        room, taken = _MOST_CHARACTERS, list[Piece]()
        while self.sent < len(self.pieces) and room > 0:
            piece = self.pieces[self.sent]
            room -= len(piece.text) + _LOGPROB * len(piece.logprobs)
            taken.append(piece)
            self.sent += 1
        text = "".join(piece.text for piece in taken)
        delta = self._delta(text, [one for piece in taken for one in piece.logprobs], None)
        self.start += len(text)
        return delta

    def _delta(self, text: str, logprobs: list[TokenLogprob], position: int | None) -> Delta | None:
        try:
            return Delta(
                job_id=self.dispatch.job_id,
                tag=self.dispatch.tag,
                start=self.start,
                text=text,
                logprobs=logprobs or None,
                position=position,
            )
        except ValidationError:
            # After this gap the dispatcher takes nothing more of the run; the result says what can be said of it.
            _log.warning("text that no message can carry is not streamed", job_id=self.dispatch.job_id)
            return None


class Streams:
    """The streamed jobs that are run now; `run` it, to have sent what comes of them."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._tellings: list[Telling] = []
        self._due: list[Telling] = []
        self._some = asyncio.Event()
        self._connection = notices.connection

    @contextmanager
    def telling(self, dispatch: Dispatch) -> Iterator[Telling | None]:
        """Tell of a job meanwhile; None for one of which nothing is to be told."""
        if dispatch.job.stream is None or dispatch.role != "executor":
            yield None
            return
        telling = Telling(dispatch, self)
        self._tellings.append(telling)
        try:
            yield telling
        finally:
            # What was not sent yet comes with the result.
            self._tellings.remove(telling)
            if telling in self._due:
                self._due.remove(telling)

    def retell(self, request: Request) -> None:
        """Tell of a job from the start once more: it was sent again, so what was told of it may have got lost."""
        for telling in self._tellings:
            if TaskKey.of(telling.dispatch) == TaskKey.of(request):
                telling.rewind()

    def send(self, telling: Telling) -> None:
        """Have sent what has come of a job."""
        if telling not in self._due:
            self._due.append(telling)
            self._some.set()

    async def run(self) -> None:
        """Send what comes, for ever."""
        clock = asyncio.get_running_loop().time
        sent_at = float("-inf")
        while True:
            self._some.clear()
            if not self._due:
                await self._some.wait()
            if (early := sent_at + GROUP_S - clock()) > 0:
                await asyncio.sleep(early)
            try:
                if deltas := self._take():
                    await self._notices.notice("job_stream", JobStream(deltas=deltas).to_json())
            except LinkLost:
                self._due.clear()
                _log.debug("what came of streamed jobs was lost with the connection")
            sent_at = clock()

    def _take(self) -> list[Delta]:
        """Take what is due for one notice."""
        if self._connection != self._notices.connection:
            self._connection = self._notices.connection
            for telling in self._tellings:
                telling.rewind()
        deltas: list[Delta] = []
        room = _MOST_CHARACTERS
        for telling in list(self._due):
            if len(deltas) == _MOST_DELTAS or room <= 0:
                break
            if (delta := telling.next()) is not None:
                deltas.append(delta)
                room -= len(delta.text) + _LOGPROB * len(delta.logprobs or ())
            if not telling.due:
                self._due.remove(telling)
        return deltas
