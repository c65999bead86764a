"""A stand-in for a model, for tests: quick, without llama.cpp, and strict about how it is driven."""

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aos_inference.filling import Gap

_NEVER: Final = -1000.0
"""A logit that is never drawn, and finite, so that it has a fingerprint."""
_SPECIAL: Final = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


class Misdriven(Exception):
    """The engine fed tokens to the stand-in that do not continue the slot's sequence; the test has found a bug."""


class ByteModel:
    """Vocabulary and backend in one: tokens 0 to 255 are bytes, then four control tokens.

    The logits after a sequence are a fixed random function of all its tokens, so a token in the wrong slot or at the
    wrong position changes every token after it. `open` holds the thread while cleared; `failure` is raised once set;
    an `endless` model never draws an end token. `batches` tells the rows of each slot in each batch; `cells` bounds
    the tokens that all slots hold together; a test may set `trims` to False, and `gap` to tokens by which it fills in.
    """

    vocabulary: Final = 256 + len(_SPECIAL)
    bos = 256
    eos = 257
    adds_bos = True
    trims = True
    gap: Gap | None = None

    def __init__(self, *, sharpness: float = 3.0, endless: bool = False, cells: int | None = None) -> None:
        self.open = threading.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.batches: list[Counter[int]] = []
        self._cells = cells
        self._sharpness = sharpness
        self._endless = endless
        self._cache: dict[int, list[int]] = {}

    @property
    def fed(self) -> int:
        """Rows of all batches."""
        return sum(batch.total() for batch in self.batches)

    def special_tokens(self) -> Mapping[str, int]:
        """The control tokens by their text."""
        return {text: 256 + index for index, text in enumerate(_SPECIAL)}

    def token_text(self, token: int) -> str:
        """The text of a control token; bytes have none."""
        return _SPECIAL[token - 256] if token >= 256 else ""

    def tokenize(self, text: str) -> list[int]:
        """One token a byte."""
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        """The byte; nothing for control tokens."""
        return bytes([token]) if token < 256 else b""

    def ends(self, token: int) -> bool:
        """Whether the token is `</s>` or `<|im_end|>`."""
        return token in {257, 259}

    def keep(self, slot: int, length: int) -> None:
        """As `engine.Backend`. Raises Misdriven for more than the slot holds."""
        sequence = self._cache.setdefault(slot, [])
        if length > len(sequence) or (0 < length < len(sequence) and not self.trims):
            raise Misdriven(
                f"slot {slot}, which holds {len(sequence)} tokens, cannot be cut back to {length}"
            )
        del sequence[length:]

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> NDArray[np.float32]:
        """As `engine.Backend`. Raises Misdriven for a row that does not continue its slot's sequence."""
        self.batches.append(Counter(row[0] for row in rows))
        self.open.wait()
        if self.failure is not None:
            raise self.failure
        logits = []
        for slot, token, position, wanted in rows:
            sequence = self._cache[slot]
            if position != len(sequence):
                raise Misdriven(f"token for slot {slot} at {position}, which holds {len(sequence)} tokens")
            sequence.append(token)
            if wanted:
                logits.append(self._logits(sequence))
        if self._cells is not None and sum(map(len, self._cache.values())) > self._cells:
            raise Misdriven(f"the slots hold more than {self._cells} tokens")
        return np.stack(logits) if logits else np.empty((0, self.vocabulary), np.float32)

    def _logits(self, sequence: list[int]) -> NDArray[np.float32]:
        seed = hashlib.blake2b(repr(sequence).encode(), digest_size=8).digest()
        random = np.random.default_rng(int.from_bytes(seed, "little"))
        logits = (random.standard_normal(self.vocabulary) * self._sharpness).astype(np.float32)
        if self._endless:
            logits[[token for token in range(256, self.vocabulary) if self.ends(token)]] = _NEVER
        return logits
