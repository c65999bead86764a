"""The running dispatcher: its parts, put together once."""

import uuid
from dataclasses import dataclass

from sqlalchemy import text

from aos_dispatcher.clock import DispatcherClock
from aos_dispatcher.database import Database
from aos_dispatcher.driver import RoundDriver
from aos_dispatcher.evidence import EvidenceDesk
from aos_dispatcher.hub import Hub
from aos_dispatcher.jobs import Jobs
from aos_dispatcher.link import OperatorLink
from aos_dispatcher.metrics import OPERATORS_CONNECTED
from aos_dispatcher.operators import Operators
from aos_dispatcher.projects import Projects
from aos_dispatcher.results import ResultDesk
from aos_dispatcher.rounds import RoundLoop
from aos_dispatcher.rounds_store import RoundsStore
from aos_dispatcher.settings import DispatcherSettings
from aos_protocol.identity import Signer


@dataclass(frozen=True)
class Dispatcher:
    """Everything that endpoints and `/ws` need."""

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

    async def ping_database(self) -> None:
        """Raise `Unavailable` unless PostgreSQL answers."""
        async with self.database.connect() as connection:
            await connection.execute(text("select 1"))


def assemble(settings: DispatcherSettings, database: Database, signer: Signer) -> Dispatcher:
    """Build a dispatcher; nothing runs until `loop.run` does."""
    domain = settings.chain.domain()
    hub = Hub()
    hub.on_change(lambda _operator: OPERATORS_CONNECTED.set(len(hub)))
    clock, operators = DispatcherClock(database), Operators(database)
    store = RoundsStore(database, str(uuid.uuid4()), settings.dispatch.lease)
    driver = RoundDriver(store, hub, operators, clock, settings.dispatch)
    loop = RoundLoop(store, hub, driver, settings.dispatch)
    desk = ResultDesk(store, driver.active, domain)
    return Dispatcher(
        settings=settings,
        database=database,
        hub=hub,
        clock=clock,
        projects=Projects(database),
        operators=operators,
        jobs=Jobs(database, signer, domain, settings.dispatch.job_timeout),
        store=store,
        loop=loop,
        evidence=EvidenceDesk(database, signer, domain),
        link=OperatorLink(
            signer, domain, hub, operators, settings.limits.frame_bytes, desk.accept, desk.keep
        ),
    )
