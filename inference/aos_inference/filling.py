"""What is before a gap and what is behind it as prompt tokens, by which a model fills the gap in.

The model's own tokens for that come first: its vocabulary names them. A model without them is told how by a template (`aos_protocol.fim`), of
whose markers those that are control tokens of the vocabulary are read as such. Texts of a job never are: they are tokenised as plain text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple, Protocol, TypeAlias

from aos_inference.errors import FillingRefused
from aos_protocol import fim
from aos_protocol.errors import InvalidTemplate

Filling: TypeAlias = Callable[[str, str], list[int]]
"""Makes prompt tokens of a prefix and a suffix, which may be empty."""

_CUSTOM: Final = "custom:"
_LEAD: Final = "\n"


class Gap(NamedTuple):
    """The tokens that stand before a prefix and before a suffix, and the one after which the model fills in."""

    prefix: int
    suffix: int
    middle: int


class Vocabulary(Protocol):
    """What filling in needs of `llama.Model`."""

    bos: int
    adds_bos: bool

    @property
    def gap(self) -> Gap | None:
        """The tokens by which the model fills in; None if it has none."""
        ...

    def special_tokens(self) -> Mapping[str, int]:
        """The control tokens by their text."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are mere text, without BOS."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...


def choose(vocabulary: Vocabulary, template: fim.FimTemplate | None) -> Filling | None:
    """How this model fills in: by its own tokens, else by a template; None if it cannot.

    Raises FillingRefused for a template where the model needs none: its verifiers would make other prompts of the same job.
    """
    if vocabulary.gap is not None:
        if template is not None:
            raise FillingRefused("The model has tokens of its own for filling in: leave --fim out.")
        return _Own(vocabulary, vocabulary.gap)
    return None if template is None else _ByTemplate(vocabulary, template)


def template(named: str | None) -> fim.FimTemplate | None:
    """The template that `--fim` names, as `NAME` or `custom:TEXT`. Raises FillingRefused for any other word."""
    if named is None:
        return None
    if named.startswith(_CUSTOM):
        try:
            return fim.custom(named.removeprefix(_CUSTOM))
        except InvalidTemplate as error:
            raise FillingRefused(f"--fim: {error}") from error
    if named not in fim.TEMPLATES:
        known = ", ".join(fim.TEMPLATES)
        raise FillingRefused(
            f"--fim: there is no template {named!r:.50}. Give one of {known}, or custom:TEXT."
        )
    return fim.TEMPLATES[named]


class _Own:
    """By the model's own tokens, prefix first: what all families with such tokens were trained with."""

    def __init__(self, vocabulary: Vocabulary, gap: Gap) -> None:
        self._vocabulary = vocabulary
        self._gap = gap

    def __call__(self, prefix: str, suffix: str) -> list[int]:
        vocabulary, gap = self._vocabulary, self._gap
        start = [vocabulary.bos] if vocabulary.adds_bos else []
        before, behind = vocabulary.tokenize(prefix), _inside(vocabulary, suffix)
        return [*start, gap.prefix, *before, gap.suffix, *behind, gap.middle]


class _ByTemplate:
    """By a template's texts, between which control tokens stand for themselves where the template wrote them."""

    def __init__(self, vocabulary: Vocabulary, template: fim.FimTemplate) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._special = {text: token for text, token in vocabulary.special_tokens().items() if text}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, prefix: str, suffix: str) -> list[int]:
        vocabulary = self._vocabulary
        tokens = [vocabulary.bos] if vocabulary.adds_bos else []
        pieces = [piece for part in self._template.parts(prefix, suffix) for piece in self._pieces(part)]
        # Texts that meet are one text, as the model was trained to see them: "<PRE> " goes on in the prefix.
        for special, run in groupby(pieces, key=lambda piece: isinstance(piece, int)):
            if special:
                tokens += [piece for piece in run if isinstance(piece, int)]
            else:
                tokens += _inside(vocabulary, "".join(str(piece) for piece in run))
        return tokens[1:] if tokens[:2] == [vocabulary.bos] * 2 else tokens

    def _pieces(self, part: fim.Part) -> Iterator[int | str]:
        """The control tokens and texts of a part: of a job's own text that is all text."""
        end = 0
        for match in self._pattern.finditer(part.text) if part.marker else ():
            if match.start() > end:
                yield part.text[end : match.start()]
            yield self._special[match.group()]
            end = match.end()
        if part.text[end:]:
            yield part.text[end:]


def _inside(vocabulary: Vocabulary, text: str) -> list[int]:
    """Tokens of a text that does not begin a prompt: without the space that some tokenisers put before a beginning, if they can do without."""
    tokens = vocabulary.tokenize(text)
    wanted = text.encode()
    if _spelt(vocabulary, tokens) == wanted:
        return tokens
    after_lead = vocabulary.tokenize(_LEAD + text)[len(vocabulary.tokenize(_LEAD)) :]
    return after_lead if _spelt(vocabulary, after_lead) == wanted else tokens


def _spelt(vocabulary: Vocabulary, tokens: list[int]) -> bytes:
    return b"".join(map(vocabulary.piece, tokens))
