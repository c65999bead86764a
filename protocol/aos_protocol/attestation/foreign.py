"""What other libraries and strangers say, made fit for our own error messages."""

from typing import Final

_MOST: Final = 200


def printable(said: object) -> str:
    """Return the text of an error or a stranger's value on one line: spaces made single, nothing unprintable, at most 200 characters."""
    return repr(" ".join(str(said).split()))[1:-1][:_MOST]
