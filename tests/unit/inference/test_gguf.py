import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aos_inference import gguf
from aos_inference.errors import ModelUnreadable


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


METADATA = [
    ("general.architecture", 8, string("llama")),
    ("general.alignment", 4, struct.pack("<I", 64)),
    ("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)),
    ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + string("a") + string("bc")),
    ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3) + bytes(12)),
    ("tokenizer.ggml.add_bos_token", 7, b"\x01"),
]
TENSORS: list[tuple[str, tuple[int, ...], int, int]] = [
    ("token_embd.weight", (32, 4), 8, 0),
    ("output.weight", (32, 4), 1, 192),
]  # Q8_0: 136 bytes, F16: 256


def build(
    magic: bytes = b"GGUF",
    version: int = 3,
    metadata: list[tuple[str, int, bytes]] = METADATA,
    tensors: list[tuple[str, tuple[int, ...], int, int]] = TENSORS,
    data: int = 192 + 256,
    alignment: int = 64,
) -> bytes:
    """A GGUF file, from the format's specification."""
    out = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, value in metadata:
        out += string(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in tensors:
        out += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out + bytes(-len(out) % alignment) + bytes(data)


@pytest.fixture
def check(tmp_path: Path) -> Callable[[bytes], gguf.Header]:
    def write_and_check(content: bytes) -> gguf.Header:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return gguf.check(path)

    return write_and_check


def test_a_good_file(check: Callable[[bytes], gguf.Header]) -> None:
    content = build()
    header = check(content)
    assert header.metadata == {
        "general.architecture": "llama",
        "general.alignment": 64,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_bos_token": True,
    }
    assert header.tensors == 2
    assert header.least_size == len(content)


@pytest.mark.parametrize("missing", [1, 255, 256, 448, 500, 700])
def test_a_truncated_file(check: Callable[[bytes], gguf.Header], missing: int) -> None:
    with pytest.raises(ModelUnreadable, match=r"truncated.*Download it again"):
        check(build()[:-missing])


def test_a_type_from_the_future_passes(check: Callable[[bytes], gguf.Header]) -> None:
    assert check(build(tensors=[("x", (32,), 999, 0)])).tensors == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"magic": b"PK\x03\x04"}, "no GGUF file"),
        ({"version": 1}, "version 1"),
        ({"version": 0x03000000}, "big-endian"),
        ({"tensors": []}, "no tensors"),
        ({"metadata": [("split.count", 2, struct.pack("<H", 3))]}, "one part of 3.*llama-gguf-split"),
        ({"metadata": [("x", 99, b"")]}, "unknown type 99"),
        ({"metadata": [("x", 9, struct.pack("<IQ", 9, 1))]}, "unknown type 9"),
        ({"metadata": [("general.alignment", 4, struct.pack("<I", 0))]}, "alignment of 0"),
        ({"metadata": [("general.alignment", 5, struct.pack("<i", -32))]}, "alignment of -32"),
        ({"metadata": [("general.alignment", 6, struct.pack("<f", float("nan")))]}, "alignment of nan"),
        ({"metadata": [("general.alignment", 7, b"\x01")]}, "alignment of True"),
        ({"metadata": [("general.alignment", 8, string("none"))]}, "alignment of 'none'"),
        ({"metadata": [("x", 9, struct.pack("<IQ", 0, 2**63))]}, "truncated"),
        ({"tensors": [("x", (2**63, 2**63), 0, 0)]}, "truncated"),
    ],
)
def test_what_cannot_be_served(
    check: Callable[[bytes], gguf.Header], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelUnreadable, match=said):
        check(build(**change))


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF"])
def test_hardly_anything(check: Callable[[bytes], gguf.Header], content: bytes) -> None:
    with pytest.raises(ModelUnreadable):
        check(content)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match=r"Cannot open .*No such file.*--model"):
        gguf.check(tmp_path / "absent.gguf")
    with pytest.raises(ModelUnreadable, match=r"Cannot open .*directory"):
        gguf.check(tmp_path)


@settings(max_examples=300)
@given(st.integers(0, 250), st.binary(min_size=1, max_size=12))
def test_damage_is_refused_or_read_but_nothing_else(tmp_path_factory: Any, place: int, damage: bytes) -> None:
    content = bytearray(build())
    content[place : place + len(damage)] = damage
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(content)
    try:
        least_size = gguf.check(path).least_size
    except ModelUnreadable:
        least_size = 0
    assert least_size <= len(content)
