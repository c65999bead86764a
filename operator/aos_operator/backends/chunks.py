"""What arrives of an answer, whichever server it is from, and what the whole of it shows. No I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from aos_operator.errors import WorkerRefused
from aos_protocol.fields import EvidenceLevel
from aos_protocol.job import MAX_LOGPROBS
from aos_protocol.messages import TokenLogprob

Finish: TypeAlias = Literal["eos", "stop", "length"]

MAX_TEXT_BYTES: Final = 1 << 20
"""How long an answer may be: a result has to fit into a frame."""

_LEAST_LOGPROB: Final = -9999.0
"""What stands for a probability of nothing, as in OpenAI's API."""

_LARGEST_ID: Final = 2**24


@dataclass(frozen=True)
class Chunk:
    """Some of an answer. `tokens` and `logprobs` are None where the server shows none; `ended` says why it is the last, where that is known.

    `counted` are the tokens that the server has made so far, which may be more than it has shown.
    """

    text: str = ""
    tokens: Sequence[int] | None = None
    logprobs: Sequence[TokenLogprob] | None = None
    ended: Finish | None = None
    prompt_tokens: int | None = None
    counted: int | None = None
    engine: str = ""


@dataclass
class Gathered:
    """All chunks of an answer so far. Tokens and logprobs are shown by it only if every chunk with text had them."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] | None = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = field(default_factory=list)
    ended: Finish | None = None
    prompt_tokens: int | None = None
    counted: int | None = None
    engine: str = ""
    _size: int = 0

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk. Raises `WorkerRefused` when that makes the answer too long, or its text cannot be sent."""
        self._size += len(chunk.text.encode())
        if self._size > MAX_TEXT_BYTES:
            raise WorkerRefused(
                f"the answer has more than {MAX_TEXT_BYTES} bytes: ask for less with max_tokens"
            )
        if "\0" in chunk.text:
            raise WorkerRefused("the answer holds U+0000, which cannot be stored")
        self.texts.append(chunk.text)
        self.tokens = _joined(self.tokens, chunk.tokens, chunk.text)
        self.logprobs = _joined(self.logprobs, chunk.logprobs, chunk.text)
        self.ended = chunk.ended or self.ended
        self.prompt_tokens = self.prompt_tokens if chunk.prompt_tokens is None else chunk.prompt_tokens
        self.counted = self.counted if chunk.counted is None else chunk.counted
        self.engine = chunk.engine or self.engine

    @property
    def level(self) -> EvidenceLevel:
        """How much it shows: token ids only if there are as many as the server says to have made, the one that ended it or not."""
        text = any(self.texts)
        ids, counted = self.tokens, self.counted
        if (
            ids is not None
            and counted is not None
            and len(ids) in {counted, counted - 1}
            and (ids or not text)
        ):
            return "token_ids"
        return "text" if self.logprobs is None or (text and not self.logprobs) else "logprobs"


def _joined(known: list[Any] | None, more: Sequence[Any] | None, text: str) -> list[Any] | None:
    if known is None or (more is None and text):
        return None
    return [*known, *more] if more else known


def token_ids(said: object) -> list[int] | None:
    """Read a list of token ids; None where there is none, or one of them is no id."""
    if not isinstance(said, list) or not all(type(one) is int and 0 <= one < _LARGEST_ID for one in said):
        return None
    return said


def count(said: object) -> int | None:
    """Read a number of tokens; None for what is none."""
    return said if type(said) is int and said >= 0 else None


def logprobs(said: object) -> list[TokenLogprob] | None:
    """Read logprobs in any of the forms that servers have; None for what is in none of them.

    Those of a chat: `{"content": [{"token", "logprob", "top_logprobs": [...]}]}`, of a completion: `{"tokens", "token_logprobs",
    "top_logprobs": [{token: logprob}]}`, and Ollama's and llama.cpp's: the list that is `content` in the first.
    """
    match said:
        case {"content": list(entries)}:
            return _all([_entry(entry) for entry in entries])
        case {"tokens": list(tokens), "token_logprobs": list(numbers), **others} if len(tokens) == len(
            numbers
        ):
            tops = others.get("top_logprobs")
            alike = tops if isinstance(tops, list) and len(tops) == len(tokens) else [{}] * len(tokens)
            return _all([_legacy(*one) for one in zip(tokens, numbers, alike, strict=True)])
        case list(entries):
            return _all([_entry(entry) for entry in entries])
        case _:
            return None


def _all(entries: list[TokenLogprob | None]) -> list[TokenLogprob] | None:
    whole = [entry for entry in entries if entry is not None]
    return whole if len(whole) == len(entries) else None


def _entry(said: object) -> TokenLogprob | None:
    match said:
        case {"token": str(token), "logprob": float() | int() as number, **others}:
            tops = others.get("top_logprobs")
            pairs = [
                (_clean(top["token"]), _clamped(top["logprob"]))
                for top in (tops if isinstance(tops, list) else [])
                if isinstance(top, dict)
                and isinstance(top.get("token"), str)
                and isinstance(top.get("logprob"), float | int)
            ]
            return TokenLogprob(token=_clean(token), logprob=_clamped(number), top=pairs[:MAX_LOGPROBS])
        case _:
            return None


def _legacy(token: object, number: object, tops: object) -> TokenLogprob | None:
    if not isinstance(token, str) or not isinstance(number, float | int):
        return None
    others = tops if isinstance(tops, dict) else {}
    pairs = [
        (_clean(other), _clamped(value)) for other, value in others.items() if isinstance(value, float | int)
    ]
    pairs.sort(key=lambda pair: -pair[1])
    return TokenLogprob(token=_clean(token), logprob=_clamped(number), top=pairs[:MAX_LOGPROBS])


def _clean(token: str) -> str:
    return token.replace("\0", "\ufffd")


def _clamped(number: float) -> float:
    """A logprob as a message can carry it: rounding can make it a little more than 0, and some servers say minus infinity in their own ways."""
    return min(0.0, max(_LEAST_LOGPROB, float(number))) if not math.isnan(number) else _LEAST_LOGPROB
