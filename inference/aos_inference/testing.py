"""A stand-in for a model, for tests: quick, without llama.cpp, and strict about how it is driven."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NEVER: Final = -1000.0
"""A logit that is never drawn, and finite, so that it has a fingerprint."""
_SPECIAL: Final = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


class Misdriven(Exception):
    """The engine fed tokens to the stand-in that do not continue the slot's sequence; the test has found a bug."""


class ByteModel:
    """Vocabulary and backend in one: tokens 0 to 255 are bytes, then four control tokens.

    The logits after a sequence are a fixed random function of all its tokens, so a token in the wrong slot or at the
    wrong position changes every token after it. `open` holds the thread while cleared; `failure` is raised once set;
    an `endless` model never draws an end token. `fed` counts rows; a test may set `trims` to False.
    """

    vocabulary: Final = 256 + len(_SPECIAL)
    bos: Final = 256
    eos: Final = 257
    adds_bos: Final = True
    trims = True

    def __init__(self, *, sharpness: float = 3.0, endless: bool = False) -> None:
        self.open = threading.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.calls = 0
        self.fed = 0
        self._sharpness = sharpness
        self._endless = endless
        self._cache: dict[int, list[int]] = {}

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
        self._enter()
        self.fed += len(rows)
        logits = []
        for slot, token, position, wanted in rows:
            sequence = self._cache[slot]
            if position != len(sequence):
                raise Misdriven(f"token for slot {slot} at {position}, which holds {len(sequence)} tokens")
            sequence.append(token)
            if wanted:
                logits.append(self._logits(sequence))
        return np.stack(logits) if logits else np.empty((0, self.vocabulary), np.float32)

    def _enter(self) -> None:
        self.calls += 1
        self.open.wait()
        if self.failure is not None:
            raise self.failure

    def _logits(self, sequence: list[int]) -> NDArray[np.float32]:
        seed = hashlib.blake2b(repr(sequence).encode(), digest_size=8).digest()
        random = np.random.default_rng(int.from_bytes(seed, "little"))
        logits = (random.standard_normal(self.vocabulary) * self._sharpness).astype(np.float32)
        if self._endless:
            logits[[token for token in range(256, self.vocabulary) if self.ends(token)]] = _NEVER
        return logits
