"""A dispatcher, sessions with it, and the parts around an operator's jobs."""

from pathlib import Path

import pytest

from aos_operator import backoff
from aos_operator.events import Welcomed
from aos_operator.session import Session
from support.enclave_workers import SimulatedEnclave
from unit.operator.parts import Parts
from unit.operator.steps import said
from unit.operator.world import MODEL, OFFER, OPERATOR, TEE_OFFER, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def session(world: World) -> Session:
    """A session as it is before the first frame."""
    return Session(OPERATOR, world.signer.address, OFFER)


@pytest.fixture
def open_session(world: World, session: Session) -> Session:
    """A session that was let in."""
    connect = said(session.receive(world.challenge()))
    assert session.receive(world.welcome(connect)) == Welcomed(0)
    return session


@pytest.fixture(scope="session")
def enclave_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulator's folder, which all enclaves of these tests share."""
    return tmp_path_factory.mktemp("enclaves")


@pytest.fixture
def enclave(enclave_root: Path) -> SimulatedEnclave:
    """An enclave with keys of its own."""
    return SimulatedEnclave(enclave_root, MODEL)


@pytest.fixture
def tee_session(world: World) -> Session:
    """A session of an operator with an enclave that was let in."""
    session = Session(OPERATOR, world.signer.address, TEE_OFFER)
    connect = said(session.receive(world.challenge()))
    assert session.receive(world.welcome(connect)) == Welcomed(0)
    return session


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Parts that no attempt waits for: the pauses between attempts have no length."""
    monkeypatch.setattr(backoff.Backoff, "next", lambda _: 0.0)
    return Parts()
