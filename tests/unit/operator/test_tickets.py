"""Tickets: a function of key and job."""

from hypothesis import given
from hypothesis import strategies as st

from aos_operator.tickets import draw_ticket
from aos_protocol.sortition import MAX_RANGE, ticket_value
from aos_protocol.verification import check_ticket_proof
from unit.operator.world import OPERATOR, World

WORLD = World()
JOB = WORLD.job()


def test_a_dispatch_gives_the_ticket_of_its_draw() -> None:
    assert draw_ticket(OPERATOR, JOB) == draw_ticket(OPERATOR, WORLD.draw(JOB))


def test_its_proof_holds() -> None:
    ticket = draw_ticket(OPERATOR, JOB)
    check_ticket_proof(OPERATOR.address, ticket, bytes.fromhex(JOB.seed), JOB.job.prompt_hash())


def test_the_threshold_itself_is_not_below_it() -> None:
    value = ticket_value(bytes.fromhex(draw_ticket(OPERATOR, JOB).vrf_random_value))
    assert not draw_ticket(OPERATOR, WORLD.draw(JOB, range_end=value)).selected
    assert draw_ticket(OPERATOR, WORLD.draw(JOB, range_end=value + 1)).selected


@given(st.integers(0, MAX_RANGE))
def test_it_is_selected_exactly_below_its_threshold(end: int) -> None:
    ticket = draw_ticket(OPERATOR, WORLD.draw(JOB, range_end=end))
    assert ticket.selected == (ticket_value(bytes.fromhex(ticket.vrf_random_value)) < end)
