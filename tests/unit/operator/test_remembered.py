"""What an operator verifies or makes once a job: good seeds, and proofs of its own. What is wrong is found out every time."""

from typing import Any

import pytest

from aos_operator import session as session_module
from aos_operator import tickets
from aos_operator.events import DrawCall, JobCall
from aos_operator.session import Session
from aos_protocol import vrf
from aos_protocol.identity import Signer
from unit.operator.steps import refusal
from unit.operator.world import OPERATOR, World


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What proofs of others are verified, from now on."""
    session_module._check_seed.cache_clear()
    seen: list[bytes] = []
    verify = vrf.verify

    def counted(public_key: bytes, alpha: bytes, proof: bytes) -> bytes:
        seen.append(alpha)
        return verify(public_key, alpha, proof)

    monkeypatch.setattr(vrf, "verify", counted)
    return seen


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is proved, from now on."""
    tickets._proof.cache_clear()
    seen: list[bytes] = []
    prove = vrf.prove

    def counted(signer: Signer, alpha: bytes) -> bytes:
        seen.append(alpha)
        return prove(signer, alpha)

    monkeypatch.setattr(vrf, "prove", counted)
    return seen


def test_a_seed_is_verified_in_the_draw_and_not_again_in_the_dispatch(
    world: World, open_session: Session, verified: list[bytes]
) -> None:
    job = world.job()
    verified.clear()
    assert isinstance(open_session.receive(world.request("draw", world.draw(job).to_json())), DrawCall)
    assert isinstance(open_session.receive(world.request("dispatch_job", job.to_json())), JobCall)
    assert len(verified) == 1


def test_a_dispatch_without_a_draw_has_its_seed_verified(
    world: World, open_session: Session, verified: list[bytes]
) -> None:
    job = world.job()
    verified.clear()
    assert isinstance(open_session.receive(world.request("dispatch_job", job.to_json())), JobCall)
    assert len(verified) == 1


@pytest.mark.parametrize("lie", ["seed", "seed_proof", "job_id"])
def test_a_good_seed_vouches_for_nothing_else(
    world: World, open_session: Session, verified: list[bytes], lie: str
) -> None:
    job, other = world.job(), world.job("another prompt")
    for known in (job, other):
        open_session.receive(world.request("draw", world.draw(known).to_json()))
    for _ in range(2):  # nor is what failed once let through later
        verified.clear()
        wrong: dict[str, Any] = {lie: getattr(other, lie)}
        refused = refusal(open_session.receive(world.request("draw", world.draw(job, **wrong).to_json())))
        assert "seed" in refused or "proof" in refused
        assert len(verified) == 1


def test_a_ticket_is_proved_once_for_the_draw_and_the_result(world: World, proved: list[bytes]) -> None:
    job, other = world.job(), world.job("another prompt")
    proved.clear()
    first = [tickets.draw_ticket(OPERATOR, request) for request in (world.draw(job), job, job)]
    assert len(proved) == 1
    assert first[0] == first[1] == first[2]
    assert tickets.draw_ticket(OPERATOR, other) != first[0]
    assert len(proved) == 2


def test_a_key_does_not_get_another_key_s_proof(world: World, proved: list[bytes]) -> None:
    job, twin = world.job(), Signer(OPERATOR.secret)
    proved.clear()
    mine, others = tickets.draw_ticket(OPERATOR, job), tickets.draw_ticket(Signer(b"\x66" * 32), job)
    assert mine.vrf_proof != others.vrf_proof
    assert tickets.draw_ticket(twin, job) == mine
