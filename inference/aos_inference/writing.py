"""What an output's tokens say and where they end: generation writes by this, and a verifier holds an answer against it."""

from collections.abc import Sequence
from typing import Protocol

from aos_inference.text import TextStream
from aos_protocol.transcript import FinishReason, Params


class Vocabulary(Protocol):
    """What tokens mean: `llama.Model`, or a stand-in for tests."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...


class Writing:
    """The text of one output, to a prompt of `prompt` tokens in a context of `context`."""

    def __init__(self, vocabulary: Vocabulary, params: Params, prompt: int, context: int) -> None:
        self._vocabulary = vocabulary
        self._most = min(params.max_tokens, context - prompt)
        self._text = TextStream(params.stop)
        self._count = 0

    def add(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that the next token settles, and why the output ends with it, if it does."""
        self._count += 1
        if self._vocabulary.ends(token):
            return self._text.finish(), "eos"
        text = self._text.feed(self._vocabulary.piece(token))
        if self._text.stopped:
            return text, "stop"
        if self._count >= self._most:
            return text + self._text.finish(), "length"
        return text, None

    def spelt(self, tokens: Sequence[int]) -> str:
        """The text of all tokens up to a stop text, wherever they end: end tokens have none."""
        texts = [self._text.feed(self._vocabulary.piece(token)) for token in tokens]
        return "".join([*texts, self._text.finish()])

    def whole(self, tokens: Sequence[int]) -> tuple[str, FinishReason | None]:
        """The text of all tokens, and why they end; no reason if they end too early, or go on after an end."""
        texts: list[str] = []
        finish: FinishReason | None = None
        for token in tokens:
            if finish is not None:
                return "".join(texts), None
            text, finish = self.add(token)
            texts.append(text)
        return "".join(texts), finish
