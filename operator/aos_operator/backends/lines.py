"""What servers stream, without I/O: bytes into lines, lines into server-sent events."""

from collections.abc import Iterator
from typing import Final

from aos_operator.errors import WorkerRefused

MAX_LINE_BYTES: Final = 1 << 20
"""A line that is longer is no piece of an answer: all of an answer is shorter."""


class Lines:
    """Splits what arrives in pieces at line feeds, as UTF-8. Raises `WorkerRefused` for a line that is too long or no UTF-8."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, part: bytes) -> Iterator[str]:
        """Yield the lines that are complete with these bytes, without `\\n` and `\\r\\n`."""
        *whole, rest = part.split(b"\n")
        for piece in whole:
            self._rest += piece
            line = bytes(self._rest)
            self._rest.clear()
            yield _text(line)
        self._rest += rest
        _check_length(len(self._rest))

    def end(self) -> Iterator[str]:
        """Yield the last line, if there is one without an end."""
        if self._rest:
            yield _text(bytes(self._rest))
            self._rest.clear()


class Events:
    """Collects the `data` of server-sent events from their lines (WHATWG HTML, 9.2.6); names, ids and comments are passed over."""

    def __init__(self) -> None:
        self._data: list[str] = []
        self._size = 0

    def feed(self, line: str) -> str | None:
        """Take one line; return the data of the event that it ends, if it ends one that has any."""
        if not line:
            data, self._data, self._size = self._data, [], 0
            return "\n".join(data) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._size += len(value)
            _check_length(self._size)
            self._data.append(value.removeprefix(" "))
        return None


def _check_length(length: int) -> None:
    if length > MAX_LINE_BYTES:
        raise WorkerRefused(f"the server sent a line of more than {MAX_LINE_BYTES} bytes: that is no answer")


def _text(line: bytes) -> str:
    _check_length(len(line))
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise WorkerRefused("the server sent what is not UTF-8") from error
