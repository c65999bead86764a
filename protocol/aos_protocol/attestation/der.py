"""DER (X.690), read so strictly that each value has one form: what certificates are made of.

Own code, because certificates are read here that x509 of `cryptography` is about to refuse: AMD numbers its chip certificates 0.
"""

from typing import Final, NamedTuple

from aos_protocol.errors import InvalidAttestation

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT: Final = 0x06
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
_MOST_LENGTH_BYTES: Final = 3


class Element(NamedTuple):
    """One value: its tag, its content, and `whole`, the encoding of both."""

    tag: int
    content: bytes
    whole: bytes


def elements(data: bytes) -> list[Element]:
    """Return the values that `data` is made of, one after the other. Raises `InvalidAttestation`."""
    found: list[Element] = []
    place = 0
    while place < len(data):
        start, end = _bounds(data, place)
        found.append(Element(data[place], data[start:end], data[place:end]))
        place = end
    return found


def element(data: bytes, tag: int) -> Element:
    """Return the one value that `data` is, of this tag. Raises `InvalidAttestation`."""
    found = elements(data)
    if len(found) != 1 or found[0].tag != tag:
        raise InvalidAttestation(f"where one DER value of tag {tag:#04x} must be, there is something else")
    return found[0]


def sequence(data: bytes, *tags: int) -> list[Element]:
    """Return what a SEQUENCE holds, which must have exactly these tags. Raises `InvalidAttestation`."""
    inside = elements(element(data, SEQUENCE).content)
    if [each.tag for each in inside] != list(tags):
        said = " ".join(f"{each.tag:02x}" for each in inside)
        raise InvalidAttestation(f"a DER SEQUENCE holds tags {said or 'none'}, not {bytes(tags).hex(' ')}")
    return inside


def unsigned(data: bytes) -> int:
    """Return the INTEGER that `data` is, which must not be negative. Raises `InvalidAttestation`."""
    content = element(data, INTEGER).content
    padded = len(content) > 1 and content[0] == 0 and content[1] < 0x80
    if not content or content[0] >= 0x80 or padded:
        raise InvalidAttestation("a DER INTEGER is negative, or longer than it must be")
    return int.from_bytes(content, "big")


def boolean(data: bytes) -> bool:
    """Return the BOOLEAN that `data` is. Raises `InvalidAttestation`."""
    content = element(data, BOOLEAN).content
    if content not in {b"\x00", b"\xff"}:
        raise InvalidAttestation("a DER BOOLEAN is neither 00 nor ff")
    return content == b"\xff"


def _bounds(data: bytes, place: int) -> tuple[int, int]:
    """Return where the content of the value at this place begins and ends."""
    if len(data) < place + 2:
        raise InvalidAttestation("DER breaks off within a tag or a length")
    if data[place] & 0x1F == 0x1F:
        raise InvalidAttestation("a DER tag has more than one byte")
    start, length = place + 2, data[place + 1]
    if length >= 0x80:
        coded = data[start : start + length - 0x80]
        start += length - 0x80
        length = int.from_bytes(coded, "big")
        if not 1 <= len(coded) <= _MOST_LENGTH_BYTES or coded[0] == 0 or length < 0x80:
            raise InvalidAttestation("a DER length is indefinite, too great, or longer than it must be")
    if start + length > len(data):
        raise InvalidAttestation(f"DER announces {length} bytes, and {max(len(data) - start, 0)} follow")
    return start, start + length
