"""Pictures for tests: real PNGs, and the headers of other kinds."""

import struct
import zlib


def png(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 90)) -> bytes:
    """A PNG of one colour, eight bits a channel (W3C PNG, section 11)."""
    row = b"\0" + bytes(colour) * width
    pixels = zlib.compressobj(1)
    data = b"".join([*(pixels.compress(row) for _ in range(height)), pixels.flush()])
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def large_png(width: int, height: int, size: int) -> bytes:
    """A PNG of just so many bytes, most of them in a text that nobody looks at."""
    bare = png(width, height)
    return bare[:-12] + _chunk(b"tEXt", b"x\0".ljust(size - len(bare) - 12, b".")) + bare[-12:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(width: int, height: int, *, before: bytes = b"") -> bytes:
    """The header of a JPEG, up to its frame's size; `before` are further segments."""
    start = b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\1\1\0\0\1\0\1\0\0"
    return start + before + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def _riff(chunk: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_lossy(width: int, height: int) -> bytes:
    return _riff(
        b"VP8 " + struct.pack("<I", 10) + bytes(3) + struct.pack("<3sHH", b"\x9d\x01\x2a", width, height)
    )


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return _riff(b"VP8L" + struct.pack("<IBI", 5, 0x2F, bits))


def webp_extended(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _riff(b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides)
