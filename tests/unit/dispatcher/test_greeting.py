"""The handshake without a network: only the challenged operator, speaking for itself, gets in."""

from typing import Any

import pytest

from aos_dispatcher.errors import Refused
from aos_dispatcher.link import Greeting
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame, seal_object, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import Challenge
from aos_protocol.typed_data import Domain

DISPATCHER, OPERATOR, STRANGER = Signer(b"\x01" * 32), Signer(b"\x02" * 32), Signer(b"\x03" * 32)
DOMAIN = Domain(31337, "0x" + "0" * 40)


def answer(
    greeting: Greeting, *, frame_by: Signer = OPERATOR, sealed_by: Signer = OPERATOR, **changes: Any
) -> Frame:
    challenge = parse_message(Challenge, open_frame(greeting.frame.text).params[0])
    said = {
        "operator": OPERATOR.address,
        "workers": ["opml"],
        "models": [{"name": "tiny", "sha256": "ab" * 32}],
        "nonce": challenge.nonce,
    } | changes
    return seal_request(frame_by, "1", "connect", [seal_object(sealed_by, said)])


def test_a_challenge_says_who_asks_and_in_which_domain() -> None:
    challenge = parse_message(Challenge, open_frame(Greeting(DISPATCHER, DOMAIN).frame.text).params[0])
    assert (challenge.dispatcher, challenge.chain_id) == (DISPATCHER.address, 31337)
    assert challenge.public_key == DISPATCHER.public_key.hex()


def test_every_challenge_is_fresh() -> None:
    greetings = [open_frame(Greeting(DISPATCHER, DOMAIN).frame.text).params[0]["nonce"] for _ in range(8)]
    assert len(set(map(str, greetings))) == 8


def test_the_right_answer_gets_in() -> None:
    greeting = Greeting(DISPATCHER, DOMAIN)
    assert greeting.check(answer(greeting)).operator == OPERATOR.address


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_by": STRANGER},
        {"sealed_by": STRANGER},
        {"operator": STRANGER.address},
        {"nonce": "0" * 64},
        {"workers": []},
        {"workers": ["gpu"]},
        {"models": [{"name": "tiny"}]},
        {"extra": 1},
    ],
)
def test_any_other_answer_is_refused(wrong: dict[str, Any]) -> None:
    greeting = Greeting(DISPATCHER, DOMAIN)
    with pytest.raises((Refused, ProtocolError)):
        greeting.check(answer(greeting, **wrong))


def test_an_answer_to_another_challenge_is_refused() -> None:
    first, second = Greeting(DISPATCHER, DOMAIN), Greeting(DISPATCHER, DOMAIN)
    with pytest.raises(Refused, match="another challenge"):
        second.check(answer(first))


def test_the_first_frame_must_be_connect() -> None:
    greeting = Greeting(DISPATCHER, DOMAIN)
    with pytest.raises(Refused, match="must be 'connect'"):
        greeting.check(seal_request(OPERATOR, "1", "job_result", [{}]))
