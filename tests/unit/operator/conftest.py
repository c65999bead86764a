"""A dispatcher, sessions with it, and the parts around an operator's jobs."""

import pytest

from aos_operator import backoff
from aos_operator.events import Welcomed
from aos_operator.session import Session
from unit.operator.parts import Parts
from unit.operator.steps import said
from unit.operator.world import OFFER, OPERATOR, World


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


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Parts that no attempt waits for: the pauses between attempts have no length."""
    monkeypatch.setattr(backoff.Backoff, "next", lambda _: 0.0)
    return Parts()
