"""From token pieces to text: UTF-8 that crosses tokens, and stop sequences that cross them too."""

import codecs
from collections.abc import Sequence


class StopScanner:
    """Cuts a text before the first stop sequence to be completed, however the text is split.

    Text that may still turn out to be the beginning of a stop sequence is held back. Where several sequences end
    on the same character the longest wins, so that the cut depends on the text alone and not on how it was split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take more text and return what may be shown. Once `stopped` is set everything after is dropped."""
        if self.stopped:
            return ""
        pending = self._held + text
        found = self._first_completed(pending)
        if found is not None:
            self.stopped, self._held = True, ""
            return pending[:found]
        keep = self._held_back(pending)
        shown, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back, now that no text follows; empty after a stop."""
        held, self._held = self._held, ""
        return held

    def _first_completed(self, text: str) -> int | None:
        """Where the sequence that is completed first begins; None when none is complete."""
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        return min(ends)[1] if ends else None

    def _held_back(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop sequence."""
        longest = max(map(len, self._stops), default=0) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class TextStream:
    """The text of one output, fed with the bytes of each token.

    Bytes are decoded as they become whole characters; what can never become one turns into U+FFFD, as Python's
    decoder replaces it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence has appeared."""
        return self._scanner.stopped

    def feed(self, piece: bytes) -> str:
        """Take the bytes of one token; return the text that they settle, possibly none."""
        return self._scanner.feed(self._decoder.decode(piece))

    def finish(self) -> str:
        """The text still owed when the output ends: an unfinished character as U+FFFD, then what was held back."""
        return self._scanner.feed(self._decoder.decode(b"", final=True)) + self._scanner.finish()
