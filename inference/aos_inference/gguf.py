"""A first look at a GGUF file: enough to refuse a wrong or truncated one before llama.cpp maps it.

The format: magic, version, tensor and metadata counts; then typed metadata; then one entry a tensor (name, shape,
type, offset); then, aligned, the tensors' data. Specification: docs/gguf.md of the ggml project.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from aos_inference.errors import ModelUnreadable

Scalar: TypeAlias = int | float | bool | str

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
# Bytes a block of each ggml type, by the elements a block holds. A type that is not here counts as no bytes: it passes.
_PLAIN: Final = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
_BLOCKS_OF_32: Final = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 40, 20: 18, 39: 17}
_BLOCKS_OF_256: Final = {
    10: 84,
    11: 110,
    12: 144,
    13: 176,
    14: 210,
    15: 292,
    16: 66,
    17: 74,
    18: 98,
    19: 50,
    21: 110,
    22: 82,
    23: 136,
    29: 56,
    34: 54,
    35: 66,
}
_BLOCKS: Final = {
    kind: (elements, size)
    for elements, kinds in ((1, _PLAIN), (32, _BLOCKS_OF_32), (256, _BLOCKS_OF_256))
    for kind, size in kinds.items()
}


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself: scalar and string metadata (arrays are skipped) and its least size."""

    metadata: dict[str, Scalar]
    tensors: int
    least_size: int


def check(path: Path) -> Header:
    """Read the header of a model file and see that all tensor data is there.

    Raises ModelUnreadable for a file that is missing, no GGUF, of another byte order or version, truncated, one part
    of a split model, or without tensors.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size < len(_MAGIC):
                raise ModelUnreadable(f"{path} is no GGUF file: it is too short. Download it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _read(data, path)
    except OSError as error:
        raise ModelUnreadable(f"Cannot open {path}: {error.strerror}. Check --model.") from error
    return header


def _read(data: mmap.mmap, path: Path) -> Header:
    cursor = _Cursor(data, path)
    _check_prefix(cursor)
    tensors, entries = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Scalar] = {}
    for _ in range(entries):
        key = cursor.text()
        value = cursor.value(cursor.number("<I"))
        if value is not None:
            metadata[key] = value
    parts = metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ModelUnreadable(
            f"{path} is one part of {parts}: its digest would not cover the others. Merge them with llama-gguf-split."
        )
    if not tensors:
        raise ModelUnreadable(
            f"{path} holds no tensors: it is a vocabulary, not a model. Choose another file."
        )
    needed = _data_end(cursor, tensors, metadata.get("general.alignment", 32))
    if needed > len(data):
        raise ModelUnreadable(
            f"{path} is truncated: its tensors need {needed:,} bytes, it has {len(data):,}. Download it again."
        )
    return Header(metadata, tensors, needed)


def _check_prefix(cursor: "_Cursor") -> None:
    path = cursor.path
    if cursor.take(len(_MAGIC)) != _MAGIC:
        raise ModelUnreadable(
            f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}. Check --model."
        )
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise ModelUnreadable(
            f"{path} is GGUF version {version} (or big-endian); versions {_VERSIONS} can be read. Convert it again."
        )


def _data_end(cursor: "_Cursor", tensors: int, alignment: Scalar) -> int:
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment <= 0:
        raise ModelUnreadable(
            f"{cursor.path} states an alignment of {alignment!r:.50}: it is damaged. Download it again."
        )
    ends = []
    for _ in range(tensors):
        cursor.text()
        elements = 1
        for _ in range(cursor.number("<I")):
            elements *= cursor.number("<Q")
        block, size = _BLOCKS.get(cursor.number("<I"), (1, 0))
        ends.append(cursor.number("<Q") + -(-elements // block) * size)
    return -(-cursor.offset // alignment) * alignment + max(ends)


class _Cursor:
    """Reads forward through the file; running past its end means that it is truncated."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self.path = path
        self.offset = 0

    def take(self, size: int) -> bytes:
        start = self.offset
        self._skip(size)
        return self._data[start : self.offset]

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Scalar | None:
        """One metadata value; arrays are passed over."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            self._pass_array()
            return None
        scalar: Scalar = self._scalar(kind).unpack(self.take(self._scalar(kind).size))[0]
        return scalar

    def _pass_array(self) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self.number("<Q"))
        else:
            self._skip(count * self._scalar(kind).size)

    def _scalar(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise ModelUnreadable(
                f"{self.path} holds metadata of unknown type {kind}: it is damaged. Download it again."
            )
        return _SCALARS[kind]

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self.offset:
            raise ModelUnreadable(
                f"{self.path} is truncated: its header goes on after byte {len(self._data):,}. Download it again."
            )
        self.offset += size
