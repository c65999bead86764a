"""DER: what it reads is what was written, and nothing has a second form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import der
from aos_protocol.errors import InvalidAttestation

TAGS = st.integers(0, 255).filter(lambda tag: tag & 0x1F != 0x1F)
VALUES = st.lists(st.tuples(TAGS, st.binary(max_size=40) | st.binary(min_size=126, max_size=300)), max_size=5)


def encoded(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    coded = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(coded)]) + coded + content


@given(VALUES)
def test_values_are_read_as_they_were_written(values: list[tuple[int, bytes]]) -> None:
    whole = [encoded(tag, content) for tag, content in values]
    found = der.elements(b"".join(whole))
    assert [(each.tag, each.content) for each in found] == values
    assert [each.whole for each in found] == whole


@given(VALUES.filter(bool), st.data())
def test_nothing_may_be_cut_off(values: list[tuple[int, bytes]], data: st.DataObject) -> None:
    last = encoded(*values[-1])
    cut = data.draw(st.integers(1, len(last) - 1))
    with pytest.raises(InvalidAttestation):
        der.elements(b"".join(encoded(*each) for each in values[:-1]) + last[:cut])


@given(st.binary(max_size=100))
def test_what_is_read_has_this_one_encoding(data: bytes) -> None:
    try:
        found = der.elements(data)
    except InvalidAttestation:
        return
    assert b"".join(encoded(each.tag, each.content) for each in found) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("30", "breaks off within a tag or a length"),
        ("3080", "a DER length is indefinite"),
        ("30800000", "a DER length is indefinite"),
        ("308100", "longer than it must be"),
        ("30817f" + "00" * 127, "longer than it must be"),
        ("30820080" + "00" * 128, "longer than it must be"),
        ("3084ffffffff", "too great"),
        ("30ff" + "ff" * 130, "too great"),
        ("3083ffffff00", "announces 16777215 bytes, and 1 follow"),
        ("3082", "a DER length is indefinite, too great"),
        ("300200", "announces 2 bytes, and 1 follow"),
        ("1f8100", "more than one byte"),
    ],
)
def test_other_forms_are_refused(data: str, reason: str) -> None:
    with pytest.raises(InvalidAttestation, match=reason):
        der.elements(bytes.fromhex(data))


def test_one_value_means_one_value_of_its_tag() -> None:
    assert der.element(b"\x04\x01a", der.OCTET_STRING).content == b"a"
    for data in (b"", b"\x04\x01a\x04\x01b", b"\x02\x01\x01"):
        with pytest.raises(InvalidAttestation, match="there is something else"):
            der.element(data, der.OCTET_STRING)


def test_a_sequence_has_exactly_the_tags_asked_for() -> None:
    inside = b"\x02\x01\x05\x01\x01\xff"
    number, flag = der.sequence(encoded(0x30, inside), der.INTEGER, der.BOOLEAN)
    assert (der.unsigned(number.whole), der.boolean(flag.whole)) == (5, True)
    for tags in ((der.INTEGER,), (der.BOOLEAN, der.INTEGER), (der.INTEGER, der.BOOLEAN, der.BOOLEAN), ()):
        with pytest.raises(InvalidAttestation, match="holds tags 02 01, not"):
            der.sequence(encoded(0x30, inside), *tags)


@given(st.integers(0, 2**200))
def test_whole_numbers_are_read(number: int) -> None:
    content = number.to_bytes(number.bit_length() // 8 + 1, "big")
    assert der.unsigned(encoded(der.INTEGER, content)) == number
    with pytest.raises(InvalidAttestation):
        der.unsigned(encoded(der.INTEGER, b"\x00" + content))


@pytest.mark.parametrize("data", ["0200", "0201ff", "02020001", "020180"])
def test_negative_and_padded_numbers_are_refused(data: str) -> None:
    with pytest.raises(InvalidAttestation, match="negative, or longer than it must be"):
        der.unsigned(bytes.fromhex(data))


@pytest.mark.parametrize("content", ["", "01", "fe", "ffff"])
def test_booleans_are_zero_or_all_ones(content: str) -> None:
    with pytest.raises(InvalidAttestation, match="neither 00 nor ff"):
        der.boolean(encoded(der.BOOLEAN, bytes.fromhex(content)))
    assert der.boolean(b"\x01\x01\x00") is False
