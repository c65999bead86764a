"""What strangers say stays on one line, printable and short."""

from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation.foreign import printable


@given(st.text())
def test_text_becomes_one_short_printable_line(text: str) -> None:
    said = printable(text)
    assert said.isprintable()
    assert len(said) <= 200


def test_what_is_readable_stays_readable() -> None:
    assert printable(ValueError("failed:\n  caused by x")) == "failed: caused by x"
    assert printable("\x1b[2J\u202eé") == r"\x1b[2J\u202eé"
    assert printable("x" * 300) == "x" * 200
