"""Direct jobs of this process: which of them wait for their clients, and the clients that have come with their prompts.

1. `expect`: a dispatch is taken; its session says until when its client may come.
2. `come`: the client's box is opened with this process's key, which is nowhere but in its memory, and held against the job's commitment.
3. `attending`: whoever works on the job waits for the `Visit`, runs it, and tells it what comes; the client takes that as sealed pieces.

Neither prompt nor answer is stored or logged here, or told to the dispatcher: what it gets are `Commitments`, and reasons that say nothing of either.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from aos_operator.backends.protocol import Piece, Queued
from aos_operator.errors import Refused
from aos_protocol.direct import AnswerSealer, Bond, Ending, Prompt, check_session, open_prompt
from aos_protocol.errors import InvalidMessage, NotSealed
from aos_protocol.job import JobSpec
from aos_protocol.messages import DirectChunk, DirectOffer, Dispatch
from aos_protocol.sealing import SealingKey
from aos_protocol.typed_data import Domain

NOBODY_CAME: Final = "the client did not come"
RESTARTED: Final = "this operator was restarted before the client came, and has another key since"
STOPPED: Final = "this operator was stopped before the client came"
"""Reasons of direct jobs without an answer."""

_LONGEST_S: Final = 3600
_MOST_WAITED_FOR: Final = 64
_UNKNOWN = "no such job waits for its prompt here: it has ended, or its session is another operator's"


def check_direct(
    dispatch: Dispatch, offer: DirectOffer | None, domain: Domain, dispatcher: str, operator: str
) -> None:
    """Raise `ProtocolError` unless a direct job comes with a session that this dispatcher signed for it, this operator, and the key that it offers."""
    session = dispatch.session
    if offer is None:
        raise InvalidMessage("this operator takes no direct jobs")
    if session is None:
        raise InvalidMessage("a direct job comes with its session")
    check_session(session, domain, dispatcher=dispatcher, job_id=dispatch.job_id)
    if (session.operator, session.model, session.seed) != (operator, dispatch.model, dispatch.seed):
        raise InvalidMessage("the session is for another operator, model or seed than the dispatch")
    if (session.key, session.url) != (offer.key, offer.url):
        raise InvalidMessage(
            "the session names another key or address than this operator's: it was restarted since"
        )
    if session.expires_at > time.time() + _LONGEST_S:
        raise InvalidMessage(f"the session may begin for more than {_LONGEST_S} seconds")


class Visit:
    """A client that has come with its prompt: the `job` to run for it, and what it is told, sealed, until `over`."""

    def __init__(self, bond: Bond, prompt: Prompt) -> None:
        self.job: JobSpec = prompt.in_place(bond.job)
        self.commitment = bond.commitment
        self.left = asyncio.Event()
        """Set when the client has gone before its answer was complete."""
        self.over = False
        self.told = ""
        self._sealer = AnswerSealer(bond, prompt)
        self._chunks: list[DirectChunk] = []
        self._news = asyncio.Event()

    def hear(self, said: Piece | Queued) -> None:
        """Tell some more text of the answer. A place in a queue is not told: a client of one operator has no other to go to."""
        if isinstance(said, Piece):
            self.tell(said.text)

    def tell(self, text: str) -> None:
        """Seal some text for the client."""
        if text:
            self.told += text
            self._add(self._sealer.text(text))

    def end(self, ending: Ending) -> None:
        """Tell the last; nothing is told after it."""
        if not self.over:
            self._add(self._sealer.end(ending))
            self.over = True

    def fail(self, reason: str) -> None:
        """Tell the client, and nobody else, why there is no answer, or no more of it."""
        self.end(Ending(error=reason))

    async def chunks(self) -> AsyncGenerator[list[DirectChunk], None]:
        """Return what was told since the last time, again and again, to the last. Whoever stops before that has left."""
        whole = False
        try:
            while not whole:
                await self._news.wait()
                self._news.clear()
                some, self._chunks = self._chunks, []
                if some:
                    whole = some[-1].last
                    yield some
        finally:
            if not whole:
                self.left.set()

    def _add(self, chunks: list[DirectChunk]) -> None:
        self._chunks += chunks
        self._news.set()


@dataclass
class _Place:
    """A direct job that is taken: its dispatch, and whoever came for it."""

    dispatch: Dispatch
    visit: Visit | None = None
    came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def left_s(self) -> float:
        """For how many seconds its client may still come."""
        session = self.dispatch.session
        return 0.0 if session is None else session.expires_at - time.time()


class DirectDesk:
    """The direct jobs of an operator, which is announced at `url` if clients reach it themselves. Its key is made afresh, and goes with it."""

    def __init__(self, operator: str, url: str | None) -> None:
        self._operator = operator
        self._key = SealingKey()
        self._places: dict[str, _Place] = {}
        self._closed = False
        self.offer = DirectOffer(key=self._key.public, url=url)

    def check_room(self, dispatch: Dispatch) -> None:
        """Raise `Refused` when too many clients are waited for already: some may never come, and others want to be served meanwhile."""
        waited_for = sum(place.visit is None and place.left_s > 0 for place in self._places.values())
        if waited_for >= _MOST_WAITED_FOR and dispatch.job_id not in self._places:
            raise Refused(429, f"{waited_for} clients of direct sessions are waited for here already")

    def expect(self, dispatch: Dispatch) -> None:
        """Let a client come for a job that was taken; of two sessions of one job, the later counts."""
        for job_id in [
            job_id for job_id, place in self._places.items() if place.left_s <= 0 and place.visit is None
        ]:
            del self._places[job_id]  # nobody works on it, or whoever does has seen that nobody came
        self._place(dispatch).dispatch = dispatch

    def waits_for(self, job_id: str) -> bool:
        """Whether a client may still come for this job."""
        place = self._places.get(job_id)
        return place is not None and place.visit is None and place.left_s > 0 and not self._closed

    def come(self, job_id: str, box: str) -> Visit:
        """Let a client in that brings this box, in base64. Raises `Refused` with what to tell it; it may try again then."""
        place = self._places.get(job_id)
        if place is None or self._closed:
            raise Refused(404, _UNKNOWN)
        if place.visit is not None:
            raise Refused(409, "the prompt of this job is here already")
        if place.left_s <= 0:
            raise Refused(410, "the session has expired: ask the dispatcher for another job")
        bond = Bond(job_id, self._operator, place.dispatch.job)
        try:
            place.visit = Visit(bond, open_prompt(self._key, box, bond))
        except NotSealed as error:
            raise Refused(400, str(error)) from error
        place.came.set()
        return place.visit

    def forget(self, job_id: str) -> None:
        """Let nobody come for a job that was cancelled, and tell whoever has."""
        place = self._places.pop(job_id, None)
        if place is not None and place.visit is not None:
            place.visit.fail("the job was cancelled")  # unless it has its end

    @asynccontextmanager
    async def attending(self, dispatch: Dispatch) -> AsyncIterator[None]:
        """Wait for the client of a job, until it has come or cannot come any more; it is attended to until this is left."""
        place = self._place(dispatch)
        try:
            while self._is_ours(dispatch) and place.visit is None and place.left_s > 0 and not self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(place.left_s):
                        await place.came.wait()
            yield
        finally:
            self.forget(dispatch.job_id)

    def visit(self, dispatch: Dispatch) -> Visit | str:
        """Return the client that has come for a job that is attended to, or the reason why none did."""
        found = self._place(dispatch).visit
        if found is not None:
            return found
        if not self._is_ours(dispatch):
            return RESTARTED
        return STOPPED if self._closed else NOBODY_CAME

    def close(self) -> None:
        """Let nobody come any more: this operator is being stopped, and its key goes with it."""
        self._closed = True
        for place in self._places.values():
            place.came.set()

    def _is_ours(self, dispatch: Dispatch) -> bool:
        """Whether the session names this process's key; one of before a restart does not."""
        return dispatch.session is not None and dispatch.session.key == self._key.public

    def _place(self, dispatch: Dispatch) -> _Place:
        return self._places.setdefault(dispatch.job_id, _Place(dispatch))
