"""Steps of the protocol that tests of a session take by hand."""

from aos_operator.answers import accept_score
from aos_operator.events import DrawCall, Say
from aos_operator.session import Session
from aos_operator.stub import stub_score
from aos_operator.subjects import subject_of
from aos_operator.tasks import Scored
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, ScoreCall, Ticket
from unit.operator.world import MODEL, World, opened

STRANGER = Signer(b"\x33" * 32)


def said(event: object) -> Frame:
    assert isinstance(event, Say)
    return opened(event.text)


def refusal(event: object) -> str:
    """The reason in a reply of 400."""
    result = said(event).result
    assert result is not None
    assert result["code"] == 400
    return str(result["message"])


def scored(call: ScoreCall) -> Scored:
    """What an honest verifier's stub worker makes of a call."""
    subject = subject_of(call)
    return accept_score(stub_score(call.job, MODEL.sha256, subject), call, subject)


def ticket_in(world: World, session: Session, request: Dispatch | ScoreCall) -> Ticket:
    """The ticket that this operator gives in the draw before this request."""
    call = session.receive(world.request("draw", world.draw(request).to_json()))
    assert isinstance(call, DrawCall)
    result = opened(session.ticket(call, 8)).result
    assert result is not None
    return parse_message(Ticket, result["ticket"])
