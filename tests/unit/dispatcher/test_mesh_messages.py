"""The seal of messages between processes: who holds no key of the dispatcher's makes none, changes none and repeats none."""

import pytest

from aos_dispatcher import mesh_messages
from aos_dispatcher.mesh_messages import (
    ALL,
    Cancelled,
    Gone,
    InvalidMeshMessage,
    Presence,
    Seal,
    State,
    Wake,
)
from aos_protocol.identity import Signer
from aos_protocol.messages import ServedModel

DISPATCHER, STRANGER = Signer(b"\x01" * 32), Signer(b"\x02" * 32)


@pytest.fixture
def mine() -> Seal:
    return Seal(DISPATCHER, "mine")


@pytest.fixture
def other() -> Seal:
    return Seal(DISPATCHER, "other")


def test_what_one_process_closes_the_other_opens(mine: Seal, other: Seal) -> None:
    said = State(
        operators=[
            Presence(
                address="0xA",
                number=2,
                epoch=7,
                serves=[("opml", ServedModel(name="tiny", sha256="ab" * 32))],
            )
        ]
    )
    opened = other.open(mine.close(ALL, said))
    assert (opened.origin, opened.to, opened.said) == ("mine", ALL, said)
    assert other.open(mine.close("other", Wake())).said == Wake()


def test_another_key_makes_nothing(other: Seal) -> None:
    with pytest.raises(InvalidMeshMessage, match="not made with this dispatcher's key"):
        other.open(Seal(STRANGER, "mine").close(ALL, Wake()))


@pytest.mark.parametrize("text", ["", "{}", "x" * 64, "00" * 32 + "{}", "é" * 70, "00" * 32 + "\ufffd"])
def test_what_is_no_message_is_refused(other: Seal, text: str) -> None:
    with pytest.raises(InvalidMeshMessage):
        other.open(text)


def test_nothing_in_a_message_can_be_changed(mine: Seal, other: Seal) -> None:
    text = mine.close("other", Cancelled(job_id="ab" * 32))
    for at in range(0, len(text), 7):
        changed = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        with pytest.raises(InvalidMeshMessage):
            other.open(changed)
    assert other.open(text).said == Cancelled(job_id="ab" * 32)


def test_a_message_counts_once_and_in_order(mine: Seal, other: Seal) -> None:
    first, second = mine.close(ALL, Wake()), mine.close(ALL, Gone(address="0xA", epoch=1))
    other.open(second)
    for old in (second, first):
        with pytest.raises(InvalidMeshMessage, match="came before"):
            other.open(old)


def test_a_message_for_another_process_is_not_taken(mine: Seal, other: Seal) -> None:
    with pytest.raises(InvalidMeshMessage, match="for another process"):
        other.open(mine.close("a third", Wake()))


@pytest.mark.parametrize("age", [61, -61])
def test_a_message_that_was_kept_back_is_not_taken(
    mine: Seal, other: Seal, monkeypatch: pytest.MonkeyPatch, age: int
) -> None:
    text, now = mine.close(ALL, Wake()), mesh_messages.time.time()
    monkeypatch.setattr(mesh_messages.time, "time", lambda: now + age)
    with pytest.raises(InvalidMeshMessage, match=f"it is {age} s old"):
        other.open(text)


def test_the_key_of_the_seal_is_not_the_dispatchers(mine: Seal) -> None:
    """What is made with it is worth nothing anywhere else, and it does not show."""
    assert DISPATCHER.secret.hex() not in mine.close(ALL, Wake()) + repr(mine)
