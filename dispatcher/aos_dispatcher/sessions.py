"""Direct sessions: who is to run a direct job, told to its client, and kept for whichever process it asks (docs/protocol.md).

1. `offer`: a direct job's executor is called with a session, signed for the key that it announced.
2. `accepted`: it has taken the job and signed that the key is its own. From then on nobody can take its place: the client may have its session.
3. `wait`: whoever submitted the job is told; the process that leads the round may be another one.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import text

from aos_dispatcher.database import Database
from aos_dispatcher.errors import Gone
from aos_dispatcher.events import wait
from aos_dispatcher.hub import Hub, Peer
from aos_dispatcher.mesh import Mesh
from aos_dispatcher.round import ActiveRound
from aos_dispatcher.rounds_store import RoundsStore
from aos_dispatcher.sessions_relay import Relays
from aos_dispatcher.settings import DispatcherSettings
from aos_dispatcher.settings import Sessions as Settings
from aos_dispatcher.tables import JsonObject
from aos_protocol.direct import check_acceptance, sign_session, unsigned_session
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.messages import Session

log = structlog.get_logger()

_LOOK_S: Final = 0.25  # how often a session is looked for that another process makes
_FOUND: Final = text(
    """
    select jobs.status, jobs.reason, rounds.session from jobs
    join rounds on rounds.job_id = jobs.id and rounds.challenge = 0 and rounds.position <> 'before'
    where jobs.id = :id
    """
)


@dataclass(frozen=True)
class Given:
    """A session, and the frame in which its operator accepted it."""

    session: Session
    accepted: str

    def to_json(self) -> JsonObject:
        """Return what is stored, and told to the client."""
        return {"session": self.session.to_json(), "accepted": self.accepted}


class Sessions:
    """The sessions of direct jobs, and the answers to their clients that pass through this process."""

    def __init__(self, settings: Settings, database: Database, store: RoundsStore, relays: Relays) -> None:
        self.relays = relays
        self._settings = settings
        self._database = database
        self._store = store
        self._waiting: dict[str, list[asyncio.Event]] = {}

    @classmethod
    def of(
        cls, settings: DispatcherSettings, database: Database, store: RoundsStore, hub: Hub, mesh: Mesh | None
    ) -> "Sessions":
        """Put together the sessions of a dispatcher."""
        relays = Relays(mesh, store.owner, settings.limits.frame_bytes)
        hub.on_change(lambda operator: relays.lost(operator) if hub.get(operator) is None else None)
        return cls(settings.sessions, database, store, relays)

    @property
    def notices(self) -> Mapping[str, Callable[[Frame], None]]:
        """What operators say of direct jobs without a clock, by method, and what takes it in."""
        return {"direct_chunks": self.relays.accept}

    def offer(self, round_: ActiveRound, peer: Peer) -> Session:
        """Return the session with which an executor is called; of one that has accepted, the one that it accepted.

        Raises `InvalidMessage` when it has another key since, or takes no direct jobs any more.
        """
        direct, facts = peer.direct, round_.facts
        if direct is None:
            raise InvalidMessage("it takes no direct jobs any more")
        if round_.session is not None:
            if round_.session.key != direct.key:
                raise InvalidMessage("its session is void: it was restarted since, and has another key")
            return round_.session
        session = unsigned_session(
            job_id=facts.job_id,
            dispatcher=round_.author.signer.address,
            operator=peer.address,
            model=facts.model,
            seed=facts.job_seed,
            key=direct.key,
            url=direct.url,
            expires_at=int(time.time() + self._settings.begin),
        )
        return sign_session(round_.author.signer, round_.author.domain, session)

    async def accepted(self, round_: ActiveRound, call: JsonObject, frame: Frame) -> None:
        """Keep the session that was in a call, if the reply accepts it. Raises `ProtocolError`, and `LeaseLost` or `Unavailable`."""
        session = parse_message(Session, call.get("session"))
        check_acceptance(session, frame.text)
        if round_.session is not None:
            return
        await self._store.session_given(round_.facts, Given(session, frame.text).to_json())
        round_.session = session
        round_.committee.bind()
        for waiting in self._waiting.get(session.job_id, ()):
            waiting.set()
        log.info("session given", job_id=session.job_id, operator=session.operator, url=session.url)

    async def wait(self, job_id: str) -> Given | None:
        """Return a job's session as soon as there is one; None when that takes too long. Raises `Gone` when the job has ended."""
        event = asyncio.Event()
        self._waiting.setdefault(job_id, []).append(event)
        until = time.monotonic() + self._settings.wait
        try:
            while (given := await self.of_job(job_id)) is None and time.monotonic() < until:
                await wait(event, min(_LOOK_S, until - time.monotonic()))
                event.clear()
        finally:
            self._waiting[job_id].remove(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
        return given

    async def of_job(self, job_id: str) -> Given | None:
        """Return the session of an open job; None before there is one. Raises `Gone` when the job has ended."""
        async with self._database.connect() as connection:
            row = (await connection.execute(_FOUND, {"id": job_id})).one()
        if row.status not in {"created", "dispatched"}:
            raise Gone(f"the job has ended: {row.reason or row.status}")
        if row.session is None:
            return None
        return Given(parse_message(Session, row.session["session"]), row.session["accepted"])
