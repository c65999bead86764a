"""The proxy finds where frames end, however they arrive."""

from hypothesis import given
from hypothesis import strategies as st

from support.tcp_proxy import WebSocketParts

HEAD = b"GET /ws HTTP/1.1\r\nHost: here\r\n\r\n"


def frame(payload: bytes, mask: bytes) -> bytes:
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        length = bytes([masked + size])
    elif size < 65_536:
        length = bytes([masked + 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([masked + 127]) + size.to_bytes(8, "big")
    return b"\x81" + length + mask + payload


sizes = st.sampled_from([0, 1, 125, 126, 300, 65_535, 65_536])
frames = st.builds(lambda size, mask: frame(b"x" * size, mask), sizes, st.sampled_from([b"", b"abcd"]))


@given(st.lists(frames, max_size=4), st.integers(1, 70_000), st.sampled_from([b"", b"\x81"]))
def test_parts_are_head_and_frames(sent: list[bytes], step: int, rest: bytes) -> None:
    stream = b"".join([HEAD, *sent, rest])
    parts = WebSocketParts()
    found = [part for at in range(0, len(stream), step) for part in parts.feed(stream[at : at + step])]
    assert found == [HEAD, *sent]
    assert parts.rest == rest
