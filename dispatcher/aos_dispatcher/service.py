"""The running dispatcher: its parts, put together once."""

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from aos_dispatcher.challenges import Challenges
from aos_dispatcher.clock import DispatcherClock
from aos_dispatcher.closing import Closing
from aos_dispatcher.database import Database
from aos_dispatcher.desk import Desk
from aos_dispatcher.driver import RoundDriver
from aos_dispatcher.enclaves import Enclaves
from aos_dispatcher.epochs import Epochs
from aos_dispatcher.evidence import EvidenceDesk
from aos_dispatcher.extras import chain_extra
from aos_dispatcher.following import Following
from aos_dispatcher.front import Front
from aos_dispatcher.hub import Hub, Peer
from aos_dispatcher.images import Images
from aos_dispatcher.jobs import Jobs, Lease
from aos_dispatcher.leases import Leases
from aos_dispatcher.limits import Limits
from aos_dispatcher.link import OperatorLink
from aos_dispatcher.log_sequencer import Sequencer
from aos_dispatcher.mesh import MISSED, Errands, Mesh
from aos_dispatcher.mesh_bus import RedisBus
from aos_dispatcher.mesh_messages import Deltas, Direct, Ended, GivenUp, Stream
from aos_dispatcher.metrics import OPERATORS_CONNECTED
from aos_dispatcher.newsroom import Newsroom
from aos_dispatcher.operators import Operators
from aos_dispatcher.posting import Posting
from aos_dispatcher.projects import Projects
from aos_dispatcher.relay import AttestationRelay
from aos_dispatcher.results import ResultIntake
from aos_dispatcher.round import Author
from aos_dispatcher.rounds import RoundLoop
from aos_dispatcher.rounds_store import RoundsStore
from aos_dispatcher.scores import ScoreIntake
from aos_dispatcher.sessions import Sessions
from aos_dispatcher.settings import Chain, DispatcherSettings
from aos_dispatcher.standing import Standing
from aos_dispatcher.streaming import METHOD, StreamIntake
from aos_dispatcher.views import Views
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.frames import Frame
from aos_protocol.identity import Signer
from aos_protocol.messages import JobScore

if TYPE_CHECKING:  # it imports web3, which a dispatcher without a chain may not have
    from aos_dispatcher.chain_link import ChainLink


@dataclass(frozen=True)
class Dispatcher:
    """Everything that endpoints and `/ws` need."""

    address: str
    settings: DispatcherSettings
    database: Database
    hub: Hub
    clock: DispatcherClock
    projects: Projects
    operators: Operators
    jobs: Jobs
    store: RoundsStore
    loop: RoundLoop
    evidence: EvidenceDesk
    link: OperatorLink
    challenges: Challenges
    standing: Standing
    views: Views
    enclaves: Enclaves
    relay: AttestationRelay
    sequencer: Sequencer
    chain: "ChainLink | None"
    leaving: asyncio.Event
    """Set once this process is being stopped: it takes on no rounds and no operators any more."""
    mesh: Mesh | None
    errands: Errands
    front: Front
    images: Images
    following: Following
    sessions: Sessions

    async def ping_database(self) -> None:
        """Raise `Unavailable` unless PostgreSQL answers."""
        async with self.database.connect() as connection:
            await connection.execute(text("select 1"))


def assemble(
    settings: DispatcherSettings, database: Database, signer: Signer, policy: AttestationPolicy | None
) -> Dispatcher:
    """Build a dispatcher that believes enclaves by this policy; nothing runs until `loop.run` does.

    Raises `DispatcherError` when a chain is configured that cannot be used here.
    """
    domain, verification = settings.chain.domain(), settings.verification
    chain = _chain_link(settings.chain, database, signer)
    hub = Hub()
    hub.on_change(lambda _operator: OPERATORS_CONNECTED.set(len(hub.here())))
    leaving = asyncio.Event()
    operators = Operators(database, chain.registry if chain else None, verification.least_evidence)
    clock, projects = DispatcherClock(database), Projects(database, settings.limits.wrong_tokens)
    store = RoundsStore(database, str(uuid.uuid4()), settings.dispatch.lease)
    challenges = Challenges(database, signer, domain, verification, settings.dispatch.job_timeout)
    closing = Closing(database, store, challenges, verification)
    mesh, leases = _mesh(settings, hub, signer, store.owner), Leases(database)
    newsroom = Newsroom(mesh, settings.limits.frame_bytes)
    sessions = Sessions.of(settings, database, store, hub, mesh)
    driver = RoundDriver(
        store,
        closing,
        hub,
        operators=operators,
        clock=clock,
        author=Author(signer, domain),
        newsroom=newsroom,
        sessions=sessions,
        settings=settings.dispatch,
    )
    streams = StreamIntake(driver.active, newsroom, mesh, settings.limits.frame_bytes)
    loop = RoundLoop(store, hub, driver, settings.dispatch, leases=leases, mesh=mesh)
    desk, enclaves, images = Desk(store, driver.active), Enclaves(policy), Images.of(settings, database)
    sequencer = Sequencer(database, signer, domain)
    results = ResultIntake(store, desk, domain, enclaves, newsroom=newsroom, blobs=images.blobs)
    scores = ScoreIntake(store, desk, domain, JobScore)
    posting = Posting({"job_result": results.accept, "job_score": scores.accept}, desk, leases, mesh)
    jobs = _jobs(settings, database, signer, clock=clock, loop=loop, owner=store.owner, newsroom=newsroom)
    return Dispatcher(
        address=signer.address,
        settings=settings,
        database=database,
        hub=hub,
        clock=clock,
        projects=projects,
        operators=operators,
        jobs=jobs,
        store=store,
        loop=loop,
        evidence=EvidenceDesk(sequencer, signer, domain, settings.chain.anchor),
        link=OperatorLink(
            signer,
            domain,
            hub,
            operators,
            Epochs(database),
            settings.limits.frame_bytes,
            posting.methods,
            {METHOD: streams.accept, **sessions.notices},
            images.asks,
            desk.keep,
            leaving,
        ),
        leaving=leaving,
        mesh=mesh,
        errands=_Errands(loop, posting, newsroom, streams, sessions),
        challenges=challenges,
        standing=Standing(sequencer, projects, verification.suspend_after),
        views=Views(database),
        enclaves=enclaves,
        relay=AttestationRelay(hub, operators, settings.dispatch.draw_timeout),
        sequencer=sequencer,
        chain=chain,
        front=Front.of(settings, database, signer, hub, operators),
        images=images,
        sessions=sessions,
        following=Following(database, newsroom, jobs),
    )


def _jobs(
    settings: DispatcherSettings,
    database: Database,
    signer: Signer,
    *,
    clock: DispatcherClock,
    loop: RoundLoop,
    owner: str,
    newsroom: Newsroom,
) -> Jobs:
    return Jobs(
        database,
        signer,
        settings.chain.domain(),
        settings.dispatch.job_timeout,
        settings.verification.audit_ppm,
        least_evidence=settings.verification.least_evidence,
        limits=Limits(settings.limits.waiting_jobs),
        clock=clock,
        loop=loop,
        lease=Lease(owner, settings.dispatch.lease),
        newsroom=newsroom,
    )


@dataclass(frozen=True)
class _Errands:
    """`mesh.Errands`: what other processes of this dispatcher want of this one."""

    loop: RoundLoop
    posting: Posting
    newsroom: Newsroom
    streams: StreamIntake
    sessions: Sessions

    def wake(self) -> None:
        self.loop.wake()

    def cancelled(self, job_id: str) -> None:
        self.loop.cancelled(job_id)

    async def take(self, peer: Peer, frame: Frame) -> None:
        await self.posting.take_here(peer, frame)

    def streamed(self, said: Stream | Deltas | GivenUp | Ended | Direct) -> None:
        match said:
            case Stream():
                self.streams.passed_on(said.rounds, said.text)
            case Direct():
                self.sessions.relays.passed_on(said.text)
            case Deltas():
                self.newsroom.hear_deltas(said.operator, said.deltas)
            case GivenUp():
                self.newsroom.hear_given_up(said.job_id, said.operator, said.reason)
            case Ended():
                self.newsroom.look_at(said.job_id)


def _mesh(settings: DispatcherSettings, hub: Hub, signer: Signer, process: str) -> Mesh | None:
    url, heartbeat = settings.cluster.redis_url, settings.cluster.heartbeat
    if url is None:
        return None
    return Mesh(
        RedisBus(url.get_secret_value(), MISSED * heartbeat),
        hub,
        signer,
        process,
        heartbeat=heartbeat,
        patience=settings.dispatch.draw_timeout,
        frame_bytes=settings.limits.frame_bytes,
    )


def _chain_link(settings: Chain, database: Database, signer: Signer) -> "ChainLink | None":
    if settings.rpc_url is None:
        return None
    with chain_extra():
        from aos_dispatcher.chain_link import ChainLink
    return ChainLink.of(settings, database, signer)
